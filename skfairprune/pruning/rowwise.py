"""Whether the rows of a batch can be told apart inside a network, and what to do if they cannot.

A network may hold tokens before rows, as ``nn.TransformerEncoderLayer`` does by default, sort or route rows
and put them back, or join them with others. What a layer reads then cannot be weighted by row, and rows
cannot have gates of their own. A row alone still can: nothing in its pass is of another.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["keeps_rows", "row_by_row"]

_N_ROWS = 64  # that are looked at
_TOLERANCE = 1e-3  # of the largest input: far above the rounding of float32


@torch.no_grad()
def keeps_rows(network: nn.Module, paths: Iterable[str], x: Tensor) -> bool:
    """Tell whether modules read one row after the other, in the order of the rows.

    Parameters
    ----------
    network : nn.Module
        The network, in evaluation.
    paths : iterable of str
        The modules.
    x : Tensor of shape (n_samples, n_columns)
        Some rows, of which the first are looked at, as they are and turned round.
    """
    x = x[:_N_ROWS]
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
    as_many = all(len(inputs) == len(x) for inputs in there) and len(there) == len(read)
    return as_many and all(map(_are_turned, there, read))


def _are_turned(inputs: Tensor, turned: Tensor) -> bool:
    if inputs.shape != turned.shape:
        return False
    tolerance = _TOLERANCE * float(inputs.abs().max()) if inputs.numel() else 0.0
    return torch.allclose(inputs, turned.flip(0), rtol=0, atol=tolerance, equal_nan=True)


def row_by_row(batch: tuple[Tensor, ...]) -> Iterator[tuple[Tensor, ...]]:
    """Yield each row of a batch as a batch of its own."""
    yield from zip(*(column.split(1) for column in batch), strict=True)
