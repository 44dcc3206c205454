"""What is wrong with a fit, or a rule, and what to do about it: the texts of the warnings."""

import numpy as np

from skfairprune._assembly import Result
from skfairprune._labels import show_some
from skfairprune.frontier import FrontierRule, RuleFrontier
from skfairprune.gaps import CellRates, is_within, largest_gap

__all__ = ["aware_problem", "find_problems", "rule_problems"]

# How many times as large as the drop allowed its standard error may be.
_UNTOLD = 3
# The share of one class from which on the most accurate network may well be constant.
_MOSTLY_ONE = 0.9
# Standard errors by which the decisions are right less often than one class for all rows.
_BEHIND = 2
# The share of the network's gain over one class for all rows that a bound is to leave.
_LITTLE = 0.2
# The share of the rows on which rules fitted without a part of them are to decide as the rule does.
_ALIKE = 0.9


def find_problems(result: Result, bound: float, max_accuracy_drop: float) -> list[str]:
    """Return what is wrong with a fit.

    Parameters
    ----------
    result : Result
        The fit.
    bound : float
        The bound asked for.
    max_accuracy_drop : float
        Of the search for the smallest network.
    """
    search = _of_the_search(result, max_accuracy_drop)
    problems = (
        search,
        _of_the_decisions(result, bound),
        _of_the_groups(result, bound),
        _of_the_accuracy(result, bound),
        _of_the_agreement(result, bound),
        aware_problem(result.outcome.aware, bound),
    )
    return [problem for problem in problems if problem is not None]


def _of_the_search(result: Result, max_accuracy_drop: float) -> str | None:
    """Return whether no smaller network was good enough, or the drop cannot be told on so few rows."""
    within = [trial for trial in result.trials if trial.within]
    if len(within) > 1 and within[-1].drop_error > _UNTOLD * max_accuracy_drop > 0:
        return (
            f"Which networks are within max_accuracy_drop={max_accuracy_drop} of the dense one is decided by "
            f"chance: on the held-out rows the drop of the chosen one has a standard error of "
            f"{within[-1].drop_error:.3f} (drop_standard_error in sparsity_path_). Give more rows, or name a "
            "sparsity."
        )
    if len(within) != 1:
        return None
    return (
        f"None of the {len(result.trials) - 1} smaller networks that were tried is within "
        f"max_accuracy_drop={max_accuracy_drop} of the dense one and the bound: the dense one "
        "is kept. sparsity_path_ shows them; allow a larger drop, or give more rows."
    )


def _of_the_decisions(result: Result, bound: float) -> str | None:
    """Return whether the decisions miss the bound, or are all alike."""
    outcome, targets, split = result.outcome, result.targets, result.split
    n_rows, n_epochs = len(split.upper), len(result.history)
    gap = largest_gap(outcome.event_gaps)
    if targets.task is not None and outcome.event_gaps and not is_within(outcome.event_gaps, bound):
        return (
            f"{targets.task.constraint.name} is not within difference_bound={bound}: on held-out "
            f"rows the gap is {gap.value:.3f}, with a standard error of {gap.standard_error:.3f}, after "
            f"{n_epochs} epochs. {_of_chance(outcome.cells, bound)}Allow a larger bound, more epochs, or "
            "give more rows."
        )
    task, frontier = targets.task, outcome.frontier
    if outcome.constant and task is not None and frontier is not None and not frontier.is_constant:
        return _only_constant(task.constraint.name, bound)
    if outcome.constant:
        label, weight = (targets.joint, targets.weight) if task is None else (task.labels, task.weight)
        shares = np.bincount(label[split.upper], weight[split.upper])
        # Without a rule it may be the most accurate; under one its gap of 0 would look like a success.
        if frontier is None and (not split.disjoint or shares.max() > _MOSTLY_ONE * shares.sum()):
            return None
        weighted = task is not None and np.ptp(task.class_weight) > 0
        return (
            f"The network gives all of the {n_rows} held-out rows the same class, after {n_epochs} epochs. "
            "Train longer, ask for less sparsity, "
            f"{'allow a larger bound, ' if task is not None and frontier is None else ''}or, "
            + (
                "where an iterator of your own balances the classes, too, leave out that or class_weight."
                if weighted
                else "where one class is rare, set class_weight='balanced'."
            )
        )
    return None


def _of_chance(cells: CellRates | None, bound: float) -> str:
    """Return what to say of a gap above the bound that is no larger than chance makes it of many groups."""
    if cells is None or not cells.may_be_chance(bound):
        return ""
    return "Between so many groups of so few rows chance alone may make it, and no rule closes that. "


def _of_the_groups(result: Result, bound: float) -> str | None:
    """Return which groups take no part in what keeps the bound."""
    outcome, labels, task = result.outcome, result.targets.group_labels, result.targets.task
    if task is None or outcome.driven is None or labels is None:
        return None
    out = task.included & ~outcome.driven
    kept = outcome.rule is not None and not outcome.rule.multipliers.any()
    if not out.any() or (kept and not largest_gap(outcome.event_gaps).value > bound):
        return None
    names = []
    for number in np.flatnonzero(out.any(axis=0)):
        events = [task.constraint.events[event] for event in np.flatnonzero(out[:, number])]
        everywhere = np.array_equal(out[:, number], task.included[:, number])
        names.append(f"{labels[number]!r}" + ("" if everywhere else f" in {', '.join(events)}"))
    what = "rule" if task.with_rule else "constraint"
    return (
        f"{len(names)} of {len(labels)} groups take no part in the {what}, or not in all of its rates, since "
        "theirs are known less well than the gaps between the others are large: "
        f"{show_some(names)}. They may keep the gaps that they have (covered in group_rates_). Give more "
        "rows of them, merge groups, or leave them out, by min_cell_size."
    )


def rule_problems(frontier: RuleFrontier, constraint: str, bound: float, fitted: bool) -> list[str]:
    """Return what is wrong with the rule of a bound, by its held-out figures.

    Parameters
    ----------
    frontier : RuleFrontier
        The rules.
    constraint : str
        The constraint's name.
    bound : float
        The bound.
    fitted : bool
        Whether it is the bound of the fit.
    """
    rule, free = frontier.rules[frontier.position(bound)], frontier.rules[-1]
    problems = []
    if not is_within(rule.event_gaps, bound):
        problems.append(
            f"The rule for difference_bound={bound:.4g} does not keep it on held-out rows: its "
            f"gap there is {rule.gap.value:.3f}, with a standard error of {rule.gap.standard_error:.3f}. "
            f"{_of_chance(rule.cells, bound)}frontier_ shows the others; "
            f"{'' if fitted else 'fit with this bound, '}train longer, or give more rows."
        )
    elif rule.fit.constant and not frontier.is_constant:
        problems.append(_only_constant(constraint, bound))
    figures = (rule.accuracy, free.accuracy, frontier.majority)
    if (little := _little("held-out rows", rule, free, bound, *figures)) is not None:
        problems.append(little)
    if rule.agreement < _ALIKE:
        problems.append(_other_decisions(rule, bound))
    return problems


def aware_problem(frontier: RuleFrontier | None, bound: float) -> str | None:
    """Return whether the rule that is told the group of each row misses a bound.

    Parameters
    ----------
    frontier : RuleFrontier or None
        The rules that are told; None if there are none.
    bound : float
        The bound.
    """
    if frontier is None:
        return None
    rule = frontier.rules[frontier.position(bound)]
    if is_within(rule.event_gaps, bound):
        return None
    return (
        f"The rule that is told the group of each row does not keep difference_bound={bound} on held-out "
        f"rows: its gap there is {rule.gap.value:.3f}, with a standard error of "
        f"{rule.gap.standard_error:.3f}. {_of_chance(rule.cells, bound)}Predict without sensitive_features, "
        "allow a larger bound, or give more rows."
    )


def _only_constant(constraint: str, bound: float) -> str:
    """Return what to say of a rule that gives all held-out rows the same class."""
    return (
        f"Of the rules that were found only a constant one keeps {constraint} within "
        f"difference_bound={bound} on the held-out rows: all get the same class. Ask for less sparsity, give "
        "more rows, or allow a larger bound; frontier_ shows what others reach."
    )


def _of_the_accuracy(result: Result, bound: float) -> str | None:
    """Return whether the constraint takes most of what the network gains over one class for all rows."""
    frontier, task, split = result.outcome.frontier, result.targets.task, result.split
    if frontier is None or task is None or np.isnan(frontier.majority):
        return None
    rule, free = frontier.rules[frontier.position(bound)], frontier.rules[-1]
    every = split.upper if task.needs_dense_decisions else split.rule
    weight = task.weight[every]
    commonest = np.bincount(task.labels[every], weight).max() / weight.sum()
    parts = (
        ("held-out rows", rule.accuracy, free.accuracy, frontier.majority),
        ("the rows of the rule", rule.fit.accuracy, free.fit.accuracy, commonest),
    )
    for where, accuracy, unbound, majority in parts:
        if (problem := _little(where, rule, free, bound, accuracy, unbound, majority)) is not None:
            return problem
    return None


def _little(
    where: str,
    rule: FrontierRule,
    free: FrontierRule,
    bound: float,
    accuracy: float,
    unbound: float,
    majority: float,
) -> str | None:
    """Return whether a rule has little of what the free one gains over one class for all rows, or none."""
    if rule.fit.constant:  # told already
        return None
    behind = accuracy + _BEHIND * rule.accuracy_error < majority
    if behind and unbound + _BEHIND * free.accuracy_error < majority:
        return (
            f"On {where} the network is right on a share of {unbound:.3f} without a bound, with a standard "
            f"error of {free.accuracy_error:.3f}; one class for all rows would have {majority:.3f}. Train "
            "longer, or ask for less sparsity. Where an iterator or weights of your own balance the classes, "
            "use class_weight instead, which the decision rule reckons with."
        )
    gains = unbound - _BEHIND * free.accuracy_error > majority
    little = gains and accuracy - majority < _LITTLE * (unbound - majority)
    if rule.fit is free.fit or not (little or behind):  # without a rule it is no bound's fault
        return None
    return (
        f"Within difference_bound={bound} the accuracy on {where} is {accuracy:.3f}, with a standard "
        f"error of {rule.accuracy_error:.3f}; one class for all rows would have {majority:.3f}, the "
        f"network without the bound {unbound:.3f}. Allow a larger bound, give more rows, or merge "
        "small groups."
    )


def _of_the_agreement(result: Result, bound: float) -> str | None:
    """Return whether the figures on held-out rows are those of other decisions than the network's."""
    frontier = result.outcome.frontier
    if frontier is None or not (rule := frontier.rules[frontier.position(bound)]).agreement < _ALIKE:
        return None
    return _other_decisions(rule, bound)


def _other_decisions(rule: FrontierRule, bound: float) -> str:
    return (
        f"The rules behind the held-out figures, fitted without a part of the rows, decide "
        f"{1 - rule.agreement:.0%} of them otherwise than the rule for difference_bound={bound} does: the "
        "figures say little of it. Allow a larger bound, give more rows, or merge small groups."
    )
