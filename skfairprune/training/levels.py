"""The rows of a fit by level, as tensors on the device."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skfairprune.training.batches import Batches, Rows, evaluation_batches
from skfairprune.training.splits import LevelSplit

__all__ = ["Levels"]

_GRAM_ROWS = 16384  # enough for the Gram matrix of a few hundred units


class Levels(NamedTuple):
    """Which rows each level reads.

    Attributes
    ----------
    lower : Rows
        The rows that the weights learn from before the fine-tuning.
    upper : Rows
        The rows of the gates, the multipliers and the held-out figures.
    final : Rows
        The rows of the fine-tuning.
    held_out : Rows or None
        The rows of the loss that chooses the epoch; None keeps the last one.
    rule : Rows
        The rows that rules are fitted on, the upper ones first.
    fold : Tensor of shape (n_total,) of long
        Which copy of the fine-tuning is blind to a row: 0 to ``n_folds`` - 1. ``n_folds`` for rows that all
        learn from, -1 for rows that none does.
    n_folds : int
        The number of copies with rules; without, the first half of them.
    """

    lower: Rows
    upper: Rows
    final: Rows
    held_out: Rows | None
    rule: Rows
    fold: Tensor
    n_folds: int

    @classmethod
    def from_split(cls, rows: Rows, split: LevelSplit) -> "Levels":
        """Take the parts of a split out of all rows."""

        def part(index: NDArray[np.intp]) -> Rows:
            return rows.take(torch.from_numpy(index).to(rows.x.device))

        upper = part(split.upper)
        fold = torch.from_numpy(split.fold).to(rows.x.device)
        held_out = upper if split.disjoint else None
        return cls(
            part(split.lower), upper, part(split.final), held_out, part(split.rule), fold, split.n_folds
        )

    def sample(self) -> list[tuple[Tensor, Tensor]]:
        """Return some lower rows and their weights, in batches, for Gram matrices."""
        position = self.lower.position
        rows = self.lower.take(position[:: -(-len(position) // _GRAM_ROWS)])
        return [(batch.x, batch.weight) for batch in evaluation_batches(rows)]

    def lower_batches(
        self, batch_size: int, generator: torch.Generator
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return the lower rows, their joint classes and weights, in shuffled batches.

        Criteria square the mean gradient of a batch: in rows that come in order, by date, it would not be
        the one that is trained with.
        """
        batches = Batches(self.lower, batch_size, generator)
        return [(batch.x, batch.target, batch.weight) for batch in batches]
