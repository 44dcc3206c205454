"""The prunable units of a network: what is removed whole, and which weights go with it."""

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

__all__ = ["UnitLayer", "find_units"]


@dataclass(frozen=True)
class UnitLayer:
    """A layer of hidden units.

    Parameters
    ----------
    producer : str
        Path of the ``nn.Linear`` whose output rows make the units.
    consumer : str
        Path of the ``nn.Linear`` whose input columns read them. Gates act there, and only there.
    n_units : int
        The number of units.
    """

    producer: str
    consumer: str
    n_units: int


def find_units(network: nn.Module) -> tuple[UnitLayer, ...]:
    """Find the hidden units of a network whose linear layers form a chain.

    Parameters
    ----------
    network : nn.Module
        Its ``nn.Linear`` modules, in order of registration, each feed the next through elementwise
        activations and dropout (as in :class:`skfairprune.modules.TabularNetwork`).

    Returns
    -------
    tuple of UnitLayer
        One for each linear layer but the last, in order.
    """
    chain = [(path, m) for path, m in network.named_modules() if isinstance(m, nn.Linear)]
    return tuple(
        UnitLayer(producer, consumer, linear.out_features)
        for (producer, linear), (consumer, _) in pairwise(chain)
    )
