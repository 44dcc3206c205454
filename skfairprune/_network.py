"""The dense network of a fit, built in or brought along, and what can be removed of it."""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from skfairprune._data import FitData
from skfairprune._labels import show_labels
from skfairprune._precision import MOST_ROWS, keeps_apart
from skfairprune._targets import Targets
from skfairprune.modules import PiecewiseLinearEncoding, TabularNetwork, find_knots
from skfairprune.networks.rows import check_rows
from skfairprune.networks.template import make_network
from skfairprune.pruning.budget import Chain
from skfairprune.pruning.graph import FoundUnits, called_layers, find_coupled_units
from skfairprune.pruning.layout import measure_layout
from skfairprune.pruning.reconstruction import can_refit
from skfairprune.pruning.structure import Structure, UnitStructure
from skfairprune.pruning.units import find_units, units_below
from skfairprune.pruning.weights import WeightLayout, WeightStructure, find_weights

__all__ = ["DenseNetwork", "make_dense_network", "unread_columns"]

_PROBE_ROWS = 32  # on which a network is tried
_ROUTED_ROWS = 2048  # on which it is where rows go different ways
_MOST_INPUTS = 10_000  # their Gram matrix: time grows with the cube, minutes here
_KNOT_ROWS = 200_000  # quantiles of more rows cost time and hardly move a knot


class DenseNetwork(NamedTuple):
    """A network before its training.

    Attributes
    ----------
    network : nn.Module
        Gives the logits of the joint classes, in ``dtype``.
    dtype : torch.dtype
        The precision of its rows.
    structure : Structure
        What can be removed of it.
    left_out : dict of str
        By the path of the layers that stay whole: why.
    """

    network: nn.Module
    dtype: torch.dtype
    structure: Structure
    left_out: dict[str, str]


def make_dense_network(
    params: BaseEstimator,
    data: FitData,
    rows: FitData,
    targets: Targets,
    tiny: bool,
    rng: np.random.RandomState,
) -> DenseNetwork:
    """Make the dense network, and find what is to be removed of it.

    Parameters
    ----------
    params : BaseEstimator
        The FairPrunedClassifier, of which only parameters and the columns' names are read.
    data, rows : FitData
        The training rows; the same with held-out rows behind them.
    targets : Targets
        What the network learns.
    tiny : bool
        Whether the rows are too few to be split between the levels.
    rng : RandomState
        Draws the rows of the knots.

    Raises
    ------
    ValueError
        If no such network can be made for these rows, or it fails on one of them.
    """
    if params.module is None:
        knots = _choose_knots(data, params.n_bins, rng)
        dense = _built_in_network(
            knots,
            tuple(int(size) for size in params.hidden_layer_sizes),
            targets.n_joint,
            params.activation,
            float(params.dropout),
            dtype=_resolve_dtype(params.dtype, knots, tiny),
            measure=params.sparsity_measure,
            prune_inputs=bool(params.prune_inputs),
        )
    else:
        dtype = torch.float64 if params.dtype == "float64" else torch.float32
        probe, more = (
            torch.tensor(data.X[:: max(len(data.X) // n, 1)][:n], dtype=dtype)
            for n in (_PROBE_ROWS, _ROUTED_ROWS)
        )
        dense = _own_network(
            params.module,
            probe,
            more,
            targets.output_weights.argmax(axis=0).tolist(),
            len(targets.order),
            measure=params.sparsity_measure,
            prunes=params.sparsity != 0 and params.granularity == "unit",
            by_refit=params.criterion == "obs",
        )
        names = getattr(params, "feature_names_in_", range(data.X.shape[1]))
        if params.dtype == "auto":
            _warn_of_lost(data.X, names)
        check_rows(dense.network, rows.X, len(data.X), probe, names)
    if params.granularity == "weight":
        probe = torch.tensor(data.X[:_PROBE_ROWS], dtype=dense.dtype)
        return _by_weights(dense, probe, params.sparsity_measure, params.weight_pattern)
    return dense


def _choose_knots(data: FitData, n_bins: int, rng: np.random.RandomState) -> list[NDArray[np.float64]]:
    """Choose the knots of every column.

    Raises
    ------
    ValueError
        If all columns are constant.
    """
    X, weight = data.X, data.weight
    rows: NDArray[np.intp] | slice = slice(None)
    if len(X) > _KNOT_ROWS:
        rows = np.sort(rng.permutation(len(X))[:_KNOT_ROWS])
    sample, weight = X[rows], weight[rows]
    # The range is that of all rows: a value that is rare must not leave a column constant.
    knots = []
    for column, low, high in zip(sample.T, X.min(axis=0), X.max(axis=0), strict=True):
        found = find_knots(column, weight, n_bins)
        every = np.unique([low, *found, high])
        knots.append(every if len(every) <= n_bins + 1 else np.unique([low, *found[1:-1], high]))
    if all(len(k) == 1 for k in knots):
        raise ValueError(
            f"Every one of the {len(knots)} columns of X is constant; at least one must vary to learn from."
        )
    return knots


def _resolve_dtype(name: str, knots: list[NDArray[np.float64]], tiny: bool) -> torch.dtype:
    """Return the precision of the computations."""
    if name != "auto":
        return torch.float32 if name == "float32" else torch.float64
    # Lost in single precision: bins that are narrow beside their own values, and its range.
    fine = any(
        np.any(np.diff(k) < 1e-4 * np.abs(k[1:])) or np.diff(k).min() < 1e-30 or not np.ptp(k) < 1e30
        for k in knots
        if len(k) > 1
    )
    return torch.float64 if tiny or fine else torch.float32


def _warn_of_lost(X: NDArray[np.floating], names: Sequence[Any]) -> None:
    """Warn of columns whose values float32 cannot tell apart, where a network of one's own gets no other."""
    some = X[:: -(-len(X) // MOST_ROWS) or 1]
    lost = [names[i] for i, column in enumerate(some.T) if not keeps_apart(np.unique(column), np.float32)]
    if lost:
        warnings.warn(
            f"The network gets float32, which cannot tell the values of the columns {show_labels(lost)} "
            "apart: subtract a constant from them, such as their least value, or set dtype='float64'.",
            UserWarning,
            stacklevel=6,
        )


def _check_n_inputs(n_inputs: int, n_columns: int) -> None:
    """Refuse to prune among more inputs than can be compared with each other.

    Raises
    ------
    ValueError
        If there are more than ``_MOST_INPUTS``.
    """
    if n_inputs > _MOST_INPUTS:
        raise ValueError(
            f"prune_inputs=True compares every two of the encoded inputs, and the {n_columns} columns have "
            f"{n_inputs:,} of them; at most {_MOST_INPUTS:,} are feasible. Choose fewer n_bins, select "
            "columns before, or leave prune_inputs=False."
        )


def _built_in_network(
    knots: list[NDArray[np.float64]],
    sizes: tuple[int, ...],
    n_joint: int,
    activation: str,
    dropout: float,
    *,
    dtype: torch.dtype,
    measure: str,
    prune_inputs: bool,
) -> DenseNetwork:
    """Make the built-in network.

    Parameters
    ----------
    knots : list of ndarray
        The knots of each column.
    sizes : tuple of int
        The units of each hidden layer.
    n_joint : int
        The outputs.
    activation, dropout
        As in :class:`skfairprune.modules.TabularNetwork`.
    dtype : torch.dtype
        The precision.
    measure, prune_inputs
        As in :class:`skfairprune.pruning.budget.Chain`.
    """
    encoding = PiecewiseLinearEncoding(knots)
    if prune_inputs:
        _check_n_inputs(encoding.n_outputs, encoding.n_columns)
    layout = Chain(encoding.n_outputs, sizes, n_joint, measure, prune_inputs)
    network = TabularNetwork(encoding, sizes, n_joint, activation, dropout)
    structure = UnitStructure(find_units(network, prune_inputs), layout)
    return DenseNetwork(network.to(dtype), dtype, structure, {})


def _own_network(
    template: Any,
    probe: Tensor,
    more: Tensor,
    class_of: Sequence[int],
    n_classes: int,
    *,
    measure: str,
    prunes: bool,
    by_refit: bool,
) -> DenseNetwork:
    """Make the network that the user describes, and find what can be removed of it.

    Parameters
    ----------
    template : nn.Module, callable or NeuralNet
        The description.
    probe, more : Tensor of shape (n_samples, n_features)
        Some rows; and more of them, for networks of which some layers read few rows.
    class_of : sequence of int
        The class of each joint class.
    n_classes : int
        The classes.
    measure : str
        What sparsity is counted in.
    prunes : bool
        Whether anything is to be removed at all.
    by_refit : bool
        Whether that needs layers with a closed form.
    """
    network = make_network(template, probe.shape[1], class_of, n_classes, probe)
    inner = network.bare
    with suppress(Exception):  # of a row on which the network fails, which is named later
        if prunes and len(called_layers(inner, more)) > len(called_layers(inner, probe)):
            probe = more
    found = find_coupled_units(inner, probe) if prunes else FoundUnits((), {})
    layout = measure_layout(inner, found.layers, probe, len(class_of), measure)
    if by_refit and not can_refit(inner, found.layers):
        raise ValueError(
            "criterion='obs' refits the linear layers that read what is removed, and in this network "
            "convolutions, or layers without a bias, do. Choose another criterion."
        )
    layers = units_below(found.layers, "module")
    return DenseNetwork(network, probe.dtype, UnitStructure(layers, layout), found.left_out)


def _by_weights(
    dense: DenseNetwork, probe: Tensor, measure: str, pattern: Sequence[int] | None
) -> DenseNetwork:
    """Return the network with its single weights as the prunable parts.

    Parameters
    ----------
    dense : DenseNetwork
        The network.
    probe : Tensor of shape (n_samples, n_features)
        Some rows.
    measure : {"parameters", "macs"}
        What sparsity is counted in.
    pattern : (int, int) or None
        As in :class:`skfairprune.pruning.weights.WeightStructure`.
    """
    layers = find_weights(dense.network, probe)
    sizes = tuple(layer.n_units for layer in layers)
    inner = getattr(dense.network, "module", dense.network)
    n_outputs = dense.structure.layout.n_outputs
    layout = WeightLayout(type(inner).__name__, layers, sizes, n_outputs, measure)
    return dense._replace(structure=WeightStructure(layers, layout, pattern), left_out={})


def unread_columns(network: nn.Module, n_features: int) -> list[int]:
    """Return the positions of the columns that a network is known not to read."""
    if not isinstance(network, TabularNetwork):
        return []
    return np.delete(np.arange(n_features), network.encoding.kept_columns).tolist()
