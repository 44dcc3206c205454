"""Columns of the same rows, given apart: rows are taken by their position, and must be in one order."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

__all__ = ["refuse_other_order"]


_FEW = 8  # labels, of which one that is not there tells that the rows are others


def refuse_other_order(**columns: Any) -> None:
    """Refuse columns of which one has the index of another in another order.

    What has no index of pandas is passed over, and so is an index with duplicates, or of other rows: behind
    a transformer that returns an array X has none, and then the columns are held against each other.

    Parameters
    ----------
    **columns : object
        Series, DataFrames, dicts of columns, of which each is looked at, or anything else; by the names that
        the error message calls them. Of predictions, whose names start with "y_pred", an index from 0 on is
        that of a Series that was just made of them, in the order of the rows, and says nothing.

    Raises
    ------
    ValueError
        If an index has the values of an earlier one in another order.
    """
    given = dict(columns)
    for name, value in columns.items():
        if isinstance(value, dict):
            given |= {f"{name}[{key!r}]": column for key, column in given.pop(name).items()}
    found = [
        (name, index)
        for name, column in given.items()
        if isinstance(index := getattr(column, "index", None), pd.Index)
        and index.is_unique
        and not (name.startswith("y_pred") and index.equals(pd.RangeIndex(len(index))))
    ]
    for (one, index), (other, its) in combinations(found, 2):
        if len(index) == len(its) and index.nlevels == its.nlevels and _is_another_order(index, its):
            raise ValueError(
                f"{other} has the index of {one} in another order, and rows are taken by their position. Put "
                f"it in the order of {one}, {other}.loc[{one}.index], or, if it is in that order, drop its "
                "index."
            )


def _is_another_order(index: pd.Index, other: pd.Index) -> bool:
    """Tell whether an index has the labels of another of its length, of whatever type, in another order."""
    if index.equals(other):
        return False
    try:
        if np.any(index.get_indexer(other[:_FEW]) < 0):
            return False
        position = index.get_indexer(other)
    except (TypeError, ValueError):  # labels that cannot be compared
        return False
    return bool(np.all(position >= 0) and np.any(position != np.arange(len(index))))
