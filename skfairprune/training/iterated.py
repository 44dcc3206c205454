"""Batches that an iterator of the user's makes, as a skorch net states one.

The iterator is made with a data set of a phase's rows, as skorch makes it, and yields pairs of inputs and
labels. What else a step needs of a row (its group, its weight, the fold it is in) goes by its number: the
data set notes which rows it is asked for, and a batch is of those rows, in that order.
"""

import copy
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

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
        try:
            number = operator.index(i)
        except TypeError:
            raise TypeError(f"rows are read one by one, by a whole number; got {type(i).__name__}") from None
        item = super().__getitem__(number)
        self.asked.append(range(len(self))[number])  # of a negative number the row that it means
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
        label = self.label[rows.position.cpu().numpy()]
        data = _NotingDataset(rows.x[rows.position].cpu().numpy(), label.copy())
        batch_size = len(label) if batch_size == -1 else batch_size
        try:
            # Of a copy, whose generators start in every phase of every fit where the user's are.
            iterator = self.make(data, batch_size=batch_size, **copy.deepcopy(dict(self.params)))
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
        return IteratedBatches(self.name, iterator, length, data, label, rows)


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
    label : ndarray of shape (n_samples,)
        The labels of the rows.
    rows : Rows
        The rows of the data set.
    """

    name: str
    iterator: Any
    length: int
    data: _NotingDataset
    label: NDArray[np.int64]
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
        try:
            x, label = (torch.as_tensor(part).detach().cpu() for part in found)
        except (RuntimeError, TypeError, ValueError) as error:
            kinds = " and ".join(type(part).__name__ for part in found)
            self._refuse(f"gave inputs and labels of types {kinds}, no tensors or arrays of numbers: {error}")
        shape = (len(asked), *self.rows.x.shape[1:])
        if label.shape == (len(asked), 1):
            label = label[:, 0]
        if x.shape != shape or label.shape != shape[:1]:
            self._refuse(
                f"gave inputs of shape {tuple(x.shape)} and labels of shape {tuple(label.shape)} for "
                f"{len(asked)} rows that it had asked its data set for, of {shape[1]} columns. Rows have to "
                "be read one by one, as data_set[i], in this process, and no sooner than their batch"
            )
        if not len(asked):
            self._refuse("gave a batch of no rows")
        position = self.rows.position[torch.from_numpy(asked).to(self.rows.position.device)]
        given, x = self.rows.x[position], x.to(self.rows.x)
        if not np.array_equal(label.numpy(), self.label[asked]) or _is_other_order(x, given):
            self._refuse("gave rows in another order, or with other labels, than it had asked for them")
        if not bool(x.isfinite().all()):
            self._refuse("gave inputs that are not finite")
        return Batch(x, self.rows.target[position], self.rows.weight[position], position)

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(f"The net's iterator_train {self.name} {what}.")


def _is_other_order(x: torch.Tensor, given: torch.Tensor) -> bool:
    """Tell whether rows are those that were given, and in another order."""
    if torch.equal(x, given):
        return False
    return sorted(map(bytes, x.cpu().numpy())) == sorted(map(bytes, given.cpu().numpy()))
