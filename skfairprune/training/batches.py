"""Rows in memory, and batches of them as slices of tensors."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Batch", "Batches", "Rows", "evaluation_batches"]

# Rows in a batch without gradients: their encoding stays in the processor's cache. Of wide rows there are as
# many as hold no more numbers.
_EVALUATION_ROWS, _EVALUATION_NUMBERS = 2048, 2**19


class Rows(NamedTuple):
    """Rows on the device; a subset shares the tensors and has its own index.

    Attributes
    ----------
    x : Tensor of shape (n_total, n_columns)
        The inputs.
    target : Tensor of shape (n_total,) of long
        The joint class, head class * n_groups + group.
    weight : Tensor of shape (n_total,)
        Loss weights of mean 1.
    position : Tensor of shape (n_samples,) of long
        The positions of the subset's rows in the tensors.
    """

    x: Tensor
    target: Tensor
    weight: Tensor
    position: Tensor

    def take(self, position: Tensor) -> "Rows":
        """Return the subset of the rows at these positions."""
        return self._replace(position=position)


class Batch(NamedTuple):
    """One batch: inputs, joint classes, loss weights and the rows' positions."""

    x: Tensor
    target: Tensor
    weight: Tensor
    position: Tensor


class Batches:
    """Iterate over batches of nearly equal size.

    Parameters
    ----------
    rows : Rows
        The rows.
    batch_size : int
        The largest number of rows in a batch.
    generator : torch.Generator, default=None
        Shuffles the rows anew in every pass; None keeps their order.
    """

    def __init__(self, rows: Rows, batch_size: int, generator: torch.Generator | None = None) -> None:
        self.rows, self.generator = rows, generator
        self.n_batches = max(1, -(-len(rows.position) // batch_size))

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Batch]:
        position = self.rows.position
        if self.generator is not None and self.n_batches > 1:
            order = torch.randperm(len(position), generator=self.generator)
            position = position[order.to(position.device)]
        for part in position.tensor_split(self.n_batches):
            x, target, weight = (tensor.index_select(0, part) for tensor in self.rows[:3])
            yield Batch(x, target, weight, part)


def evaluation_batches(rows: Rows) -> Batches:
    """Return batches of rows, in their order, that go through a network without gradients."""
    return Batches(rows, min(_EVALUATION_ROWS, max(_EVALUATION_NUMBERS // max(rows.x.shape[1], 1), 1)))
