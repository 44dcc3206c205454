"""What a fit says about the constraint: the held-out gap, which rows it saw, and warnings."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from skfairprune._preparation import Targets
from skfairprune.gaps import Gap, is_within, largest_gap, upper_limit
from skfairprune.pruning.budget import Layout
from skfairprune.training.search import Trial
from skfairprune.training.splits import LevelSplit
from skfairprune.training.trainer import Outcome

__all__ = [
    "ValidationGap",
    "describe_rows",
    "event_gap_table",
    "find_problem",
    "multiplier_table",
    "sparsity_path",
    "validation_gap",
]

# Standard errors above the bound from which on the network's gap under its copies' rule is a problem.
_FAR_ASTRAY = 3
# The share of one class from which on the most accurate network may well be constant.
_MOSTLY_ONE = 0.9


class ValidationGap(NamedTuple):
    """The gap of a constraint on rows that neither the weights nor the rule behind it saw.

    Attributes
    ----------
    value : float
        Largest minus smallest rate between groups, the largest over the events, in [0, 1].
    standard_error : float
        Its sampling standard error.
    upper : float
        The largest over the events of the gap's one-sided 95 % limit: an event with few rows can have a
        small gap and a high limit.
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


def describe_rows(split: LevelSplit, with_rule: bool, searched: bool, carried: bool) -> str:
    """Say on which rows the gap is measured, and what saw them.

    Parameters
    ----------
    split : LevelSplit
        The rows.
    with_rule : bool
        Whether a rule decides.
    searched : bool
        Whether the size of the network was chosen by these figures.
    carried : bool
        Whether the scores are from weights that did not see the rows.
    """
    rule = "a rule that did not see its fold" if with_rule else "the network itself"
    if not carried:
        rows = f"{len(split.upper)} training rows, which the network has seen, each decided by {rule}"
    elif split.n_folds and with_rule:
        rows = f"{len(split.upper)} training rows, each decided by a network and {rule}"
    elif split.n_folds:
        rows = f"{len(split.upper)} training rows, each decided by a network that did not see its fold"
    else:
        rows = f"{len(split.upper)} rows of X_val, which the weights did not see, each decided by {rule}"
    saw = ["the choice of the units", "the multipliers of the training", "early stopping"]
    if searched:
        saw.insert(0, "the choice of the size")
    return f"{rows}; {', '.join(saw[:-1])} and {saw[-1]} saw them"


def validation_gap(
    event_gaps: Sequence[Gap], events: tuple[str, ...], labels: list[Any], rows: str
) -> ValidationGap:
    """Name the event, the groups and the rows of the largest gap."""
    gap, upper = largest_gap(event_gaps), upper_limit(event_gaps)
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
            "chosen": np.arange(len(trials)) == chosen,
        },
        index=pd.RangeIndex(len(trials), name="trial"),
    )


def multiplier_table(multipliers: Any, events: tuple[str, ...], labels: list[Any]) -> pd.DataFrame:
    """Tabulate multipliers, events by groups."""
    return pd.DataFrame(
        multipliers[:, : len(labels)],
        index=pd.Index(events, name="event"),
        columns=pd.Index([str(label) for label in labels], name="group"),
    )


def find_problem(
    outcome: Outcome, targets: Targets, bound: float, n_epochs: int, split: LevelSplit
) -> str | None:
    """Return what is wrong with a fit, or None.

    Parameters
    ----------
    outcome : Outcome
        The fit.
    targets : Targets
        Its constraint.
    bound : float
        The bound asked for.
    n_epochs : int
        The epochs run.
    split : LevelSplit
        The rows of the levels.
    """
    n_rows = len(split.upper)
    gap, strayed = largest_gap(outcome.event_gaps), outcome.strayed
    if targets.task is not None and outcome.event_gaps and not is_within(outcome.event_gaps, bound):
        return (
            f"{targets.task.constraint.name} is not within difference_bound={bound}: on held-out "
            f"rows the gap is {gap.value:.3f}, with a standard error of {gap.standard_error:.3f}, after "
            f"{n_epochs} epochs. Allow a larger bound, more epochs, or give more rows."
        )
    if strayed is not None and strayed.value - _FAR_ASTRAY * strayed.standard_error > bound:
        return (
            "The copies behind validation_gap_ learned too differently from the network: with their rule "
            f"its gap would be {strayed.value:.3f}, with a standard error of "
            f"{strayed.standard_error:.3f}. The rule was fitted on the network's own scores of rows "
            "it has seen instead, and its gap on unseen rows may be larger. Train longer than "
            f"{n_epochs} epochs, or give more rows."
        )
    if outcome.constant and targets.task is not None and outcome.frontier is not None:
        return (
            f"Only a constant decision keeps {targets.task.constraint.name} within "
            f"difference_bound={bound} on the {n_rows} held-out rows: all get "
            "the same class. Give more rows, allow a larger bound, or, if the network is constant without "
            "a bound, too, train longer or ask for less sparsity."
        )
    if outcome.constant and targets.task is None:
        shares = np.bincount(targets.joint[split.upper], targets.weight[split.upper])
        if not split.disjoint or shares.max() > _MOSTLY_ONE * shares.sum():
            return None
        return (
            f"The network gives all of the {n_rows} held-out rows the same class, after {n_epochs} epochs. "
            "Train longer, ask for less sparsity, or, where one class is rare, set class_weight='balanced'."
        )
    return None
