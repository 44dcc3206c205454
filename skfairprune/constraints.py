"""Group-fairness constraints: events, groups and utilities, and the rates, gaps and costs they give.

Every constraint here is linear in the decision :math:`h(x) \\in \\{0, 1\\}`. Its rate in the cell
(event :math:`e`, group :math:`g`) is the mean utility

.. math:: r_{e,g} = E[a_y + b_y\\,h(x) \\mid y \\in e,\\ group = g],

its gap in an event is the largest minus the smallest rate over the groups, and its gap is the largest
over the events (as fairlearn's ``*_difference`` metrics with ``method="between_groups"``). Events and
utilities depend on a row only through its label, so a constraint is three small tables, and all rates
follow from two weighted counts: the rows and the positive decisions of each (label, group).

The utilities are those of Agarwal et al., "A Reductions Approach to Fair Classification" (2018),
as in :mod:`fairlearn.reductions`; the bound is on max − min, not on the deviation from the mean.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["CONSTRAINTS", "Constraint", "GroupCounts", "get_constraint"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Constraint:
    """A group-fairness constraint on binary decisions.

    Parameters
    ----------
    name : str
        The name in fairlearn's vocabulary.
    events : tuple of str
        The names of the events.
    members : ndarray of shape (n_events, 2)
        1 where rows of label 0 or 1 belong to the event, else 0.
    offset : ndarray of shape (2,)
        :math:`a_y`, the utility of a negative decision, by label.
    slope : ndarray of shape (2,)
        :math:`b_y`, what a positive decision adds to it, by label.
    """

    name: str
    events: tuple[str, ...]
    members: Floats
    offset: Floats
    slope: Floats

    @property
    def n_events(self) -> int:
        """The number of events."""
        return len(self.events)

    def cell_sums(self, table: ArrayLike) -> Floats:
        """Sum a table by label over the labels of each event.

        Parameters
        ----------
        table : array-like of shape (2, n_groups)
            One number per (label, group), for instance weighted counts.

        Returns
        -------
        ndarray of shape (n_events, n_groups)
        """
        return self.members @ np.asarray(table, dtype=np.float64)

    def rates(self, totals: ArrayLike, positives: ArrayLike) -> Floats:
        """Compute the rate of each cell from counts.

        Parameters
        ----------
        totals : array-like of shape (2, n_groups)
            The weight of the rows, by label and group.
        positives : array-like of shape (2, n_groups)
            The weight of the rows with a positive decision (or the sum of soft decisions).

        Returns
        -------
        ndarray of shape (n_events, n_groups)
            Rates in [0, 1]; NaN in a cell without weight.
        """
        totals = np.asarray(totals, dtype=np.float64)
        positives = np.asarray(positives, dtype=np.float64)
        utility = self.offset[:, None] * totals + self.slope[:, None] * positives
        weight = self.cell_sums(totals)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(weight > 0, self.cell_sums(utility) / weight, np.nan)

    def costs(self, multipliers: ArrayLike, cell_weights: ArrayLike) -> Floats:
        r"""Compute what a positive decision costs under given multipliers.

        The Lagrangian's constraint term :math:`\sum_{e,g} \lambda_{e,g} r_{e,g}` is, up to a constant,
        the mean over the rows of :math:`V_{y,g} h(x)` with

        .. math:: V_{y,g} = b_y \sum_{e \ni y} \lambda_{e,g} / P(e, g).

        Parameters
        ----------
        multipliers : array-like of shape (n_events, n_groups)
            Any real numbers. Those of cells without weight do not count.
        cell_weights : array-like of shape (n_events, n_groups)
            :math:`P(e, g)`, the share of all rows that lie in the cell, in [0, 1].

        Returns
        -------
        ndarray of shape (2, n_groups)
            :math:`V_{y,g}`, in units of accuracy.
        """
        multipliers = np.asarray(multipliers, dtype=np.float64)
        cell_weights = np.asarray(cell_weights, dtype=np.float64)
        price = np.divide(multipliers, cell_weights, out=np.zeros_like(multipliers), where=cell_weights > 0)
        return self.slope[:, None] * (self.members.T @ price)


def _constraint(
    name: str,
    events: dict[str, tuple[int, int]],
    offset: tuple[int, int] = (0, 0),
    slope: tuple[int, int] = (1, 1),
) -> Constraint:
    return Constraint(
        name,
        tuple(events),
        np.array(list(events.values()), dtype=np.float64),
        np.array(offset, dtype=np.float64),
        np.array(slope, dtype=np.float64),
    )


_ALL, _NEGATIVES, _POSITIVES = {"all": (1, 1)}, {"y=0": (1, 0)}, {"y=1": (0, 1)}

#: The constraints by name.
CONSTRAINTS = {
    constraint.name: constraint
    for constraint in (
        _constraint("demographic_parity", _ALL),
        _constraint("equalized_odds", _NEGATIVES | _POSITIVES),
        _constraint("true_positive_rate_parity", _POSITIVES),
        _constraint("false_positive_rate_parity", _NEGATIVES),
        _constraint("error_rate_parity", _ALL, offset=(0, 1), slope=(1, -1)),
    )
}


def get_constraint(name: str) -> Constraint:
    """Return the constraint of that name.

    Parameters
    ----------
    name : str
        One of the keys of ``CONSTRAINTS``.

    Raises
    ------
    ValueError
        If there is none of that name.

    Examples
    --------
    >>> from skfairprune.constraints import get_constraint
    >>> get_constraint("equalized_odds").events
    ('y=0', 'y=1')
    """
    if name not in CONSTRAINTS:
        raise ValueError(f"Unknown constraint {name!r}; choose one of {', '.join(CONSTRAINTS)}.")
    return CONSTRAINTS[name]


class Gap(NamedTuple):
    """The largest gap of a constraint over its events, with its sampling error.

    Attributes
    ----------
    value : float
        Largest minus smallest rate, in [0, 1]; NaN if no event has two groups with rows.
    standard_error : float
        Sampling standard error of ``value``, from the two cells' binomial variances.
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


_UNDEFINED = Gap(np.nan, np.nan, -1, -1, -1)


class GroupCounts(NamedTuple):
    """Weighted counts of rows and positive decisions by label and group.

    Attributes
    ----------
    totals : ndarray of shape (2, n_groups)
        Sum of the weights.
    positives : ndarray of shape (2, n_groups)
        Sum of the weights times the decisions.
    squares : ndarray of shape (2, n_groups)
        Sum of the squared weights, for sampling errors.
    """

    totals: Floats
    positives: Floats
    squares: Floats

    @classmethod
    def from_rows(
        cls,
        y: ArrayLike,
        decision: ArrayLike,
        group: ArrayLike,
        n_groups: int,
        sample_weight: ArrayLike | None = None,
    ) -> "GroupCounts":
        """Count rows.

        Parameters
        ----------
        y : array-like of shape (n_samples,)
            Labels, 0 or 1.
        decision : array-like of shape (n_samples,)
            Decisions: 0 or 1, or anything between for soft ones.
        group : array-like of shape (n_samples,)
            Group codes in [0, n_groups).
        n_groups : int
            The number of groups.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights; None weighs every row 1.
        """
        code = np.asarray(y, dtype=np.intp) * n_groups + np.asarray(group, dtype=np.intp)
        weight = np.ones(len(code)) if sample_weight is None else np.asarray(sample_weight, float)

        def count(values: Floats) -> Floats:
            table: Floats = np.bincount(code, values, minlength=2 * n_groups).astype(np.float64)
            return table.reshape(2, n_groups)

        return cls(count(weight), count(weight * np.asarray(decision, float)), count(weight**2))

    def rates(self, constraint: Constraint) -> Floats:
        """Return the rates of the cells, of shape (n_events, n_groups); NaN where there is no weight."""
        return constraint.rates(self.totals, self.positives)

    def standard_errors(self, constraint: Constraint) -> Floats:
        r"""Return the binomial standard errors of the rates, of shape (n_events, n_groups).

        .. math:: \mathrm{se}(r) = \sqrt{r (1 - r) \textstyle\sum w_i^2} / \sum w_i
        """
        rates = self.rates(constraint)
        weight, squares = constraint.cell_sums(self.totals), constraint.cell_sums(self.squares)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.sqrt(np.clip(rates * (1 - rates), 0, None) * squares) / weight

    def event_gaps(self, constraint: Constraint, included: NDArray[np.bool_] | None = None) -> list[Gap]:
        """Compute the gap in each event.

        Parameters
        ----------
        constraint : Constraint
            The constraint.
        included : ndarray of shape (n_events, n_groups) of bool, default=None
            The cells that count; None counts every cell that has weight.

        Returns
        -------
        list of Gap
            One for each event; undefined where fewer than two groups count.
        """
        rates = self.rates(constraint)
        if included is not None:
            rates = np.where(included, rates, np.nan)
        errors = self.standard_errors(constraint)
        gaps = []
        for event, row in enumerate(rates):
            if np.count_nonzero(np.isfinite(row)) < 2:
                gaps.append(_UNDEFINED)
                continue
            # Of equal rates the first is the lowest and the last the highest: two groups even then.
            low, high = int(np.nanargmin(row)), len(row) - 1 - int(np.nanargmax(row[::-1]))
            error = float(np.hypot(errors[event, low], errors[event, high]))
            gaps.append(Gap(float(row[high] - row[low]), error, event, low, high))
        return gaps

    def gap(self, constraint: Constraint, included: NDArray[np.bool_] | None = None) -> Gap:
        """Return the largest of the events' gaps; see :meth:`event_gaps`."""
        defined = [gap for gap in self.event_gaps(constraint, included) if np.isfinite(gap.value)]
        return max(defined, key=lambda gap: gap.value, default=_UNDEFINED)
