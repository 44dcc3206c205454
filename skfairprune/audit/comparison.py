"""A constraint on audited rows: which rates are compared, the limits of their differences, the verdict."""

from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from skfairprune._measured import Measured
from skfairprune.audit.limits import Rates, rate_limits
from skfairprune.gaps import Gap, utility_range

__all__ = ["Comparison"]

_ERROR = 0.05  # the probability of a wrong verdict


class _Event(NamedTuple):
    """An event of a stratum: its gap, and the rates with limits for one pair and for all pairs together."""

    name: str
    stratum: Hashable
    gap: Gap
    each: Rates
    joint: Rates


class Comparison:
    """Compares the groups' rates.

    A group whose rates all have too few rows in a stratum is left out there. One that has enough for some
    events and not for others would leave the constraint half told: such rates are wanting.

    Parameters
    ----------
    measured : Measured
        The rows, counted.
    size : int
        The least number of rows with weight of a rate that is compared.
    """

    def __init__(self, measured: Measured, size: int) -> None:
        rule = measured.constraint
        enough = [rule.cell_sums(rows) >= size for rows in measured.n_weighted]
        there = [cells.any(axis=0) for cells in enough]
        self._measured, self._whole = measured, measured.strata is None
        self._wanting = [groups & ~cells for groups, cells in zip(there, enough, strict=True)]
        self._cells = [
            counts.cell_rates(rule, cells) for counts, cells in zip(measured.counts, enough, strict=True)
        ]
        #: The number of rows with weight of the groups that are compared.
        self.n_samples = int(
            sum(rows[:, groups].sum() for rows, groups in zip(measured.n_weighted, there, strict=True))
        )
        self._events = self._find_events()

    @property
    def groups(self) -> tuple[Hashable, ...]:
        """The labels of the groups."""
        return self._measured.groups.labels

    @property
    def compared_groups(self) -> set[Hashable]:
        """The labels of the groups that have a rate which is compared."""
        there = np.any([cells.included.any(axis=0) for cells in self._cells], axis=0)
        return {self.groups[group] for group in np.flatnonzero(there)}

    def _find_events(self) -> list[_Event]:
        """Return the events in sorted order, and of each the strata."""
        measured, rule = self._measured, self._measured.constraint
        strata = (None,) if measured.strata is None else measured.strata.labels
        n_compared = np.array([cells.included.sum(axis=1) for cells in self._cells])
        # Each pair both ways: it is not known which of the rates is the larger.
        n_pairs = max(2, int((n_compared * (n_compared - 1)).sum()))
        limits = [
            [rate_limits(counts, rule, alpha) for alpha in (_ERROR, _ERROR / n_pairs)]
            for counts in measured.counts
        ]
        low, high = utility_range(rule)
        found = []
        for event in np.argsort(rule.events):
            for stratum, cells, both in zip(strata, self._cells, limits, strict=True):
                groups = np.flatnonzero(cells.included[event])
                rates, span = cells.rates[event, groups], float(high[event, 0] - low[event, 0])
                each, joint = (
                    Rates(groups, rates, lower[event, groups], upper[event, groups], span)
                    for lower, upper in both
                )
                found.append(_Event(rule.events[event], stratum, cells.event_gaps()[event], each, joint))
        return found

    def judge(self, bound: float | None, absent: bool) -> dict[str, Any]:
        """Return the verdict, and what it comes from, as :class:`skfairprune.audit.Audit` has it.

        Parameters
        ----------
        bound : float or None
            The bound.
        absent : bool
            Whether groups are missing that the bound is for.
        """
        found: dict[str, Any] = dict.fromkeys(
            ("gap", "standard_error", "lower", "upper", "rows_needed"), np.nan
        )
        found |= {"verdict": None, "widest": None, "surest": None, "n_samples": self.n_samples}
        events = [event for event in self._events if len(event.each.groups) > 1]
        if not events:
            return found
        widest = max(events, key=lambda event: event.gap.value)
        found |= {"gap": widest.gap.value, "standard_error": widest.gap.standard_error}
        found["widest"] = self._name(widest, widest.gap.lowest, widest.gap.highest)
        lowers = [(event.joint.largest(-1), event) for event in events]
        lower, surest = max(lowers, key=lambda pair: pair[0].limit)
        found |= {"lower": lower.limit, "surest": self._name(surest, lower.smaller, lower.larger)}
        found["upper"] = max(event.each.largest(1).limit for event in events)
        if bound is None:
            return found
        whole = not absent and not any(cells.any() for cells in self._wanting)
        if found["lower"] > bound:
            return found | {"verdict": "above"}
        if whole and found["upper"] <= bound:
            return found | {"verdict": "within"}
        if whole:
            found["rows_needed"] = self.n_samples * max(event.each.growth(bound) for event in events)
        return found | {"verdict": "undecided"}

    def _name(self, event: _Event, smaller: int, larger: int) -> tuple[Hashable, ...]:
        return event.name, event.stratum, self.groups[smaller], self.groups[larger]

    def gap_table(self) -> pd.DataFrame:
        """Tabulate the gap of each event and stratum."""
        where, rows = [], []
        for event in self._events:
            gap, compared = event.gap, len(event.each.groups) > 1
            where.append({"event": event.name} | ({} if self._whole else {"stratum": event.stratum}))
            rows.append(
                {
                    "gap": gap.value,
                    "standard_error": gap.standard_error,
                    "lower": event.joint.largest(-1).limit if compared else np.nan,
                    "upper": event.each.largest(1).limit if compared else np.nan,
                    "lowest": self.groups[gap.lowest] if compared else None,
                    "highest": self.groups[gap.highest] if compared else None,
                }
            )
        return pd.DataFrame(rows, pd.MultiIndex.from_frame(pd.DataFrame(where)))

    def rate_table(self) -> pd.DataFrame:
        """Tabulate the rate of each event, stratum and group."""
        status = [
            np.select([cells.included, wanting], ["compared", "too few rows"], "left out")
            for cells, wanting in zip(self._cells, self._wanting, strict=True)
        ]
        return self._measured.frame(
            rate=[cells.rates for cells in self._cells],
            standard_error=[cells.standard_errors for cells in self._cells],
            n_samples=[
                self._measured.constraint.cell_sums(rows).astype(np.int64) for rows in self._measured.n_rows
            ],
            status=status,
        )
