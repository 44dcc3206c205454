"""The dense network of a fit, built in or brought along, and what can be removed of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from skfairprune._preparation import check_n_inputs
from skfairprune.modules import PiecewiseLinearEncoding, TabularNetwork
from skfairprune.networks.template import make_network
from skfairprune.pruning.budget import Chain
from skfairprune.pruning.graph import FoundUnits, find_coupled_units
from skfairprune.pruning.layout import measure_layout
from skfairprune.pruning.reconstruction import can_refit
from skfairprune.pruning.structure import Structure, UnitStructure
from skfairprune.pruning.units import find_units, units_below
from skfairprune.pruning.weights import WeightLayout, WeightStructure, find_weights

__all__ = ["DenseNetwork", "built_in_network", "by_weights", "own_network", "unread_columns"]


class DenseNetwork(NamedTuple):
    """A network before its training.

    Attributes
    ----------
    network : nn.Module
        Gives the logits of the joint classes.
    structure : Structure
        What can be removed of it.
    left_out : dict of str
        By the path of the layers that stay whole: why.
    """

    network: nn.Module
    structure: Structure
    left_out: dict[str, str]


def built_in_network(
    knots: list[NDArray[np.float64]],
    sizes: tuple[int, ...],
    n_joint: int,
    activation: str,
    dropout: float,
    *,
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
    measure, prune_inputs
        As in :class:`skfairprune.pruning.budget.Chain`.
    """
    encoding = PiecewiseLinearEncoding(knots)
    if prune_inputs:
        check_n_inputs(encoding.n_outputs, encoding.n_columns)
    layout = Chain(encoding.n_outputs, sizes, n_joint, measure, prune_inputs)
    network = TabularNetwork(encoding, sizes, n_joint, activation, dropout)
    return DenseNetwork(network, UnitStructure(find_units(network, prune_inputs), layout), {})


def by_weights(
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
    return DenseNetwork(dense.network, WeightStructure(layers, layout, pattern), {})


def own_network(
    template: Any,
    probe: Tensor,
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
    probe : Tensor of shape (n_samples, n_features)
        Some rows.
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
    inner = network.module
    found = find_coupled_units(inner, probe) if prunes else FoundUnits((), {})
    layout = measure_layout(inner, found.layers, probe, len(class_of), measure)
    if by_refit and not can_refit(inner, found.layers):
        raise ValueError(
            "criterion='obs' refits the linear layers that read what is removed, and in this network "
            "convolutions, or layers without a bias, do. Choose another criterion."
        )
    layers = units_below(found.layers, "module")
    return DenseNetwork(network, UnitStructure(layers, layout), found.left_out)


def unread_columns(network: nn.Module, n_features: int) -> list[int]:
    """Return the positions of the columns that a network is known not to read."""
    if not isinstance(network, TabularNetwork):
        return []
    return np.delete(np.arange(n_features), network.encoding.kept_columns).tolist()
