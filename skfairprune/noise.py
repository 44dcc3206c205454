"""The noise of observed gaps: how far from a bound a rule has to aim, and which gaps are those of chance.

Chance alone gives gaps up to about the margin, which is the standard error of the observed gap, times
:func:`extremeness`: the extremes of many rates lie apart by chance. The groups that count there for a pair
are those about as well known as the less known of the two, or better: many groups of few rows hide no gap
between two large ones.

- The observed gap of each event is to be clear of the bound by the margin, but no less than half the bound
  is aimed at: where the error is near the bound, noise costs no more accuracy than that.
- A gap that chance alone may give drives nothing: to close it is to open one on other rows. Of a gap
  :math:`G` between two groups that is beyond its margin, what is aimed at is no less than
  :math:`l^2 / G`, with :math:`l` the ``left`` of :class:`Pairs`, which the non-negative garrote leaves as
  noise (Breiman, "Better subset regression using the nonnegative garrote", 1995). Of several such pairs of an
  event the one counts of which least is left, so that a group of few rows hides no gap between larger ones.
  Where no pair is beyond its margin, the event may keep its gap.
- A group whose margin to every other is more than half the gap between much better known ones drives nothing
  either, in that event, unless it has a gap of twice its margin: to hold its rate, of which little is known
  at that scale, near the others' would cost accuracy for chance. No group counts as known better than its
  rows tell by the mean variance of a row of the event: by its own alone, one of few rows, none of which has
  the rarer decision, would seem to be known best.
"""

from collections import Counter
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import simpson
from scipy.special import ndtr

from skfairprune.constraints import Floats

__all__ = ["Noise", "Pairs", "compare_groups", "extremeness"]

# The least share of the bound that is aimed at: below that, on very small data, accuracy would be paid for
# noise.
_LEAST_TARGET = 0.5
# Groups are about as well known if their standard error is at most so many times as large.
_AS_KNOWN = 2.0
# By how many margins a gap has to be shown for a group of which else nothing is known to drive a rule.
_CLEARLY = 2.0
# What the margin of a group may be of the gap between better known ones.
_SCALE = 0.5
# Ranges of normal samples, in their standard deviations.
_RANGES = np.linspace(0, 18, 361)
# The share of a gap's standard error from which on what is left to chance is worth a training of its own: of
# a gap of more than three standard errors less is left.
_WORTH = 1 / 3


class Noise(NamedTuple):
    """The noise of the unconstrained gaps, by event; all 0 where an event has none.

    Attributes
    ----------
    driven : ndarray of shape (n_events, n_groups) of bool
        The cells that a rule can be fitted for; gaps, errors and margins are of them.
    gap : ndarray of shape (n_events,)
        The gaps.
    error : ndarray of shape (n_events,)
        Their sampling standard errors.
    margin : ndarray of shape (n_events,)
        By how much a gap is to be clear of a bound.
    floor : ndarray of shape (n_events,)
        The least gap that is aimed at: what chance alone may have given the unconstrained one.
    """

    driven: NDArray[np.bool_]
    gap: Floats
    error: Floats
    margin: Floats
    floor: Floats

    @classmethod
    def of(cls, rates: Floats, errors: Floats, n_rows: Floats, included: NDArray[np.bool_]) -> "Noise":
        """Return the noise of unconstrained rates.

        Parameters
        ----------
        rates, errors : ndarray of shape (n_events, n_groups)
            The rates of the cells and their standard errors; NaN where there is no weight.
        n_rows : ndarray of shape (n_events, n_groups)
            The effective numbers of their rows.
        included : ndarray of shape (n_events, n_groups) of bool
            The cells under the constraint.
        """
        there = included & np.isfinite(rates)
        unknown = np.zeros_like(there)
        for event, cells in enumerate(there):
            figures = (rates[event, cells], errors[event, cells], n_rows[event, cells])
            unknown[event, cells] = ~_is_known(*figures, there.sum(axis=1))
        there &= ~unknown
        found = [
            _measure(rates[event, cells], errors[event, cells], there.sum(axis=1))
            for event, cells in enumerate(there)
        ]
        return cls(included & ~unknown, *np.array(found).reshape(-1, 4).T)

    def clear(self, bound: float) -> Floats:
        """Return the gap of each event that is clear of the bound by its margin, or half the bound."""
        return np.maximum(bound - self.margin, _LEAST_TARGET * bound)

    def target(self, bound: float) -> Floats:
        """Return the gap that a rule aims at in each event: clear of the bound, as far as noise lets it."""
        return np.maximum(self.clear(bound), self.floor)

    @property
    def least_bound(self) -> float:
        """The least bound that the unconstrained rule keeps."""
        needed = np.minimum(self.gap + self.margin, self.gap / _LEAST_TARGET)
        return float(np.where(self.gap <= self.floor, 0.0, needed).max(initial=0.0))

    def stops_short(self, bound: float) -> bool:
        """Tell whether noise stops a rule short of the bound, in any event, and not by a trifle."""
        left = np.minimum(self.gap, self.floor)
        return bool(np.any((left > bound) & (self.floor > _WORTH * self.error)))


@lru_cache(maxsize=4096)
def extremeness(n_groups: tuple[int, ...]) -> float:
    r"""Return how many times as far apart chance puts the extremes of some groups as it does two.

    It is the mean of the largest range of an event, of rates that are independent and normal with one error,
    over that of two rates, :math:`2 / \sqrt\pi` of their error. The range of :math:`n` has the distribution

    .. math:: P(R \le r) = n \int \varphi(x)\, [\Phi(x + r) - \Phi(x)]^{n-1} dx

    (Hartley, "The range in random samples", 1942). It is 1 for two groups, :math:`\sqrt 2` for two in each of
    two events, 4 for fifty.

    Parameters
    ----------
    n_groups : tuple of int
        The groups of each event; events of fewer than two do not count.

    Returns
    -------
    float
        At least 1; 1 if no event counts.
    """
    within = np.ones(len(_RANGES))
    for n, times in Counter(n_groups).items():
        if n > 1:
            within *= _range_distribution(n) ** times
    return float(max(simpson(1 - within, x=_RANGES) * np.sqrt(np.pi) / 2, 1.0))


@cache
def _range_distribution(n: int) -> Floats:
    """Return the probability that the range of n normal numbers is at most each of some ranges."""
    x = np.linspace(-9, 9, 361)
    between = ndtr(x + _RANGES[:, None]) - ndtr(x)
    return n * simpson(np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) * between ** (n - 1), x=x, axis=1)


class Pairs(NamedTuple):
    r"""The pairs of groups of an event.

    Attributes
    ----------
    first, second : ndarray of shape (n_pairs,)
        The groups.
    gaps : ndarray of shape (n_pairs,)
        The differences of their rates, not negative.
    errors : ndarray of shape (n_pairs,)
        Their sampling standard errors.
    margins : ndarray of shape (n_pairs,)
        The gaps that chance alone may give.
    left : ndarray of shape (n_pairs,)
        Of a gap beyond its margin, what its square over the gap leaves as noise: the error times the root of
        :math:`\log_2` of the number of cells that are compared, the margin itself where groups are two.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    gaps: Floats
    errors: Floats
    margins: Floats
    left: Floats


def compare_groups(rates: Floats, errors: Floats, n_groups: NDArray[np.intp]) -> Pairs:
    """Compare the groups of an event with each other.

    The margin of a group beside much better known ones is wide by a fifth with ten such groups: the
    range is of rates that all move by chance, and there but one end does.

    Parameters
    ----------
    rates, errors : ndarray of shape (n_groups,)
        The rates of the groups and their standard errors.
    n_groups : ndarray of shape (n_events,)
        The groups of each event that is compared beside it.
    """
    n_known = (errors <= _AS_KNOWN * errors[:, None]).sum(axis=1)
    n_compared = [np.minimum(n, n_groups) for n in n_known]
    width = np.array([extremeness(tuple(sizes.tolist())) for sizes in n_compared])
    narrow = np.sqrt(np.log2([max(sizes.sum(), 2) for sizes in n_compared]))
    first, second = np.triu_indices(len(rates), 1)
    spread = np.hypot(errors[first], errors[second])
    less_known = np.where(errors[first] > errors[second], first, second)
    margins, left = spread * width[less_known], spread * narrow[less_known]
    return Pairs(first, second, np.abs(rates[first] - rates[second]), spread, margins, left)


def _is_known(rates: Floats, errors: Floats, n_rows: Floats, n_groups: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Tell which groups of an event are known well enough for its gaps, of shape (n_groups,).

    Their errors are at least those by the mean variance of a row. The gap that counts is the largest beyond
    its margin of the best known groups that have one. Those that are about as well known are, and others
    whose margin to some group is at most half of it, or who have a gap that is clearly theirs.
    """
    if len(rates) < 3:
        return np.ones(len(rates), bool)
    alike = np.sqrt(n_rows @ (n_rows * errors**2) / n_rows.sum() / n_rows)
    errors = np.maximum(errors, alike)
    pairs = compare_groups(rates, errors, n_groups)
    beyond = pairs.gaps > pairs.margins
    if not beyond.any():
        return np.ones(len(rates), bool)
    least = np.full(len(rates), np.inf)
    clearly = np.zeros(len(rates), bool)
    for group in pairs[:2]:
        np.minimum.at(least, group, pairs.margins)
        np.logical_or.at(clearly, group, pairs.gaps > _CLEARLY * pairs.margins)
    less_known = np.maximum(errors[pairs.first], errors[pairs.second])
    as_known = errors <= _AS_KNOWN * less_known[beyond].min()
    known, scale = as_known, 0.0
    while True:
        among = beyond & known[pairs.first] & known[pairs.second]
        if (largest := pairs.gaps[among].max()) <= scale:
            return known
        scale = largest
        known = known | clearly | (least <= _SCALE * scale)


def _measure(rates: Floats, errors: Floats, n_groups: NDArray[np.intp]) -> tuple[float, float, float, float]:
    """Return gap, error, margin and floor of the rates of one event; ``n_groups`` are those of each event."""
    if len(rates) < 2:
        return 0.0, 0.0, 0.0, 0.0
    _, _, gaps, spread, margins, left = compare_groups(rates, errors, n_groups)
    widest, beyond = gaps.argmax(), gaps > margins
    chance = max(gaps[widest], margins.min())
    floor = np.min(left[beyond] ** 2 / gaps[beyond]) if beyond.any() else chance
    return gaps[widest], spread[widest], margins[widest], floor
