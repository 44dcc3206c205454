"""The pruning report: units, parameters and MACs of each layer, before and after."""

import numpy as np
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
        One row for each linear layer and one for the total; before them, where inputs are prunable, one
        for the encoded inputs. Columns: units (outputs of the layer; the total counts hidden units only),
        parameters (weights and biases) and macs (multiplications of one row in the linear layers), each
        before and after, and the sparsity, the share removed by the chain's measure (NaN for inputs,
        which are counted with the layer that reads them). The encoding has no trainable parameter and is
        not counted.
    """

    def columns(chain: Chain) -> dict[str, list[int]]:
        parameters, macs = chain.layer_parameters(), chain.layer_macs()
        table = {
            "units": [*chain.sizes, chain.n_outputs, sum(chain.sizes)],
            "parameters": [*parameters, sum(parameters)],
            "macs": [*macs, sum(macs)],
        }
        if chain.prune_inputs:
            inputs = {"units": chain.n_inputs, "parameters": 0, "macs": 0}
            table = {name: [inputs[name], *values] for name, values in table.items()}
        return table

    before, after = columns(dense), columns(small)
    layers = ["input"] if dense.prune_inputs else []
    layers += [f"hidden {i + 1}" for i in range(len(dense.sizes))]
    table = pd.DataFrame(
        {
            f"{name}_{when}": values[name]
            for name in before
            for when, values in (("before", before), ("after", after))
        },
        index=pd.Index([*layers, "output", "total"], name="layer"),
    )
    table["sparsity"] = 1 - table[f"{dense.measure}_after"] / table[f"{dense.measure}_before"]
    if dense.prune_inputs:
        table.loc["input", "sparsity"] = np.nan
    return table
