"""The sparsity budget: which units to remove, in a given order of worth, to reach it.

Sparsity is the share of the dense network removed, by one of three measures: its trainable parameters
(weights and biases), its hidden units, or its MACs (multiplications of one row in the linear layers). A
unit takes along its producer's row and bias and its consumer's column, so what it frees depends on how
many units its neighbours have left: layers are counted together.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["MEASURES", "Chain", "Layout", "select_units"]

#: The measures of sparsity.
MEASURES = ("parameters", "units", "macs")

_FLOOR = 3  # label, group and their product; measured: with 1 or 2 units a layer loses the label or the group


class Layout(ABC):
    """What the parts of a network cost at given widths, and how few units may stay.

    Attributes
    ----------
    measure : {"parameters", "units", "macs"}
        What sparsity and costs are counted in.
    n_outputs : int
        The network's outputs.
    """

    measure: str
    n_outputs: int

    @property
    @abstractmethod
    def widths(self) -> tuple[int, ...]:
        """The units of each prunable layer."""

    @abstractmethod
    def resized(self, widths: Sequence[Any]) -> Self:
        """Return the layout with other widths of the prunable layers, numbers or tensors of soft widths."""

    @abstractmethod
    def cost(self) -> Any:
        """Return what the prunable parts cost, by the measure."""

    @abstractmethod
    def n_parameters(self) -> int:
        """Return the parameters of the prunable parts."""

    @abstractmethod
    def unit_cost(self, layer: int) -> Any:
        """Return what one unit of a prunable layer takes along, by the measure."""

    @abstractmethod
    def floors(self, floor: int) -> list[int]:
        """Return the fewest units of each layer that carry some number of outputs, where it has as many."""

    @abstractmethod
    def describe(self) -> str:
        """Name the network in an error."""

    def budget(self, sparsity: float) -> int:
        """Return the most that what is left of this network may cost, by the measure.

        Parameters
        ----------
        sparsity : float
            The share of the network to remove, in [0, 1).

        Raises
        ------
        ValueError
            If not even one unit in each prunable layer stays within it.
        """
        total, least = self.cost(), self.resized([1] * len(self.widths)).cost()
        # Rounded before the floor: 1 - 0.9 is a little less than 0.1.
        budget = math.floor(round((1 - sparsity) * total, 6))
        if least > budget:
            reachable = math.floor((1 - least / total) * 1e6) / 1e6
            name = {"parameters": "parameters", "units": "hidden units", "macs": "MACs"}[self.measure]
            raise ValueError(
                f"sparsity={sparsity} cannot be reached: with {self.describe_least()}, {least} of the "
                f"{total} {name} of {self.describe()} remain, a sparsity of {reachable:.6f}. Ask for at most "
                "that, or for a larger network."
            )
        return budget

    def describe_least(self) -> str:
        """Name the least that stays in an error."""
        return "one unit left in each prunable layer"

    def least_widths(self, budget: float) -> list[int]:
        """Return the fewest units that each prunable layer keeps within a budget.

        A layer narrower than the outputs' degrees of freedom, one less than their number, cannot carry them:
        it keeps as many, but at most 3, or fewer where the budget does not allow it. Of inputs one is kept.
        """
        for floor in range(min(self.n_outputs - 1, _FLOOR), 1, -1):
            widths = self.floors(floor)
            if self.resized(widths).cost() <= budget:
                return widths
        return [1] * len(self.widths)


@dataclass(frozen=True)
class Chain(Layout):
    """The widths of a chain of linear layers, and what its units cost.

    Its prunable layers are the hidden layers, after the inputs where these are prunable, too.

    Parameters
    ----------
    n_inputs : int
        The number of (encoded) inputs.
    sizes : tuple of int
        The units of each hidden layer.
    n_outputs : int
        The number of outputs.
    measure : {"parameters", "units", "macs"}, default="parameters"
        What sparsity and costs are counted in. "units" are hidden units.
    prune_inputs : bool, default=False
        Whether inputs are prunable. Not with the measure "units", by which an input frees nothing.
    """

    n_inputs: int
    sizes: tuple[int, ...]
    n_outputs: int
    measure: str = "parameters"
    prune_inputs: bool = False

    def __post_init__(self) -> None:
        if self.prune_inputs and self.measure == "units":
            raise ValueError(
                "prune_inputs=True needs sparsity_measure='parameters' or 'macs': inputs are no hidden "
                "units, so that removing them frees nothing by the measure 'units'."
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """The units of each prunable layer: the inputs, if prunable, and the hidden layers."""
        return (self.n_inputs, *self.sizes) if self.prune_inputs else self.sizes

    def resized(self, widths: Sequence[Any]) -> Self:
        """Return the chain with other widths of the prunable layers, numbers or tensors of soft widths."""
        if self.prune_inputs:
            return replace(self, n_inputs=widths[0], sizes=tuple(widths[1:]))
        return replace(self, sizes=tuple(widths))

    def layer_parameters(self) -> list[int]:
        """Return the weights and biases of each linear layer, the output layer last."""
        return [(a + 1) * b for a, b in pairwise(self._all_widths())]

    def layer_macs(self) -> list[int]:
        """Return the multiplications of one row in each linear layer, the output layer last."""
        return [a * b for a, b in pairwise(self._all_widths())]

    def n_parameters(self) -> int:
        """Return the weights and biases of all layers."""
        return sum(self.layer_parameters())

    def cost(self) -> int:
        """Return what the network costs, by the measure."""
        if self.measure == "units":
            return sum(self.sizes)
        return sum(self.layer_macs()) if self.measure == "macs" else self.n_parameters()

    def unit_cost(self, layer: int) -> int:
        """Return what one unit of a prunable layer takes along, by the measure."""
        if self.measure == "units":
            return 1
        read_by = self._all_widths()[layer + 1 if self.prune_inputs else layer + 2]
        if self.prune_inputs and layer == 0:
            return read_by
        bias = 1 if self.measure == "parameters" else 0
        return self._all_widths()[layer - 1 if self.prune_inputs else layer] + bias + read_by

    def floors(self, floor: int) -> list[int]:
        """Return the fewest units of each layer: of inputs one, else `floor`, where there are as many."""
        widths = [min(width, floor) for width in self.widths]
        if self.prune_inputs:
            widths[0] = 1
        return widths

    def describe(self) -> str:
        """Name the network in an error."""
        return f"hidden_layer_sizes={self.sizes}"

    def describe_least(self) -> str:
        """Name the least that stays in an error."""
        kept = "one input and one unit" if self.prune_inputs else "one unit"
        return f"{kept} left in each hidden layer"

    def _all_widths(self) -> tuple[int, ...]:
        return (self.n_inputs, *self.sizes, self.n_outputs)


def select_units(
    layout: Layout, worth: Sequence[NDArray[np.floating]], budget: float
) -> list[NDArray[np.bool_]]:
    """Keep the units of most worth: the smallest removal that meets a budget.

    Units leave in increasing order of worth, each layer keeping its least width, until the budget is met;
    then every unit that can come back within it does, the worthiest first.

    Parameters
    ----------
    layout : Layout
        The network before the removal; it has the measure.
    worth : sequence of ndarray of shape (n_units,)
        The worth of each unit, by prunable layer, comparable across layers. Of equals the later leaves first.
    budget : float
        The most that may stay, by the layout's measure; at least what one unit a layer costs.

    Returns
    -------
    list of ndarray of shape (n_units,) of bool
        The mask of each layer, True for the units that stay. No unit can be put back within the budget.
    """
    masks = [np.ones(len(w), dtype=bool) for w in worth]
    sizes, least = list(layout.widths), layout.least_widths(budget)
    order = sorted((w, -unit, layer) for layer, ws in enumerate(worth) for unit, w in enumerate(ws))
    removed = []
    for _, negative, layer in order:
        if layout.resized(sizes).cost() <= budget:
            break
        if sizes[layer] > least[layer]:
            masks[layer][-negative] = False
            sizes[layer] -= 1
            removed.append((layer, -negative))
    for layer, unit in reversed(removed):
        sizes[layer] += 1
        if layout.resized(sizes).cost() <= budget:
            masks[layer][unit] = True
        else:
            sizes[layer] -= 1
    return masks
