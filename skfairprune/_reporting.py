"""What a fit reports on held-out rows: gaps and what saw the rows, multipliers, frontier and sizes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from skfairprune._labels import show_labels
from skfairprune.frontier import RuleFrontier
from skfairprune.gaps import NORMAL_95, CellRates, Gap, largest_gap
from skfairprune.pruning.budget import Layout
from skfairprune.training.fairtask import FairTask
from skfairprune.training.plan import Plan
from skfairprune.training.search import Trial
from skfairprune.training.splits import LevelSplit

__all__ = [
    "ValidationGap",
    "describe_rows",
    "event_gap_table",
    "frontier_table",
    "group_rate_table",
    "multiplier_table",
    "sparsity_path",
    "validation_gap",
]


class ValidationGap(NamedTuple):
    """The gap of a constraint on held-out rows: the rule did not see them, the weights' memory is taken off.

    Attributes
    ----------
    value : float
        Largest minus smallest rate between groups, the largest over the events, in [0, 1].
    standard_error : float
        Its sampling standard error.
    upper : float
        The largest one-sided 95 % limit of the difference between two groups, over all pairs of groups and
        all events: where there are few rows a small difference can have a high limit.
    event : str
        The event with the largest gap.
    lowest, highest : object
        The groups with the smallest and the largest rate there.
    rows : str
        Which rows it was measured on, and what saw them.
    """

    value: float
    standard_error: float
    upper: float
    event: str
    lowest: Any
    highest: Any
    rows: str


def describe_rows(split: LevelSplit, plan: Plan, with_rule: bool, searched: bool) -> str:
    """Say on which rows the gap is measured, and what saw them.

    Parameters
    ----------
    split : LevelSplit
        The rows.
    plan : Plan
        The phases of the fit.
    with_rule : bool
        Whether a rule decides.
    searched : bool
        Whether the size of the network was chosen by these figures.
    """
    rule = "a rule that did not see its fold" if with_rule else "the network itself"
    if split.n_folds:
        copies = (
            f"what the network owes to having learned from it, by {split.n_folds // 2} copies, is taken off"
        )
        rows = f"{len(split.upper)} training rows, each decided by {rule} ({copies})"
    else:
        rows = f"{len(split.upper)} rows of X_val, which the weights did not see, each decided by {rule}"
    *saw, last = [
        *(["the choice of the size"] if searched else []),
        *(["the choice of the units"] if plan.bilevel else []),
        *(["the multipliers of the training"] if plan.constrained else []),
        *(["the choice of which bounds share a rule"] if with_rule else []),
        "the choice of the epoch",
    ]
    return f"{rows}; {', '.join(saw) + ' and ' if saw else ''}{last} saw them"


def _upper_limit(event_gaps: Sequence[Gap], cells: CellRates | None) -> float:
    """Return the upper limit of the gap, without the rates (files of before) that of the extreme groups."""
    if cells is not None:
        return cells.upper_limit()
    limits = [gap.value + NORMAL_95 * gap.standard_error for gap in event_gaps if np.isfinite(gap.value)]
    return max(limits, default=np.nan)


def validation_gap(
    event_gaps: Sequence[Gap],
    cells: CellRates | None,
    events: tuple[str, ...],
    labels: list[Any],
    rows: str,
) -> ValidationGap:
    """Name the event, the groups and the rows of the largest gap."""
    gap, upper = largest_gap(event_gaps), _upper_limit(event_gaps, cells)
    where = (events[gap.event], labels[gap.lowest], labels[gap.highest])
    return ValidationGap(gap.value, gap.standard_error, upper, *where, rows)


def event_gap_table(event_gaps: Sequence[Gap], events: tuple[str, ...], labels: list[Any]) -> pd.DataFrame:
    """Tabulate the gap of each event; of an event that has none the groups are None."""
    defined = [np.isfinite(gap.value) for gap in event_gaps]
    return pd.DataFrame(
        {
            "gap": [gap.value for gap in event_gaps],
            "standard_error": [gap.standard_error for gap in event_gaps],
            "lowest": [
                labels[gap.lowest] if there else None for gap, there in zip(event_gaps, defined, strict=True)
            ],
            "highest": [
                labels[gap.highest] if there else None for gap, there in zip(event_gaps, defined, strict=True)
            ],
        },
        index=pd.Index(events, name="event"),
    )


def group_rate_table(
    task: FairTask,
    rows: NDArray[np.intp],
    counted: NDArray[np.bool_],
    events: tuple[str, ...],
    labels: list[Any],
    left_out: list[Any],
) -> pd.DataFrame:
    """Tabulate the cells of some rows: the rates to be filled in, the number of rows, if it is counted.

    Groups that are left out of every event share a row of each.
    """
    if left_out:
        labels = [*labels, f"left out: {show_labels(left_out)}"]
    constraint, n_groups = task.constraint, task.n_groups
    code = task.kind[rows] * n_groups + task.group[rows]
    counts = np.bincount(code, minlength=constraint.n_kinds * n_groups).reshape(-1, n_groups)
    return pd.DataFrame(
        {
            "event": np.repeat(np.array(events, dtype=object), len(labels)),
            "group": [label for _ in events for label in labels],
            "rate": np.nan,
            "standard_error": np.nan,
            "n_samples": constraint.cell_sums(counts)[:, : len(labels)].ravel().astype(np.int64),
            "covered": counted[:, : len(labels)].ravel(),
        }
    )


def multiplier_table(multipliers: Any, events: tuple[str, ...], labels: list[Any]) -> pd.DataFrame:
    """Tabulate multipliers, events by groups."""
    return pd.DataFrame(
        multipliers[:, : len(labels)],
        index=pd.Index(events, name="event"),
        columns=pd.Index([str(label) for label in labels], name="group"),
    )


def frontier_table(frontier: RuleFrontier) -> pd.DataFrame:
    """Tabulate what the rule of each bound reaches on held-out rows, and which bounds have the same rule."""
    rules = frontier.rules
    numbers: dict[bytes, int] = {}
    for rule in rules:
        if rule.fit.multipliers.any():
            numbers.setdefault(rule.fit.rule.coefficients.tobytes(), len(numbers) + 1)
    return pd.DataFrame(
        {
            "bound": frontier.bounds,
            "rule": [numbers.get(rule.fit.rule.coefficients.tobytes(), 0) for rule in rules],
            "gap": [rule.gap.value for rule in rules],
            "gap_standard_error": [rule.gap.standard_error for rule in rules],
            "gap_upper": [_upper_limit(rule.event_gaps, rule.cells) for rule in rules],
            "accuracy": [rule.accuracy for rule in rules],
            "accuracy_standard_error": [rule.accuracy_error for rule in rules],
            "balanced_accuracy": [rule.balanced_accuracy for rule in rules],
            "agreement": [rule.agreement for rule in rules],
            "odds": [rule.fit.odds for rule in rules],
        }
    )


def sparsity_path(trials: list[Trial], dense: Layout) -> pd.DataFrame:
    """Tabulate the sizes that were tried for ``sparsity="auto"``, the dense network first."""
    # The bisection's last success.
    chosen = max(number for number, trial in enumerate(trials) if trial.within)
    return pd.DataFrame(
        {
            "sparsity": [1 - trial.cost / dense.cost() for trial in trials],
            "widths": [trial.widths for trial in trials],
            "parameters": [dense.resized(trial.widths).n_parameters() for trial in trials],
            "accuracy": [trial.accuracy for trial in trials],
            "accuracy_drop": [trials[0].accuracy - trial.accuracy for trial in trials],
            "drop_standard_error": [trial.drop_error for trial in trials],
            "gap": [np.nan if trial.gap is None else trial.gap.value for trial in trials],
            "gap_standard_error": [
                np.nan if trial.gap is None else trial.gap.standard_error for trial in trials
            ],
            "within": [trial.within for trial in trials],
            "missed": [trial.missed for trial in trials],
            "chosen": np.arange(len(trials)) == chosen,
        },
        index=pd.RangeIndex(len(trials), name="trial"),
    )
