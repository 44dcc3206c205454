"""How rows are shared among levels and folds."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_tiny", "stratified_folds", "stratified_part"]

_TINY = 200
_NEVER_TINY = 20_000


def is_tiny(X: NDArray) -> bool:
    """Tell whether the rows are too few to be split between the levels.

    Distinct rows are counted, so that a row of weight 2 and a row given twice are one and the same.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_columns)
        Rows.
    """
    return len(X) <= _NEVER_TINY and len(np.unique(X, axis=0)) <= _TINY


def _spread(code: NDArray[np.intp], rng: np.random.RandomState) -> NDArray[np.intp]:
    """Order rows at random within strata, the strata one after the other."""
    order = rng.permutation(len(code))
    return order[np.argsort(code[order], kind="stable")]


def stratified_folds(
    code: NDArray[np.intp], n_folds: int, rng: np.random.RandomState
) -> NDArray[np.intp]:
    """Deal rows to folds, every stratum evenly.

    Parameters
    ----------
    code : ndarray of shape (n_samples,)
        The stratum of each row.
    n_folds : int
        The number of folds.
    rng : RandomState
        Draws the order.

    Returns
    -------
    ndarray of shape (n_samples,)
        The fold of each row, in [0, n_folds).
    """
    fold = np.empty(len(code), dtype=np.intp)
    fold[_spread(code, rng)] = np.arange(len(code)) % n_folds
    return fold


def stratified_part(
    code: NDArray[np.intp], fraction: float, rng: np.random.RandomState
) -> NDArray[np.bool_]:
    """Choose a fraction of the rows, of every stratum evenly.

    Parameters
    ----------
    code : ndarray of shape (n_samples,)
        The stratum of each row.
    fraction : float
        The share of rows to choose, in (0, 1).
    rng : RandomState
        Draws the rows.

    Returns
    -------
    ndarray of shape (n_samples,) of bool
    """
    steps = np.floor(np.arange(len(code) + 1) * fraction + 0.5)
    part = np.empty(len(code), dtype=bool)
    part[_spread(code, rng)] = np.diff(steps) > 0
    return part
