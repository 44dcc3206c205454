"""Whether the rows of a batch can be told apart inside a network, and what to do if they cannot.

A network may hold tokens before rows, as ``nn.TransformerEncoderLayer`` does by default, sort or route rows
and put them back, or join them with others. What a layer reads then cannot be weighted by row, and rows
cannot have gates of their own. A row alone still can: nothing in its pass is of another.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from skfairprune.modules import TabularNetwork

__all__ = ["keeps_rows", "row_by_row"]

_TOLERANCE = 1e-3  # of the largest input: far above the rounding of float32


def keeps_rows(network: nn.Module, paths: Iterable[str], batches: Iterable[Tensor]) -> bool:
    """Tell whether modules read one row after the other, in the order of the rows.

    Parameters
    ----------
    network : nn.Module
        The network, in evaluation. The built-in one does.
    paths : iterable of str
        The modules.
    batches : iterable of Tensor of shape (n_samples, n_columns)
        The rows, which are looked at as they are and turned round: some may go where others do not.
    """
    paths = list(paths)
    return isinstance(network, TabularNetwork) or all(_keeps(network, paths, x) for x in batches)


@torch.no_grad()
def _keeps(network: nn.Module, paths: list[str], x: Tensor) -> bool:
    read: list[Tensor] = []

    def record(module: nn.Module, args: tuple[Any, ...]) -> None:
        read.append(args[0])

    handles = [network.get_submodule(path).register_forward_pre_hook(record) for path in paths]
    try:
        network(x)
        there, read = read, []
        network(x.flip(0))
    finally:
        for handle in handles:
            handle.remove()
    # A module that is not called by these rows may be by others, or by some of them.
    as_many = all(len(inputs) == len(x) for inputs in there) and len(there) == len(read) == len(paths)
    return as_many and all(map(_are_turned, there, read))


def _are_turned(inputs: Tensor, turned: Tensor) -> bool:
    if inputs.shape != turned.shape:
        return False
    tolerance = _TOLERANCE * float(inputs.abs().max()) if inputs.numel() else 0.0
    return torch.allclose(inputs, turned.flip(0), rtol=0, atol=tolerance, equal_nan=True)


def row_by_row(batch: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Yield each row of a batch as a batch of its own."""
    yield from zip(*(column.split(1) for column in batch), strict=True)
