"""How rows are shared between the levels, and among the folds of the upper one."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["LevelSplit", "is_tiny", "split_levels"]

_TINY = 200
_NEVER_TINY = 2000


def is_tiny(X: NDArray) -> bool:
    """Tell whether the rows are too few to be split between the levels.

    Distinct rows are counted, so that a row of weight 2 and a row given twice are one and the same; but
    many rows are never too few, however many are alike.

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


def _rank(code: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the rank of each row among those of its stratum."""
    order = np.argsort(code, kind="stable")
    strata = code[order]
    rank = np.empty(len(code), dtype=np.intp)
    rank[order] = np.arange(len(code)) - np.searchsorted(strata, strata)
    return rank


def _stratified_folds(code: NDArray[np.intp], n_folds: int, rng: np.random.RandomState) -> NDArray[np.intp]:
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


def _stratified_part(
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


class LevelSplit(NamedTuple):
    """Which rows each level reads.

    Attributes
    ----------
    lower, upper : ndarray of int
        The rows of the weights before the fine-tuning; those of gates, multipliers and held-out figures.
    final : ndarray of int
        The rows of the fine-tuning.
    fold : ndarray of shape (n_total,)
        Which copy of the fine-tuning is blind to a row; ``n_folds`` where none is, -1 where all are.
    n_folds : int
        The number of copies with rules; without, the first half of them.
    rule : ndarray of int
        The rows that rules are fitted on: the upper ones first, in the same order.
    rule_fold : ndarray of shape (n_rule,)
        The folds of the upper rows in the estimate of the gap: others than those of the copies. -1 for the
        rest, which no gap is measured on: the weights had seen them before the copies were made.
    disjoint : bool
        Whether the upper rows are held out from the weights before the fine-tuning.
    """

    lower: NDArray[np.intp]
    upper: NDArray[np.intp]
    final: NDArray[np.intp]
    fold: NDArray[np.intp]
    n_folds: int
    rule: NDArray[np.intp]
    rule_fold: NDArray[np.intp]
    disjoint: bool


def split_levels(
    code: NDArray[np.intp],
    n_train: int,
    fraction: float | None,
    n_folds: int,
    rng: np.random.RandomState,
) -> LevelSplit:
    """Share rows between the levels.

    Parameters
    ----------
    code : ndarray of shape (n_total,)
        The stratum of each row: its label and group.
    n_train : int
        The first rows are for training; any others are held out for the upper level.
    fraction : float or None
        The share of the training rows for the upper level where there are no held-out rows. None gives
        all rows to both levels.
    n_folds : int
        The folds of the upper rows, and as many of the lower ones.
    rng : RandomState
        Draws the rows.

    Returns
    -------
    LevelSplit
    """
    train = np.arange(n_train)
    if n_train < len(code):
        upper = np.arange(n_train, len(code))
        fold = np.where(np.arange(len(code)) < n_train, 0, -1)
        rule_fold = _stratified_folds(code[upper], n_folds, rng)
        return LevelSplit(train, upper, train, fold, 0, upper, rule_fold, True)
    if fraction is None:
        none = np.zeros(n_train, dtype=np.intp)
        return LevelSplit(train, train, train, none, 0, train, none, False)
    part = _stratified_part(code, fraction, rng)
    upper, lower, fold = np.flatnonzero(part), np.flatnonzero(~part), np.empty(n_train, dtype=np.intp)
    fold[upper] = _stratified_folds(code[upper], n_folds, rng)
    fold[lower] = n_folds + _stratified_folds(code[lower], n_folds, rng)
    # In the order of their folds, so that a batch to evaluate is of one network.
    rule = np.argsort(fold, kind="stable")
    upper = rule[: len(upper)]
    # Each has as many rows of every blind fold: what tells the copies apart cancels from the rates of both.
    rule_fold = np.full(n_train, -1)
    rule_fold[: len(upper)] = (_rank(code[upper] * n_folds + fold[upper]) + fold[upper]) % n_folds
    return LevelSplit(lower, upper, train, fold, 2 * n_folds, rule, rule_fold, True)
