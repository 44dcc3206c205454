"""The search for the smallest network: sizes tried by bisection, each trained and judged on held-out rows."""

from collections.abc import Callable
from typing import NamedTuple

from skfairprune.gaps import Gap

__all__ = ["Trial", "find_smallest", "geometric_budgets"]


class Trial(NamedTuple):
    """One size that was tried.

    Attributes
    ----------
    widths : tuple of int
        The units left in each prunable layer.
    cost : float
        What it costs.
    accuracy : float
        Its accuracy on held-out rows, after the rule.
    drop_error : float
        The sampling standard error of what it is less accurate than the dense network on the same rows.
    gap : Gap or None
        Its gap on held-out rows; None without a constraint.
    missed : str
        What of the network is not within what is allowed: "accuracy", "variation" (it decides alike for too
        many rows), "gap", several of them with a comma between; empty if all is.
    """

    widths: tuple[int, ...]
    cost: float
    accuracy: float
    drop_error: float
    gap: Gap | None
    missed: str

    @property
    def within(self) -> bool:
        """Whether all is within what is allowed."""
        return not self.missed


def geometric_budgets(dense: float, least: float, factor: float = 0.7) -> list[int]:
    """Return budgets below the dense network's cost, from the largest to the least, in equal ratios.

    Parameters
    ----------
    dense, least : float
        The cost of the dense network, and of the smallest there is.
    factor : float
        The ratio of neighbours, at most.

    Examples
    --------
    >>> from skfairprune.training.search import geometric_budgets
    >>> geometric_budgets(100, 20, 0.5)
    [50, 25, 20]
    """
    budgets = []
    budget = dense * factor
    while budget > least:
        budgets.append(int(budget))
        budget *= factor
    return sorted({*budgets, int(least)}, reverse=True)


def find_smallest(n_sizes: int, within: Callable[[int], bool]) -> int | None:
    """Return the number of the smallest size that is within what is allowed, by bisection.

    Sizes are numbered from the largest to the smallest. Whoever is within is taken to have all larger ones
    within, too; held-out figures are noisy, so this holds to their error only.

    Parameters
    ----------
    n_sizes : int
        The number of sizes.
    within : callable
        Takes a number in [0, n_sizes), tries that size.

    Returns
    -------
    int or None
        None if no size that was tried is within.

    Examples
    --------
    >>> from skfairprune.training.search import find_smallest
    >>> find_smallest(20, lambda number: number <= 13)
    13
    """
    low, high, found = 0, n_sizes - 1, None
    while low <= high:
        middle = (low + high) // 2
        if within(middle):
            found, low = middle, middle + 1
        else:
            high = middle - 1
    return found
