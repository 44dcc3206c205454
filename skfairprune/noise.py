"""The noise of observed gaps: how far from a bound a rule has to aim, and which gaps are those of chance.

Chance alone gives gaps up to about the margin, which is the standard error of the observed gap, and more with
many events and groups, whose extremes grow by chance.

- The observed gap of each event is to be clear of the bound by the margin, but no less than half the bound
  is aimed at: where the error is near the bound, noise costs no more accuracy than that.
- A gap that chance alone may give drives nothing: to close it is to open one on other rows. Of a gap
  :math:`G` between two groups that is beyond its margin :math:`m`, what is aimed at is no less than
  :math:`m^2 / G`, which the non-negative garrote leaves as noise (Breiman, "Better subset regression using
  the nonnegative garrote", 1995). Of several such pairs of an event the one counts of which least is left,
  so that a group of few rows hides no gap between larger ones. Where no pair is beyond its margin, the event
  may keep its gap.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skfairprune.constraints import Floats

__all__ = ["Noise"]

# Standard errors that the margin has between two groups, and the least share of the bound that is aimed at:
# below that, on very small data, accuracy would be paid for noise.
_MARGIN, _LEAST_TARGET = 1.0, 0.5
# The share of a gap's standard error from which on what is left to chance is worth a training of its own: of
# a gap of more than three standard errors less is left.
_WORTH = 1 / 3


class Noise(NamedTuple):
    """The noise of the unconstrained gaps, by event; all 0 where an event has none.

    Attributes
    ----------
    gap : ndarray of shape (n_events,)
        The gaps.
    error : ndarray of shape (n_events,)
        Their sampling standard errors.
    margin : ndarray of shape (n_events,)
        By how much a gap is to be clear of a bound.
    floor : ndarray of shape (n_events,)
        The least gap that is aimed at: what chance alone may have given the unconstrained one.
    """

    gap: Floats
    error: Floats
    margin: Floats
    floor: Floats

    @classmethod
    def of(cls, rates: Floats, errors: Floats, included: NDArray[np.bool_]) -> "Noise":
        """Return the noise of unconstrained rates.

        Parameters
        ----------
        rates, errors : ndarray of shape (n_events, n_groups)
            The rates of the cells and their standard errors; NaN where there is no weight.
        included : ndarray of shape (n_events, n_groups) of bool
            The cells under the constraint.
        """
        there = included & np.isfinite(rates)
        # The extremes of n rates grow by chance as the root of log n does.
        width = _MARGIN * np.sqrt(np.log2(max(included.sum(), 2)))
        found = [
            _measure(rate[cells], error[cells], width)
            for rate, error, cells in zip(rates, errors, there, strict=True)
        ]
        return cls(*np.array(found).reshape(-1, 4).T)

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


def _measure(rates: Floats, errors: Floats, width: float) -> tuple[float, float, float, float]:
    """Return gap, error, margin and floor of the rates of one event."""
    first, second = np.triu_indices(len(rates), 1)
    if not len(first):
        return 0.0, 0.0, 0.0, 0.0
    gaps, margins = np.abs(rates[first] - rates[second]), np.hypot(errors[first], errors[second]) * width
    widest, beyond = gaps.argmax(), gaps > margins
    chance = max(gaps[widest], margins.min())
    floor = np.min(margins[beyond] ** 2 / gaps[beyond]) if beyond.any() else chance
    return gaps[widest], margins[widest] / width, margins[widest], floor
