"""Rates and gaps of a constraint, counted on rows, with their sampling errors."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skfairprune.constraints import Constraint, Floats
from skfairprune.noise import compare_groups

__all__ = ["NORMAL_95", "CellRates", "Gap", "GroupCounts", "is_within", "largest_gap", "utility_range"]


class Gap(NamedTuple):
    """The largest gap of a constraint over its events, with its sampling error.

    Attributes
    ----------
    value : float
        Largest minus smallest rate; NaN if no event has two groups with rows.
    standard_error : float
        Sampling standard error of ``value``, from the two cells' sampling variances.
    event : int
        Index of the event with the largest gap; -1 if undefined.
    lowest : int
        Group with the smallest rate in that event; -1 if undefined.
    highest : int
        Group with the largest rate in that event; -1 if undefined.
    """

    value: float
    standard_error: float
    event: int
    lowest: int
    highest: int


NORMAL_95 = 1.645  # the normal distribution's 95 % quantile
_UNDEFINED = Gap(np.nan, np.nan, -1, -1, -1)


def largest_gap(event_gaps: Sequence[Gap]) -> Gap:
    """Return the largest of the events' gaps; an undefined one if none is defined."""
    defined = [gap for gap in event_gaps if np.isfinite(gap.value)]
    return max(defined, key=lambda gap: gap.value, default=_UNDEFINED)


def is_within(event_gaps: Sequence[Gap], bound: float) -> bool:
    """Tell whether no event's gap is above the bound by more than its standard error.

    An event without a gap breaks no bound.
    """
    below = np.array([gap.value - gap.standard_error for gap in event_gaps])
    return not np.any(below > bound)


def utility_range(constraint: Constraint) -> tuple[Floats, Floats]:
    """Return the least and the largest utility of each event, of shape (n_events, 1)."""
    inside = constraint.members[:, :, None] > 0
    low = np.where(inside, constraint.utilities, np.inf).min(axis=(1, 2))
    high = np.where(inside, constraint.utilities, -np.inf).max(axis=(1, 2))
    return low[:, None], high[:, None]


class CellRates(NamedTuple):
    """The rates of the cells, and which of them count.

    Attributes
    ----------
    rates : ndarray of shape (n_events, n_groups)
        NaN where there is no weight.
    standard_errors : ndarray of shape (n_events, n_groups)
        Their sampling standard errors.
    included : ndarray of shape (n_events, n_groups) of bool
        The cells that count in a gap, if they have weight.
    """

    rates: Floats
    standard_errors: Floats
    included: NDArray[np.bool_]

    def _events(self) -> Iterator[tuple[NDArray[np.intp], Floats, Floats]]:
        """Yield of each event the groups that count, their rates and errors."""
        there = self.included & np.isfinite(self.rates)
        for rates, errors, cells in zip(self.rates, self.standard_errors, there, strict=True):
            groups = np.flatnonzero(cells)
            yield groups, rates[groups], errors[groups]

    def event_gaps(self) -> list[Gap]:
        """Return the gap in each event; undefined where fewer than two groups count."""
        gaps = []
        for event, (groups, rates, errors) in enumerate(self._events()):
            if len(groups) < 2:
                gaps.append(_UNDEFINED)
                continue
            # Of equal rates the first is the lowest and the last the highest: two groups even then.
            low, high = int(rates.argmin()), len(rates) - 1 - int(rates[::-1].argmax())
            error = float(np.hypot(errors[low], errors[high]))
            where = (event, int(groups[low]), int(groups[high]))
            gaps.append(Gap(float(rates[high] - rates[low]), error, *where))
        return gaps

    def may_be_chance(self, bound: float) -> bool:
        """Tell whether chance may make what is above a bound (:func:`skfairprune.noise.compare_groups`)."""
        for _, rates, errors in self._events():
            pairs = compare_groups(rates, errors, np.array([len(rates)]))
            if np.any(pairs.gaps - pairs.margins > bound):
                return False
        return True

    def upper_limit(self) -> float:
        """Return the largest one-sided 95 % limit of the difference between two groups, over all events.

        It is the difference plus 1.645 standard errors. Two groups of which one has few rows can have a
        smaller difference and a larger limit than the extreme ones. NaN if no event has two groups.
        """
        largest = np.nan
        for _, rates, errors in self._events():
            for number in range(len(rates) if len(rates) > 1 else 0):
                limits = rates - rates[number] + NORMAL_95 * np.hypot(errors, errors[number])
                largest = np.fmax(largest, np.delete(limits, number).max())
        return float(largest)


class GroupCounts(NamedTuple):
    """Weighted counts of rows by kind, group and decision.

    Attributes
    ----------
    counts : ndarray of shape (n_kinds, n_groups, n_decisions)
        Sum of the weights.
    squares : ndarray of shape (n_kinds, n_groups, n_decisions)
        Sum of the squared weights, for sampling errors.
    mixed : ndarray of shape (n_kinds, n_groups, n_decisions, n_decisions) or None
        Above the diagonal, the sum of the squared weights times the shares of two decisions in a row; None if
        each row has but one decision.
    """

    counts: Floats
    squares: Floats
    mixed: Floats | None = None

    @classmethod
    def from_rows(
        cls,
        kind: ArrayLike,
        decision: ArrayLike,
        group: ArrayLike,
        shape: tuple[int, int, int],
        sample_weight: ArrayLike | None = None,
    ) -> "GroupCounts":
        """Count rows.

        Parameters
        ----------
        kind : array-like of shape (n_samples,)
            Kinds in [0, n_kinds).
        decision : array-like of shape (n_samples,)
            Decisions in [0, n_decisions).
        group : array-like of shape (n_samples,)
            Group codes in [0, n_groups).
        shape : tuple of int
            ``(n_kinds, n_groups, n_decisions)``.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights; None weighs every row 1.
        """
        codes = (np.asarray(kind, np.intp), np.asarray(group, np.intp), np.asarray(decision, np.intp))
        code = np.ravel_multi_index(codes, shape)
        weight = np.ones(len(code)) if sample_weight is None else np.asarray(sample_weight, float)

        def count(values: Floats) -> Floats:
            return np.bincount(code, values, minlength=int(np.prod(shape))).astype(np.float64).reshape(shape)

        return cls(count(weight), count(weight**2))

    @classmethod
    def from_shares(
        cls,
        kind: NDArray[np.intp],
        shares: Floats,
        group: NDArray[np.intp],
        shape: tuple[int, int, int],
        weight: Floats,
    ) -> "GroupCounts":
        """Count rows of which each decision has a share.

        Parameters
        ----------
        kind, group, shape
            As in :meth:`from_rows`.
        weight : ndarray of shape (n_samples,)
            Non-negative weights.
        shares : ndarray of shape (n_samples, n_decisions)
            The share of each decision; of sum 1, and any of them may be negative, as counts then may be.
        """
        n_kinds, n_groups, n_decisions = shape
        code = kind * n_groups + group

        def count(values: Floats) -> Floats:
            sums = np.bincount(code, values, minlength=n_kinds * n_groups)
            return sums.astype(np.float64).reshape(n_kinds, n_groups)

        def count_shares(weight: Floats) -> Floats:
            return np.stack([count(weight * share) for share in shares.T], axis=2)

        mixed = np.zeros((n_kinds, n_groups, n_decisions, n_decisions))
        for first, second in itertools.combinations(range(n_decisions), 2):
            mixed[:, :, first, second] = count(weight**2 * shares[:, first] * shares[:, second])
        return cls(count_shares(weight), count_shares(weight**2), mixed)

    @property
    def n_groups(self) -> int:
        """The number of groups."""
        return self.counts.shape[1]

    def rates(self, constraint: Constraint) -> Floats:
        """Return the rates of the cells, of shape (n_events, n_groups); NaN where there is no weight.

        Of rows with shares they may come out beyond the utilities that there are: the nearest is taken.
        """
        return np.clip(constraint.rates(self.counts), *utility_range(constraint))

    def standard_errors(self, constraint: Constraint) -> Floats:
        r"""Return the sampling standard errors of the rates, of shape (n_events, n_groups).

        .. math:: \mathrm{se}(r)^2 = \frac{\sum w_i^2 (U_i - \tilde r)^2}{(\sum w_i)^2}, \qquad
                  \tilde r = \frac{n r + \tfrac12 (U_{min} + U_{max})}{n + 1},
                  \quad n = \frac{(\sum w_i)^2}{\sum w_i^2},

        the sandwich estimate, with half an observation at each end of the utility's range added (as
        Jeffreys' prior does, in the mean and in the variance): without it a rate of 0 or 1 would
        seem to have no error, however few its rows. Of a row with shares :math:`z_d` of its decisions the
        utility is :math:`U = \sum_d z_d U_d`, and its square
        :math:`\sum_d z_d U_d^2 - \sum_{d < d'} z_d z_{d'} (U_d - U_{d'})^2`.
        """
        squares = constraint.cell_sums(self.squares.sum(axis=2))
        low, high = utility_range(constraint)
        n = self.effective_rows(constraint)
        with np.errstate(invalid="ignore", divide="ignore"):
            centre = (n * self.rates(constraint) + (low + high) / 2) / (n + 1)
            deviation = (constraint.utilities[:, :, None, :] - centre[:, None, :, None]) ** 2
            spread = np.einsum("ek,ekgd,kgd->eg", constraint.members, deviation, self.squares) / squares
            if self.mixed is not None:
                steps = (constraint.utilities[:, :, :, None] - constraint.utilities[:, :, None, :]) ** 2
                shared = np.einsum("ek,ekdc,kgdc->eg", constraint.members, steps, self.mixed)
                spread = np.maximum(spread - shared / squares, 0.0)  # below 0 by rounding alone
            ends = ((low - centre) ** 2 + (high - centre) ** 2) / 2
            return np.sqrt((n * spread + ends) / (n + 1) / n)

    def effective_rows(self, constraint: Constraint) -> Floats:
        """Return how many rows of one weight the cells are worth, of shape (n_events, n_groups) (Kish)."""
        weight = constraint.cell_sums(self.counts.sum(axis=2))
        with np.errstate(invalid="ignore"):
            return weight**2 / constraint.cell_sums(self.squares.sum(axis=2))

    def cell_rates(self, constraint: Constraint, included: NDArray[np.bool_] | None = None) -> CellRates:
        """Return the rates of the cells with their standard errors.

        Parameters
        ----------
        constraint : Constraint
            The constraint.
        included : ndarray of shape (n_events, n_groups) of bool, default=None
            The cells that count in a gap; None counts every cell that has weight.
        """
        rates, errors = self.rates(constraint), self.standard_errors(constraint)
        return CellRates(rates, errors, np.ones(rates.shape, bool) if included is None else included)

    def event_gaps(self, constraint: Constraint, included: NDArray[np.bool_] | None = None) -> list[Gap]:
        """Return the gap in each event; see :meth:`CellRates.event_gaps`."""
        return self.cell_rates(constraint, included).event_gaps()

    def gap(self, constraint: Constraint, included: NDArray[np.bool_] | None = None) -> Gap:
        """Return the largest of the events' gaps; see :meth:`event_gaps`."""
        return largest_gap(self.event_gaps(constraint, included))
