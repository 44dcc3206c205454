"""A constraint on audited rows: which rates are compared, the limits of their differences, the verdict."""

from collections.abc import Collection, Hashable
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skfairprune._measured import Measured
from skfairprune.audit.limits import Difference, RateLimits, rate_limits
from skfairprune.gaps import Gap, utility_range

__all__ = ["Comparison", "Finding", "Place"]

_ERROR = 0.05  # the probability of a wrong verdict
# Of the limits of a rate of which a difference has its upper one. That is not exact as they are: at .05 it is
# below the true difference in up to 5.5 % of samples; at .045 in at most 5 % (tests/test_audit.py counts all
# samples of some), but 7 % where one rate is near 0 and one near 1, which no bound of use allows.
_ALPHA = 0.045


class Place(NamedTuple):
    """Where a difference lies.

    Attributes
    ----------
    event : str
        The event.
    stratum : object
        The stratum; None without strata.
    smaller, larger : object
        The groups, that with the smaller rate first.
    """

    event: str
    stratum: Hashable
    smaller: Hashable
    larger: Hashable


class Finding(NamedTuple):
    """The verdict, and what it comes from; see :class:`skfairprune.audit.Audit`."""

    verdict: str | None = None
    gap: float = np.nan
    standard_error: float = np.nan
    widest: Place | None = None
    lower: float = np.nan
    surest: Place | None = None
    upper: float = np.nan
    rows_needed: float = np.nan


class _Event(NamedTuple):
    """An event of a stratum with two groups or more: its gap and the limits of differences."""

    name: str
    stratum: Hashable
    gap: Gap
    limits: RateLimits
    upper: Difference
    lower: Difference


class Comparison:
    """Compares the groups' rates.

    A group that has too few rows in a stratum is left out there. Of one that has enough, every rate has to be
    compared, or the constraint would be half told.

    Parameters
    ----------
    measured : Measured
        The rows, counted.
    size : int
        The least number of rows with weight of a group, and of a rate that is compared.
    """

    def __init__(self, measured: Measured, size: int) -> None:
        rule = measured.constraint
        self._measured, self._size = measured, size
        present = [rows.sum(axis=0) >= size for rows in measured.n_weighted]
        enough = [rule.cell_sums(rows) >= size for rows in measured.n_weighted]
        several = [cells & (cells.sum(axis=1, keepdims=True) > 1) for cells in enough]
        self._cells = [
            counts.cell_rates(rule, cells) for counts, cells in zip(measured.counts, several, strict=True)
        ]
        self._too_few = [groups & ~cells for groups, cells in zip(present, enough, strict=True)]
        self._alone = [cells & ~others for cells, others in zip(enough, several, strict=True)]
        compared = [cells.any(axis=0) for cells in several]
        #: The number of rows with weight of the groups that are compared.
        self.n_samples = int(
            sum(rows[:, groups].sum() for rows, groups in zip(measured.n_weighted, compared, strict=True))
        )
        self._events = self._find_events()

    @property
    def groups(self) -> tuple[Hashable, ...]:
        """The labels of the groups."""
        return self._measured.groups.labels

    def _find_events(self) -> list[_Event | None]:
        """Return the sorted events, and of each the strata; None where less than two groups are compared."""
        measured, rule = self._measured, self._measured.constraint
        n_compared = np.array([cells.included.sum(axis=1) for cells in self._cells])
        # Each pair both ways: it is not known which of the rates is the larger.
        n_pairs = max(2, int((n_compared * (n_compared - 1)).sum()))
        single, joint = (
            [rate_limits(counts, rule, alpha) for counts in measured.counts]
            for alpha in (_ALPHA, _ERROR / n_pairs)
        )
        low, high = utility_range(rule)
        found: list[_Event | None] = []
        for event in np.argsort(rule.events):
            span = float(high[event, 0] - low[event, 0])
            for stratum, label in enumerate(self._strata()):
                cells = self._cells[stratum]
                groups = np.flatnonzero(cells.included[event])
                if len(groups) < 2:
                    found.append(None)
                    continue
                rates = cells.rates[event, groups]
                each, every = (
                    RateLimits(groups, rates, lower[event, groups], upper[event, groups], span)
                    for lower, upper in (single[stratum], joint[stratum])
                )
                gap = cells.event_gaps()[event]
                name = rule.events[event]
                found.append(_Event(name, label, gap, each, each.largest(1), every.largest(-1)))
        return found

    def _strata(self) -> tuple[Hashable, ...]:
        strata = self._measured.strata
        return (None,) if strata is None else strata.labels

    def judge(self, bound: float | None, missing: Collection[tuple[str, Hashable]] = ()) -> Finding:
        """Return the verdict.

        Parameters
        ----------
        bound : float or None
            The bound.
        missing : collection of tuple, default=()
            Event and group of what the bound was promised for and is not compared.
        """
        events = [event for event in self._events if event is not None]
        missing = {*missing, *self.too_few()}
        if not events:
            return Finding(verdict=None if bound is None or not missing else "undecided")
        widest = max(events, key=lambda event: event.gap.value)
        surest = max(events, key=lambda event: event.lower.limit)
        upper = max(event.upper.limit for event in events)
        found = Finding(
            gap=widest.gap.value,
            standard_error=widest.gap.standard_error,
            widest=self._place(widest, widest.gap.lowest, widest.gap.highest),
            lower=surest.lower.limit,
            surest=self._place(surest, surest.lower.smaller, surest.lower.larger),
            upper=upper,
        )
        if bound is None:
            return found
        if found.lower > bound:
            return found._replace(verdict="above", rows_needed=np.inf)
        if upper <= bound and not missing:
            return found._replace(verdict="within")
        growth = max(event.limits.growth(bound) for event in events)
        if np.isfinite(growth):
            growth = float(np.max([growth, *(self._size / n if n else np.nan for n in self._count(missing))]))
        return found._replace(verdict="undecided", rows_needed=float(np.ceil(self.n_samples * growth)))

    def _count(self, names: Collection[tuple[str, Hashable]]) -> list[float]:
        """Return the numbers of rows of some events and groups."""
        rule = self._measured.constraint
        rows = np.concatenate([rule.cell_sums(rows) for rows in self._measured.n_weighted])
        found = zip(np.ndindex(rows.shape), rows.ravel(), strict=True)
        known = {(self.event_names[event], self.groups[group]): float(n) for (event, group), n in found}
        return [known.get(name, 0.0) for name in names]

    def _place(self, event: _Event, smaller: int, larger: int) -> Place:
        labels = self._measured.groups.labels
        return Place(event.name, event.stratum, labels[smaller], labels[larger])

    def gap_table(self) -> pd.DataFrame:
        """Tabulate the gap of each event and stratum."""
        names = sorted(self._measured.constraint.events)
        index = pd.MultiIndex.from_tuples([(name,) for name in names], names=["event"])
        if self._measured.strata is not None:
            keys = [(name, stratum) for name in names for stratum in self._strata()]
            index = pd.MultiIndex.from_tuples(keys, names=["event", "stratum"])
        found = self._events
        places = [None if event is None else self._place(event, *event.gap[3:]) for event in found]
        # objects: a group that is a number stays one beside None
        ends = {
            name: pd.Series([None if place is None else place[at] for place in places], index, dtype=object)
            for name, at in (("lowest", 2), ("highest", 3))
        }
        values = {
            "gap": [np.nan if event is None else event.gap.value for event in found],
            "standard_error": [np.nan if event is None else event.gap.standard_error for event in found],
            "lower": [np.nan if event is None else event.lower.limit for event in found],
            "upper": [np.nan if event is None else event.upper.limit for event in found],
        }
        return pd.DataFrame(values, index).assign(**ends)

    def rate_table(self) -> pd.DataFrame:
        """Tabulate the rate of each event, stratum and group."""
        status = [
            np.select([cells.included, too_few, alone], ["compared", "too few rows", "alone"], "left out")
            for cells, too_few, alone in zip(self._cells, self._too_few, self._alone, strict=True)
        ]
        return self._measured.frame(
            rate=[cells.rates for cells in self._cells],
            standard_error=[cells.standard_errors for cells in self._cells],
            n_samples=[
                self._measured.constraint.cell_sums(rows).astype(np.int64)
                for rows in self._measured.n_weighted
            ],
            status=status,
        )

    @property
    def event_names(self) -> tuple[str, ...]:
        """The names of the events, those of strata as in a fit."""
        rule, strata = self._measured.constraint, self._measured.strata
        return rule.events if strata is None else rule.stratified(strata.labels).events

    def compared(self) -> set[tuple[str, Hashable]]:
        """Return event and group of what is compared."""
        return self._named([cells.included for cells in self._cells])

    def too_few(self) -> set[tuple[str, Hashable]]:
        """Return event and group of the rates with too few rows, of groups that have enough."""
        return self._named(self._too_few)

    def _named(self, cells: list[NDArray[np.bool_]]) -> set[tuple[str, Hashable]]:
        """Return event and group of some cells of each stratum."""
        found = np.argwhere(np.concatenate(cells))
        return {(self.event_names[event], self.groups[group]) for event, group in found}
