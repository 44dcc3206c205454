"""Columns of the same rows, given apart: rows are taken by their position, and must be in one order."""

from itertools import combinations
from typing import Any

import pandas as pd

__all__ = ["refuse_other_order"]


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
        if len(index) != len(its) or index.nlevels != its.nlevels or its.equals(index):
            continue
        if index.isin(its).all():
            raise ValueError(
                f"{other} has the index of {one} in another order, and rows are taken by their position. Put "
                f"it in the order of {one}, {other}.loc[{one}.index], or, if it is in that order, drop its "
                "index."
            )
