"""What can be removed of a network, and how: the parts, what they cost, their worth, and the removal."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from skfairprune.constraints import Floats
from skfairprune.pruning.budget import Layout, select_units
from skfairprune.pruning.criteria import CRITERIA, ScoringData, fisher_information
from skfairprune.pruning.gates import Gated, GatedNetwork
from skfairprune.pruning.reconstruction import (
    can_refit,
    log_worth,
    reconstruction_worth,
    shrink_and_refit,
)
from skfairprune.pruning.shrink import shrink
from skfairprune.pruning.units import UnitLayer, remaining_units

__all__ = ["Masks", "Structure", "UnitStructure"]

Masks = list[NDArray[np.bool_]]
Sample = Sequence[tuple[Tensor, Tensor]]


class Structure(ABC):
    """The prunable parts of a network.

    Attributes
    ----------
    layers : tuple
        The parts, by layer; each has a number ``n_units`` of them.
    layout : Layout
        Their numbers, and what they cost.
    """

    layers: tuple
    layout: Layout

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shape of each layer's mask."""
        return [(layer.n_units,) for layer in self.layers]

    @abstractmethod
    def gated(self, network: nn.Module) -> Gated:
        """Return the network with a gate for each part."""

    @abstractmethod
    def score(self, criterion: str, data: ScoringData) -> list[Floats]:
        """Return the worth of each part by a criterion."""

    @abstractmethod
    def start(self, network: nn.Module, sample: Sample, data: Callable[[], ScoringData]) -> list[Floats]:
        """Return the worth of each part that the bilevel phase starts from, of spread about 1."""

    @abstractmethod
    def select(self, worth: Sequence[Floats], budget: float) -> Masks:
        """Return masks of the parts of most worth within a budget."""

    @abstractmethod
    def remove(self, network: nn.Module, masks: Masks) -> nn.Module:
        """Return a copy of the network without the masked parts."""

    @abstractmethod
    def remove_and_refit(self, network: nn.Module, masks: Masks, sample: Sample) -> nn.Module:
        """Return the network without the masked parts, the others making up for them where that is known."""

    @abstractmethod
    def hold(self, masks: Masks, parameters: Callable[[str], list[nn.Parameter]]) -> None:
        """Prepare a training of what is left, so that what is gone stays gone.

        Parameters
        ----------
        masks : list of ndarray of bool
            What is left.
        parameters : callable
            Takes the name of a parameter, returns it from each of the networks that are trained.
        """

    @abstractmethod
    def remaining(self, masks: Masks) -> "Structure":
        """Return what is left after a removal."""

    @abstractmethod
    def narrowed(self, masks: Masks, chosen: Masks) -> Masks:
        """Return the masks of the whole after a further choice among the parts that are left."""


@dataclass(frozen=True)
class UnitStructure(Structure):
    """Units that leave whole: see :class:`skfairprune.pruning.units.UnitLayer`.

    Parameters
    ----------
    layers : tuple of UnitLayer
        The units.
    layout : Layout
        Their numbers; one for each of the layers.
    """

    layers: tuple[UnitLayer, ...]
    layout: Layout

    def gated(self, network: nn.Module) -> Gated:
        """Return the network with gates at the inputs of the units' consumers."""
        return GatedNetwork(network, self.layers)

    def score(self, criterion: str, data: ScoringData) -> list[Floats]:
        """Return the worth of each unit by a key of ``CRITERIA``."""
        return CRITERIA[criterion](data)

    def start(self, network: nn.Module, sample: Sample, data: Callable[[], ScoringData]) -> list[Floats]:
        """Return the worth by reconstruction, or where that has no closed form, by Fisher information."""
        if can_refit(network, self.layers):
            return reconstruction_worth(network, self.layers, self.layout, sample)
        found = fisher_information(data())
        # Shares, as the errors of the reconstruction are: of a good network all are small.
        total = max(sum(part.sum() for part in found), np.finfo(float).tiny)
        return log_worth([part / total for part in found], self.layout)

    def select(self, worth: Sequence[Floats], budget: float) -> Masks:
        """Return masks of the units of most worth within a budget."""
        return select_units(self.layout, worth, budget)

    def remove(self, network: nn.Module, masks: Masks) -> nn.Module:
        """Return the physically smaller network."""
        return shrink(network, self.layers, masks)

    def remove_and_refit(self, network: nn.Module, masks: Masks, sample: Sample) -> nn.Module:
        """Return the smaller network, its consumers refitted where their best weights are known."""
        if can_refit(network, self.layers):
            return shrink_and_refit(network, self.layers, masks, sample)
        return self.remove(network, masks)

    def hold(self, masks: Masks, parameters: Callable[[str], list[nn.Parameter]]) -> None:
        """Do nothing: units that left cannot return."""

    def remaining(self, masks: Masks) -> "UnitStructure":
        """Return the units that are left, as those of the smaller network."""
        layout = self.layout.resized([int(mask.sum()) for mask in masks])
        return UnitStructure(remaining_units(self.layers, masks), layout)

    def narrowed(self, masks: Masks, chosen: Masks) -> Masks:
        """Return the masks of the dense network after a choice among the units of the smaller one."""
        result = [mask.copy() for mask in masks]
        for mask, kept in zip(result, chosen, strict=True):
            mask[mask] = kept
        return result
