"""The pruning report: units, parameters and MACs of each layer, before and after."""

import pandas as pd

from skfairprune.pruning.budget import Chain

__all__ = ["pruning_report"]


def pruning_report(dense: Chain, small: Chain) -> pd.DataFrame:
    """Tabulate what was removed.

    Parameters
    ----------
    dense, small : Chain
        The widths before and after.

    Returns
    -------
    DataFrame
        One row for each linear layer and one for the total. Columns: units (outputs of the layer; the
        total counts hidden units only), parameters (weights and biases) and macs (multiplications of one
        row in the linear layers), each before and after, and the sparsity, the share of the parameters
        removed. The encoding has no trainable parameter and is not counted.
    """

    def columns(chain: Chain) -> dict[str, list[int]]:
        units = [*chain.sizes, chain.n_outputs]
        parameters = chain.layer_parameters()
        return {
            "units": [*units, sum(chain.sizes)],
            "parameters": [*parameters, sum(parameters)],
            "macs": [
                *(p - u for p, u in zip(parameters, units, strict=True)),
                sum(parameters) - sum(units),
            ],
        }

    before, after = columns(dense), columns(small)
    hidden = [f"hidden {i + 1}" for i in range(len(dense.sizes))]
    table = pd.DataFrame(
        {
            f"{name}_{when}": values[name]
            for name in before
            for when, values in (("before", before), ("after", after))
        },
        index=pd.Index([*hidden, "output", "total"], name="layer"),
    )
    table["sparsity"] = 1 - table["parameters_after"] / table["parameters_before"]
    return table
