r"""Confidence limits of the differences between groups' rates, good for few rows and rates near 0 and 1, too.

Those of one rate are the limits of Clopper and Pearson (Biometrika 26, 1934),

.. math:: l = B^{-1}(\alpha; \; n p, \; n - n p + 1), \qquad u = B^{-1}(1 - \alpha; \; n p + 1, \; n - n p),

with the quantile :math:`B^{-1}` of the beta distribution and, where rows have weights, the number :math:`n`
of rows without any that has the same variance (Korn and Graubard, Survey Methodology 24, 1998). Those of a
difference come from the limits of its rates (Newcombe, Statistics in Medicine 17, 1998, method 10; Zou and
Donner, Statistics in Medicine 27, 2008):

.. math::

    p_g - p_h - \sqrt{(p_g - l_g)^2 + (u_h - p_h)^2}, \qquad p_g - p_h + \sqrt{(u_g - p_g)^2 + (p_h - l_h)^2}.

With 30 rows and a rate near 0 the normal approximation is wrong in up to a fifth of the cases, where one in
twenty is stated.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from skfairprune.constraints import Constraint, Floats
from skfairprune.gaps import GroupCounts, utility_range

__all__ = ["Difference", "Rates", "rate_limits"]

_POWER_90 = 1 + 1.2816 / 1.645  # of the 90 % and the 95 % quantile of the normal distribution


class Difference(NamedTuple):
    """A limit of the difference between the rates of two groups.

    Attributes
    ----------
    limit : float
        The limit.
    smaller, larger : int
        The groups, the one with the smaller rate first.
    """

    limit: float
    smaller: int
    larger: int


class Rates(NamedTuple):
    """The rates of some groups in one event, with their limits.

    Attributes
    ----------
    groups : ndarray of shape (n,)
        The codes of the groups.
    rates : ndarray of shape (n,)
        Their rates.
    lower, upper : ndarray of shape (n,)
        One-sided limits of each rate.
    span : float
        The range of the utility, and so the largest difference.
    """

    groups: NDArray[np.intp]
    rates: Floats
    lower: Floats
    upper: Floats
    span: float

    def largest(self, sign: int) -> Difference:
        """Return the largest lower (-1) or upper (+1) limit of a difference between two groups."""
        down, up = (self.rates - self.lower) ** 2, (self.upper - self.rates) ** 2
        own, other = (up, down) if sign > 0 else (down, up)
        found = Difference(-np.inf, -1, -1)
        for larger in range(len(self.groups)):  # row by row: there may be thousands of groups
            limits = self.rates[larger] - self.rates + sign * np.sqrt(own[larger] + other)
            limits[larger] = -np.inf
            smaller = int(limits.argmax())
            if limits[smaller] > found.limit:
                found = Difference(float(limits[smaller]), smaller, larger)
        smaller, larger = (int(self.groups[at]) for at in found[1:])
        return Difference(min(found.limit, self.span), smaller, larger)

    def growth(self, bound: float) -> float:
        """Return how many times as many rows it would take for all upper limits to be within the bound.

        If the rates were those of the population, and one difference alone were near the bound, about nine of
        ten samples of so many rows would do: limits shrink with the root of the number. Infinite if a
        difference is not below the bound.
        """
        down, up = (self.rates - self.lower) ** 2, (self.upper - self.rates) ** 2
        worst = 0.0
        for larger in range(len(self.groups)):
            room = np.delete(bound - (self.rates[larger] - self.rates), larger)
            if room.min() <= 0:
                return np.inf
            needed = (up[larger] + np.delete(down, larger)) / room**2
            worst = max(worst, float(needed.max()))
        return worst * _POWER_90**2


def rate_limits(counts: GroupCounts, constraint: Constraint, alpha: float) -> tuple[Floats, Floats]:
    """Return the lower and the upper limit of each rate, both of shape (n_events, n_groups).

    Parameters
    ----------
    counts : GroupCounts
        The weighted counts.
    constraint : Constraint
        The constraint.
    alpha : float
        The probability that a limit may have of being wrong, in (0, .5).
    """
    low, high = utility_range(constraint)
    rates, span = counts.rates(constraint), high - low
    p = (rates - low) / span
    # of weights too small to be squared no row is left
    n = np.nan_to_num(_effective_rows(counts, constraint, p, span), nan=0.0, posinf=0.0)
    x = n * p
    with np.errstate(invalid="ignore"):
        lower = np.where(x > 0, betaincinv(x, n - x + 1, alpha), 0.0)
        upper = np.where(x < n, betaincinv(x + 1, n - x, 1 - alpha), 1.0)
    # a limit is on its side of the rate, whatever rounding does
    return np.minimum(low + span * lower, rates), np.maximum(low + span * upper, rates)


def _effective_rows(counts: GroupCounts, constraint: Constraint, p: Floats, span: Floats) -> Floats:
    """Return how many rows of 0 or 1, without weights, have a mean with the variance of each rate.

    They are not more than the weights leave of the rows (Kish, "Survey Sampling", 1965), but for a utility
    that has values within its range: its variance is smaller.
    """
    low, high = (end[:, :, None] for end in utility_range(constraint))
    inside, utilities = constraint.members[:, :, None] > 0, constraint.utilities
    is_end = (utilities == low) | (utilities == high)
    weight = constraint.cell_sums(counts.counts.sum(axis=2))
    squares = constraint.cell_sums(counts.squares.sum(axis=2))
    rates = counts.rates(constraint)
    deviation = (utilities[:, :, None, :] - rates[:, None, :, None]) ** 2
    spread = np.einsum("ek,ekgd,kgd->eg", constraint.members, deviation, counts.squares)
    binomial = p * (1 - p) * span**2
    with np.errstate(invalid="ignore", divide="ignore"):
        kish = weight**2 / squares
        two_ends = np.fmin(kish, np.where(spread > 0, binomial * weight**2 / spread, kish))
        others = binomial / counts.standard_errors(constraint) ** 2
    return np.where(np.all(is_end | ~inside, axis=(1, 2))[:, None], two_ends, others)
