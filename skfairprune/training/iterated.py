"""Batches that an iterator of the user's makes, as a skorch net states one.

The iterator is made with a data set of a phase's rows, as skorch makes it, and yields pairs of inputs and
labels. What else a step needs of a row (its group, its weight, the fold it is in) goes by its number: the
data set notes which rows it is asked for, and a batch is of those rows, in that order.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.dataset import Dataset

from skfairprune.training.batches import Batch, Rows

__all__ = ["IteratedBatches", "OwnIterator"]


class _NotingDataset(Dataset):
    """Inputs and labels as skorch has them, which notes the rows that it is asked for."""

    def __init__(self, X: NDArray, y: NDArray[np.int64]) -> None:
        super().__init__(X, y)
        self.asked: list[int] = []

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        item = super().__getitem__(i)
        self.asked.append(range(len(self))[i])  # of a negative number the row that it means
        return item


@dataclass(frozen=True)
class OwnIterator:
    """What makes batches in place of slices of the shuffled rows.

    Parameters
    ----------
    make : callable
        Takes a data set, ``batch_size`` and ``params``; returns what yields batches, of a known length.
    params : mapping
        Its further parameters.
    label : ndarray of shape (n_total,)
        The label of each row, in [0, n_classes).
    """

    make: Callable[..., Any]
    params: Mapping[str, Any]
    label: NDArray[np.int64]

    @property
    def name(self) -> str:
        """What to call it in messages."""
        made = self.make.func if isinstance(self.make, partial) else self.make
        return getattr(made, "__qualname__", repr(made))

    def batches(self, rows: Rows, batch_size: int) -> "IteratedBatches":
        """Return batches of some rows.

        Parameters
        ----------
        rows : Rows
            The rows of a phase.
        batch_size : int
            The size of a batch that the iterator is told.

        Raises
        ------
        ValueError
            If the iterator cannot be made, or has no length.
        """
        position = rows.position.cpu()
        data = _NotingDataset(rows.x[rows.position].cpu().numpy(), self.label[position.numpy()])
        try:
            iterator = self.make(data, batch_size=batch_size, **self.params)
            length = len(iterator)
        except Exception as error:
            raise ValueError(
                f"The net's iterator_train {self.name} cannot be made with the {len(data)} rows of a "
                f"phase: {type(error).__name__}: {error}. It is called with a data set, batch_size and the "
                f"parameters {sorted(self.params)}, and has to have a length, the number of its batches."
            ) from error
        if length < 1:
            raise ValueError(
                f"The net's iterator_train {self.name} has no batch of the {len(data)} rows of a phase: "
                "leave drop_last, or choose a smaller batch_size."
            )
        return IteratedBatches(self.name, iterator, length, data, rows)


@dataclass
class IteratedBatches:
    """Batches from an iterator.

    Parameters
    ----------
    name : str
        What to call the iterator in messages.
    iterator : iterable
        Yields pairs of inputs and labels.
    length : int
        The number of pairs.
    data : _NotingDataset
        What it reads.
    rows : Rows
        The rows of the data set.
    """

    name: str
    iterator: Any
    length: int
    data: _NotingDataset
    rows: Rows

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Batch]:
        n_batches = 0
        self.data.asked.clear()
        for found in self._found():
            yield self._batch(found)
            self.data.asked.clear()
            n_batches += 1
        if n_batches != self.length:
            self._refuse(f"gave {n_batches} batches where its length is {self.length}")

    def _found(self) -> Iterator[Any]:
        """Yield what the iterator does, its errors with its name."""
        try:
            iterator = iter(self.iterator)
            while True:
                try:
                    found = next(iterator)
                except StopIteration:
                    return
                yield found
        except Exception as error:
            raise ValueError(
                f"The net's iterator_train {self.name} failed: {type(error).__name__}: {error}."
            ) from error

    def _batch(self, found: Any) -> Batch:
        """Return the batch of a pair of inputs and labels."""
        asked = np.array(self.data.asked, np.intp)
        if not (isinstance(found, tuple | list) and len(found) == 2):
            self._refuse("gave something else than a pair of inputs and labels")
        x, label = (torch.as_tensor(part) for part in found)
        shape = (len(asked), *self.rows.x.shape[1:])
        if x.shape != shape or label.shape != shape[:1]:
            self._refuse(
                f"gave inputs of shape {tuple(x.shape)} and labels of shape {tuple(label.shape)} for "
                f"{len(asked)} rows that it had asked its data set for, of {shape[1]} columns. Rows have to "
                "be read one by one, as data_set[i], in this process, and no sooner than their batch"
            )
        if not np.array_equal(label.cpu().numpy(), self.data.y[asked]):
            self._refuse("gave labels that are not those of the rows in the order that it had asked for them")
        position = self.rows.position[torch.from_numpy(asked).to(self.rows.position.device)]
        target, weight = self.rows.target[position], self.rows.weight[position]
        return Batch(x.to(self.rows.x), target, weight, position)

    def _refuse(self, what: str) -> None:
        raise ValueError(f"The net's iterator_train {self.name} {what}.")
