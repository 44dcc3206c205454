"""The pruning report: units, parameters and MACs of each layer, before and after."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import nn
from torch.nn.modules.conv import _ConvNd

from skfairprune.pruning.budget import Chain, Layout
from skfairprune.pruning.layout import NetworkLayout
from skfairprune.pruning.structure import Structure
from skfairprune.pruning.weights import WeightLayout, WeightStructure

__all__ = ["network_report", "pruning_report", "removal_report", "weight_report"]

_FREE = "(free parameters)"
_ZEROS = "zeros are stored: less memory and time only by compression or kernels that skip them"
_PATTERN = (
    "at most {} of {} consecutive weights of an output are there (2 of 4: sparse tensor cores skip the rest)"
)
_WHOLE = "keeps all weights: called more than once or never, or its weights are shared or not trained"


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


def network_report(
    network: nn.Module,
    dense: NetworkLayout,
    small: NetworkLayout,
    names: Sequence[str],
    left_out: dict[str, str],
) -> pd.DataFrame:
    """Tabulate what was removed of any network.

    Parameters
    ----------
    network : nn.Module
        The dense network.
    dense, small : NetworkLayout
        The widths before and after.
    names : sequence of str
        The layers of units.
    left_out : dict of str
        By the path of the layers whose outputs stay whole: why.

    Returns
    -------
    DataFrame
        One row for each module with weights, by its path; then "total", of the modules that lose something,
        and "network", of all. Columns as in :func:`pruning_report` (units are the outputs of a module, in
        the last two rows the units of all layers: neurons, channels, heads), unit_layer, with whose units
        the outputs leave, and note, why a module keeps all outputs. The multiplications of modules that lose
        nothing are not counted: NaN.
    """
    modules = {module.path: module for module in dense.modules}
    rows: dict[str, list[float]] = {}
    counted_once: set[nn.Parameter] = set()
    for path, module in network.named_modules():
        fresh = [parameter for parameter in module.parameters(recurse=False) if parameter not in counted_once]
        counted_once.update(fresh)
        own = sum(parameter.numel() for parameter in fresh)
        if path in modules:
            cost = modules[path]
            units = [cost.n_outputs(layout.sizes) for layout in (dense, small)]
            counts = [
                layout.count(cost, kind) for kind in ("parameters", "macs") for layout in (dense, small)
            ]
            rows[path] = [*units, *counts]
        elif own:
            rows[path or _FREE] = [np.nan, np.nan, own, own, np.nan, np.nan]
    columns = [f"{name}_{when}" for name in ("units", "parameters", "macs") for when in ("before", "after")]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    made = {module.path: names[module.makes[0][0]] for module in dense.modules if module.makes}
    counted = table.loc[list(modules)]
    units = [sum(dense.sizes), sum(small.sizes)]
    sums = {"total": counted[columns[2:]].sum(), "network": table[columns[2:]].sum()}
    table.index = pd.Index([_row_name(path) for path in rows], name="layer")
    for name, of_columns in sums.items():
        table.loc[name] = [*units, *of_columns]
    before = table[f"{dense.measure}_before"]
    table["sparsity"] = np.where(before == 0, 0.0, 1 - table[f"{dense.measure}_after"] / before)
    for column, words in (("unit_layer", made), ("note", left_out)):
        table[column] = [*(words.get(path, "") for path in rows), *("" for _ in sums)]
    return table


def _row_name(path: str) -> str:
    """Return the name of a layer's row, which must be none of a sum's."""
    return f"{path} (layer)" if path in ("total", "network") else path


def weight_report(
    network: nn.Module, dense: WeightLayout, small: WeightLayout, pattern: Sequence[int] | None = None
) -> pd.DataFrame:
    """Tabulate which single weights were removed.

    Parameters
    ----------
    network : nn.Module
        The dense network.
    dense, small : WeightLayout
        The numbers of weights before and after.
    pattern : (int, int) or None, default=None
        Of every m consecutive inputs of an output at most n weights are there, for the pattern (n, m).

    Returns
    -------
    DataFrame
        One row for each module with weights, by its path; then "total", of the modules that lose weights, and
        "network", of all. Columns as in :func:`pruning_report`: units are outputs, of which none leaves (the
        last two rows count those of the network, too),
        parameters and macs after are those that are not 0; and note, what that is worth, or why a linear
        layer or convolution keeps all weights.
    """
    numbers = {layer.name: number for number, layer in enumerate(dense.layers)}
    rows: dict[str, list[float]] = {}
    notes = {}
    counted_once: set[nn.Parameter] = set()
    for path, module in network.named_modules():
        fresh = [parameter for parameter in module.parameters(recurse=False) if parameter not in counted_once]
        counted_once.update(fresh)
        own = sum(parameter.numel() for parameter in fresh)
        if path not in numbers and isinstance(module, nn.Linear | _ConvNd):
            notes[path] = _WHOLE
        if path in numbers:
            number = numbers[path]
            n_outputs = dense.layers[number].shape[0]
            counts = [
                layout.layer_cost(number, kind)
                for kind in ("parameters", "macs")
                for layout in (dense, small)
            ]
            rows[path] = [n_outputs, n_outputs, *counts]
        elif own:
            rows[path or _FREE] = [np.nan, np.nan, own, own, np.nan, np.nan]
    columns = [f"{name}_{when}" for name in ("units", "parameters", "macs") for when in ("before", "after")]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    sums = {"total": table.loc[list(numbers)].sum(), "network": table.sum()}
    table.index = pd.Index([_row_name(path.removeprefix("module.")) for path in rows], name="layer")
    for name, of_columns in sums.items():
        table.loc[name] = of_columns
    worth = _ZEROS if pattern is None else f"{_ZEROS}; {_PATTERN.format(*pattern)}"
    table["note"] = [*(notes.get(path, "") for path in rows), *(worth for _ in sums)]
    table.insert(
        len(columns), "sparsity", 1 - table[f"{dense.measure}_after"] / table[f"{dense.measure}_before"]
    )
    return table


def removal_report(
    network: nn.Module, structure: Structure, small: Layout, left_out: dict[str, str]
) -> pd.DataFrame:
    """Tabulate what was removed of a network, whatever its parts are.

    Parameters
    ----------
    network : nn.Module
        The dense network; one of the user's own is its ``module``.
    structure : Structure
        Its parts.
    small : Layout
        Their numbers after, of the type of the structure's own layout.
    left_out : dict of str
        By the path of the layers whose outputs stay whole: why.
    """
    dense = structure.layout
    if isinstance(structure, WeightStructure):
        assert isinstance(small, WeightLayout)
        return weight_report(network, structure.layout, small, structure.pattern)
    if isinstance(dense, Chain):
        assert isinstance(small, Chain)
        return pruning_report(dense, small)
    assert isinstance(dense, NetworkLayout)
    assert isinstance(small, NetworkLayout)
    names = [layer.name for layer in structure.layers]
    return network_report(network.get_submodule("module"), dense, small, names, left_out)
