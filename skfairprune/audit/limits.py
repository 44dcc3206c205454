r"""Confidence limits of the differences between groups' rates, good for few rows and rates near 0 and 1, too.

Those of a share are the limits of Clopper and Pearson (Biometrika 26, 1934),

.. math:: l = B^{-1}(\alpha; \; n p, \; n - n p + 1), \qquad u = B^{-1}(1 - \alpha; \; n p + 1, \; n - n p),

with the quantile :math:`B^{-1}` of the beta distribution and, where rows have weights, the number :math:`n`
of rows without any that has the same variance (Korn and Graubard, Survey Methodology 24, 1998). Those of a
difference come from the limits of both (Newcombe, Statistics in Medicine 17, 1998, method 10; Zou and Donner,
Statistics in Medicine 27, 2008):

.. math::

    p_g - p_h - \sqrt{(p_g - l_g)^2 + (u_h - p_h)^2}, \quad p_g - p_h + \sqrt{(u_g - p_g)^2 + (p_h - l_h)^2}.

So do those of a rate with utilities of 1 and -1, a difference of two shares of the same rows, with their
correlation :math:`\rho = -\sqrt{a b / ((1 - a)(1 - b))}`, which adds
:math:`- 2 \rho (u_a - a)(b - l_b)` under the root.

A limit of a difference is not exact as those of rates are: an audit's upper one is built from limits at
:math:`\alpha = .045`, with which it is below the true difference in at most 5 % of samples, by counts of all
samples of some pairs of rates (in 7 % where thirty rows of each have rates of .01 and .99, a difference that
no bound allows). They do not hold where weights depend on the decision and heavy rows are few: what no row
shows is unknown.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from skfairprune.constraints import Constraint, Floats
from skfairprune.gaps import GroupCounts

__all__ = ["Difference", "RateLimits", "rate_limits"]

_POWER_90 = (
    1 + 1.2816 / 1.695
)  # of the quantiles of the normal distribution at .9 and at .955, of limits at .045


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


class RateLimits(NamedTuple):
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
        The constraint, with utilities of 0, 1 and -1.
    alpha : float
        The probability that a limit may have of being wrong, in (0, .5).

    Examples
    --------
    None of 30 rows is positive. The normal approximation would have an upper limit below a share of .05 then,
    with which this happens in .95^30 = 21 % of samples.

    >>> import numpy as np
    >>> from skfairprune.audit.limits import rate_limits
    >>> from skfairprune.constraints import get_constraint
    >>> from skfairprune.gaps import NORMAL_95, GroupCounts
    >>> rows = np.array([[[30.0, 0.0]], [[0.0, 0.0]]])  # by label, group and decision
    >>> counts, rule = GroupCounts(rows, rows), get_constraint("demographic_parity")
    >>> rate_limits(counts, rule, 0.05)[1].round(3)
    array([[0.095]])
    >>> (counts.rates(rule) + NORMAL_95 * counts.standard_errors(rule)).round(3)
    array([[0.038]])
    """
    gains, gains_lower, gains_upper = _share_limits(counts, constraint, 1, alpha)
    losses, losses_lower, losses_upper = _share_limits(counts, constraint, -1, alpha)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.sqrt(gains * losses / ((1 - gains) * (1 - losses)))
    correlation = np.where(losses_upper > 0, np.nan_to_num(correlation, nan=1.0), 0.0)

    def width(gain: Floats, loss: Floats) -> Floats:
        return np.sqrt(gain**2 + loss**2 + 2 * np.minimum(correlation, 1) * gain * loss)

    rates = gains - losses
    lower = rates - width(gains - gains_lower, losses_upper - losses)
    return lower, rates + width(gains_upper - gains, losses - losses_lower)


def _share_limits(
    counts: GroupCounts, constraint: Constraint, utility: int, alpha: float
) -> tuple[Floats, Floats, Floats]:
    """Return the share of the rows of a cell that have a utility, with its limits; 0 if none can have it."""
    has = (constraint.utilities == utility).astype(np.float64)
    share = replace(constraint, utilities=has)
    weight = constraint.cell_sums(counts.counts.sum(axis=2))
    squares = constraint.cell_sums(counts.squares.sum(axis=2))
    # not GroupCounts.rates: an event where none can have the utility has no range
    p = share.rates(counts.counts)
    deviation = (has[:, :, None, :] - p[:, None, :, None]) ** 2
    spread = np.einsum("ek,ekgd,kgd->eg", constraint.members, deviation, counts.squares)
    with np.errstate(invalid="ignore", divide="ignore"):
        kish = weight**2 / squares
        n = np.fmin(kish, np.where(spread > 0, p * (1 - p) * weight**2 / spread, kish))
        n = np.nan_to_num(n, nan=0.0, posinf=0.0)  # of weights too small to be squared no row is left
        x = n * p
        lower = np.where(x > 0, betaincinv(x, n - x + 1, alpha), 0.0)
        upper = np.where(x < n, betaincinv(x + 1, n - x, 1 - alpha), 1.0)
    possible = np.any((constraint.members[:, :, None] > 0) & (has > 0), axis=(1, 2))[:, None]
    # a limit is on its side of the share, whatever rounding does
    return p, np.where(possible, np.minimum(lower, p), 0.0), np.where(possible, np.maximum(upper, p), 0.0)
