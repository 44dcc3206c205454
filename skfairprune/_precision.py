"""Whether numbers of less precision still tell values apart."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_ROWS", "keeps_apart"]

#: Rows that are looked at.
MOST_ROWS = 10_000
_MOST_DISTINCT = 1000  # that have to be told apart


def keeps_apart(distinct: Any, dtype: type[np.floating]) -> bool:
    """Tell whether a type keeps more than half of distinct values apart; of over 1,000 500 are enough.

    Parameters
    ----------
    distinct : array-like of shape (n_values,)
        Distinct numbers, none missing.
    dtype : type
        Of NumPy.
    """
    with np.errstate(over="ignore"):
        kept: NDArray[np.floating] = np.unique(np.asarray(distinct, dtype))
    return len(distinct) < 2 or len(kept) > min(len(distinct), _MOST_DISTINCT) / 2
