"""The prunable units of a network: what is removed whole, and which weights go with it."""

from dataclasses import dataclass
from itertools import pairwise

from torch import nn

from skfairprune.modules import PiecewiseLinearEncoding

__all__ = ["UnitLayer", "find_units"]


@dataclass(frozen=True)
class UnitLayer:
    """A layer of hidden units, or of encoded inputs.

    Parameters
    ----------
    producer : str
        Path of the ``nn.Linear`` whose output rows make the units, or of the encoding whose bins do.
    consumer : str
        Path of the ``nn.Linear`` whose input columns read them. Gates act there, and only there.
    n_units : int
        The number of units.
    """

    producer: str
    consumer: str
    n_units: int


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
    return tuple(
        UnitLayer(producer, consumer, n_units) for (producer, n_units), (consumer, _) in pairwise(chain)
    )
