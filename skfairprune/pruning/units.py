"""The prunable units of a network: what is removed whole, and which weights go with it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from skfairprune.modules import PiecewiseLinearEncoding

__all__ = ["Side", "UnitLayer", "find_units", "remaining_units", "units_below"]


class Side(NamedTuple):
    """The part that the units of a layer have in a module's outputs, or in its inputs.

    Attributes
    ----------
    path : str
        Path of the module.
    positions : ndarray of shape (n_units, n_positions)
        Each unit's positions along the outputs or the inputs: features, channels, or what a flattened channel
        or an attention head comes to.
    """

    path: str
    positions: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class UnitLayer:
    """A layer of units: hidden units or channels that are coupled with each other, heads, encoded inputs.

    Parameters
    ----------
    name : str
        Its name in reports: the path of the first producer.
    producers : tuple of Side
        The modules whose outputs make the units.
    carriers : tuple of Side
        The modules that hold something of each unit on the way and keep units apart: batch norms, depthwise
        convolutions. They go along when a unit is removed.
    consumers : tuple of Side
        The modules whose inputs read the units. Gates act there, and only there.
    """

    name: str
    producers: tuple[Side, ...]
    carriers: tuple[Side, ...]
    consumers: tuple[Side, ...]

    @property
    def n_units(self) -> int:
        """The number of units."""
        return len(self.producers[0].positions)


def find_units(network: nn.Module, inputs: bool = False) -> tuple[UnitLayer, ...]:
    """Find the hidden units of a network whose linear layers form a chain, and its encoded inputs.

    Parameters
    ----------
    network : nn.Module
        Its ``nn.Linear`` modules, in order of registration, each feed the next through elementwise
        activations and dropout (as in :class:`skfairprune.modules.TabularNetwork`).
    inputs : bool, default=False
        Whether inputs are prunable: the bins of a :class:`~skfairprune.modules.PiecewiseLinearEncoding`
        that the first ``nn.Linear`` reads.

    Returns
    -------
    tuple of UnitLayer
        One for the encoded inputs, where asked for, and one for each linear layer but the last, in order.

    Raises
    ------
    ValueError
        If inputs are asked for and there is not one encoding.
    """
    modules = list(network.named_modules())
    chain = [(path, m.out_features) for path, m in modules if isinstance(m, nn.Linear)]
    if inputs:
        encodings = [(path, m.n_outputs) for path, m in modules if isinstance(m, PiecewiseLinearEncoding)]
        if len(encodings) != 1:
            raise ValueError(
                "Inputs can be pruned where one PiecewiseLinearEncoding feeds the first linear layer; this "
                f"{type(network).__name__} has {len(encodings)} encodings. Use prune_inputs=False."
            )
        chain = encodings + chain
    layers = []
    for (producer, n_units), (consumer, _) in pairwise(chain):
        each = np.arange(n_units)[:, None]
        layers.append(UnitLayer(producer, (Side(producer, each),), (), (Side(consumer, each),)))
    return tuple(layers)


def units_below(layers: Sequence[UnitLayer], path: str) -> tuple[UnitLayer, ...]:
    """Return the units of a module as those of the network that has it.

    Parameters
    ----------
    layers : sequence of UnitLayer
        The units of the module.
    path : str
        Where the network has it.
    """

    def below(sides: tuple[Side, ...]) -> tuple[Side, ...]:
        return tuple(Side(f"{path}.{side.path}" if side.path else path, side.positions) for side in sides)

    return tuple(
        UnitLayer(layer.name, below(layer.producers), below(layer.carriers), below(layer.consumers))
        for layer in layers
    )


def remaining_units(layers: Sequence[UnitLayer], masks: Sequence[NDArray[np.bool_]]) -> tuple[UnitLayer, ...]:
    """Return the units of the network that is left after a removal.

    Parameters
    ----------
    layers : sequence of UnitLayer
        The units before it.
    masks : sequence of ndarray of shape (n_units,) of bool
        True for the units that stay.
    """
    made = removed_positions((layer.producers + layer.carriers, m) for layer, m in _zip(layers, masks))
    read = removed_positions((layer.consumers, m) for layer, m in _zip(layers, masks))

    def renumber(
        sides: tuple[Side, ...], mask: NDArray[np.bool_], removed: dict[str, NDArray]
    ) -> tuple[Side, ...]:
        return tuple(
            Side(path, positions[mask] - np.searchsorted(removed[path], positions[mask]))
            for path, positions in sides
        )

    return tuple(
        UnitLayer(
            layer.name,
            renumber(layer.producers, mask, made),
            renumber(layer.carriers, mask, made),
            renumber(layer.consumers, mask, read),
        )
        for layer, mask in _zip(layers, masks)
    )


def removed_positions(
    parts: Iterable[tuple[Sequence[Side], NDArray[np.bool_]]],
) -> dict[str, NDArray[np.intp]]:
    """Return, for each module, the sorted positions of units that leave.

    Parameters
    ----------
    parts : iterable of (sequence of Side, ndarray of shape (n_units,) of bool)
        Sides of a layer's units, and the mask of these, True for those that stay.
    """
    found: dict[str, list[NDArray[np.intp]]] = {}
    for sides, mask in parts:
        for path, positions in sides:
            found.setdefault(path, []).append(positions[~mask].ravel())
    return {path: np.sort(np.concatenate(positions)) for path, positions in found.items()}


def _zip(layers: Sequence[UnitLayer], masks: Sequence[NDArray[np.bool_]]) -> zip:
    return zip(layers, masks, strict=True)
