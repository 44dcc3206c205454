"""The rule frontier: rules for many bounds from the scores of one network, each held to unseen rows."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skfairprune.constraints import Constraint, Floats
from skfairprune.gaps import Gap, is_within, largest_gap
from skfairprune.multipliers import ScoredRows
from skfairprune.rulefit import PRICE, RuleFit, RuleProblem

__all__ = ["FrontierRule", "RuleFrontier", "fit_frontier"]

_N_BOUNDS = 20
_SMALLEST = 0.5  # standard errors of the gap: smaller bounds above 0 tell no rules apart


class FrontierRule(NamedTuple):
    """A rule and what it reaches on rows that the rule behind a decision did not see.

    Attributes
    ----------
    fit : RuleFit
        The rule, fitted on all rows.
    event_gaps : list of Gap
        The held-out gap in each event.
    accuracy : float
        The held-out accuracy.
    strayed : Gap or None
        None for a rule fitted on scores from weights that did not see the rows. Else it is fitted on the
        network's own scores, because under the first one the network's gap was this.
    """

    fit: RuleFit
    event_gaps: list[Gap]
    accuracy: float
    strayed: Gap | None = None

    @property
    def gap(self) -> Gap:
        """The largest of the gaps."""
        return largest_gap(self.event_gaps)

    def merit(self, bound: float) -> float:
        """Return the held-out accuracy less the price of the held-out gap above the bound."""
        return self.accuracy - PRICE * max(self.gap.value - bound, 0.0)


@dataclass(frozen=True)
class RuleFrontier:
    """Rules by bound.

    Attributes
    ----------
    bounds : ndarray of shape (n_bounds,)
        Increasing, from 0 to the least bound that the unconstrained rule keeps.
    rules : list of FrontierRule
        The rule of each.
    """

    bounds: Floats
    rules: list[FrontierRule]

    def position(self, bound: float) -> int:
        """Return the position of the rule for a bound: that of the largest bound not above it.

        Parameters
        ----------
        bound : float
            At least 0.
        """
        return int(np.searchsorted(self.bounds, bound, side="right")) - 1


def fit_frontier(
    rows: ScoredRows,
    own: Floats,
    fold: NDArray[np.intp],
    constraint: Constraint,
    included: NDArray[np.bool_],
    bound: float,
    class_weight: Floats,
) -> tuple[RuleFrontier, NDArray[np.intp]]:
    """Fit rules for bounds from 0 to the unconstrained gap, close to each other near 0.

    Each rule is fitted on scores that are blind to their rows and tried on the network's own: where the
    network's gap is then above the bound by more than its standard error, in any event, the network decides
    other than its blind copies, and the rule is fitted on its own scores instead. Last, a rule whose held-out
    gap is above its bound in the same way gives way to that of another bound which is better, and so does one
    that is no better, in accuracy or gap, than that of a smaller bound (the unconstrained one stays).

    Parameters
    ----------
    rows, constraint, included, class_weight
        As for :class:`skfairprune.rulefit.RuleProblem`.
    own : ndarray of shape (n_samples, n_classes, n_groups)
        The scores of the same rows from the network that the rules are for.
    fold : ndarray of shape (n_samples,)
        The fold of each row; its scores in ``rows`` are from a network that saw only the other folds.
    bound : float
        A bound that is to be among them.

    Returns
    -------
    frontier : RuleFrontier
        The rules.
    decisions : ndarray of shape (n_bounds, n_samples)
        The decisions behind the held-out figures of each.
    """
    problem = RuleProblem(rows, constraint, included, class_weight)
    largest = problem.unconstrained_bound
    smallest = min(_SMALLEST * problem.errors.max(), largest / 2)
    grid = np.geomspace(smallest, largest, _N_BOUNDS - 2).tolist() if largest > 0 else []
    bounds = np.unique([0.0, bound, *grid])
    rules, decisions = _cross_fit(problem, fold, bounds, bound)
    own_rows = replace(rows, proba=own)
    gaps = [
        own_rows.counts(constraint, rule.fit.rule.decide(own)).event_gaps(constraint, included)
        for rule in rules
    ]
    strayed = [k for k, limit in enumerate(bounds) if not is_within(gaps[k], limit)]
    if strayed:
        own_problem = RuleProblem(own_rows, constraint, included, class_weight)
        own_rules, decisions[strayed] = _cross_fit(own_problem, fold, bounds[strayed], bound)
        for k, rule in zip(strayed, own_rules, strict=True):
            rules[k] = rule._replace(strayed=largest_gap(gaps[k]))
    chosen = [_settle(k, rules, limit) for k, limit in enumerate(bounds)]
    return RuleFrontier(bounds, [rules[k] for k in chosen]), decisions[chosen]


def _cross_fit(
    problem: RuleProblem, fold: NDArray[np.intp], bounds: Floats, asked: float
) -> tuple[list[FrontierRule], NDArray[np.intp]]:
    """Fit the rules of all bounds; measure them by the decisions of others, fitted without one fold each."""
    rows, constraint, included = problem.rows, problem.constraint, problem.included
    fits = _descend(problem, bounds, asked)
    decisions = np.empty((len(bounds), len(fold)), dtype=np.intp)
    for k in np.unique(fold):
        inside = fold == k
        for decision, fit in zip(
            decisions, _descend(problem.part(~inside), bounds, asked, fits), strict=True
        ):
            decision[inside] = fit.rule.decide(rows.proba[inside])
    accuracies = (decisions == problem.label) @ rows.weight / rows.weight.sum()
    rules = [
        FrontierRule(fit, rows.counts(constraint, decision).event_gaps(constraint, included), float(accuracy))
        for fit, decision, accuracy in zip(fits, decisions, accuracies, strict=True)
    ]
    return rules, decisions


def _descend(
    problem: RuleProblem, bounds: Floats, asked: float, known: list[RuleFit] | None = None
) -> list[RuleFit]:
    """Fit a rule for each of the bounds, from the largest down, each from the solution of the one before.

    That of the bound asked for is fitted with all patience. A rule that missed its bound gives way to the
    best of the others. One that meets it stays: by how much others are more accurate on the same rows is
    noise, where the dual says that they cannot be.
    """
    fits: list[RuleFit] = []
    for number in range(len(bounds))[::-1]:
        bound = bounds[number]
        near = fits[-1] if fits and fits[-1] is not problem.unconstrained else None
        if bound == asked:
            fits.append(problem.fit(bound, multipliers=None if known is None else known[number].multipliers))
        else:
            fits.append(problem.fit(bound, near))
    fits = fits[::-1]
    return [
        fit if problem.meets(fit, bound) else problem.select(fits, bound)
        for fit, bound in zip(fits, bounds, strict=True)
    ]


def _settle(number: int, rules: list[FrontierRule], bound: float) -> int:
    """Return the number of the rule itself if it keeps its bound on held-out rows; else of the best of all.

    Where it keeps it, a rule of a smaller bound is taken if that has neither less accuracy nor a larger gap,
    but no other takes the place of the unconstrained one. The choice is by held-out figures, which it then
    makes look a little too good.
    """
    varying = [k for k, rule in enumerate(rules) if not rule.fit.constant]
    own = rules[number]
    if not is_within(own.event_gaps, bound):
        return max(varying or range(len(rules)), key=lambda k: rules[k].merit(bound))
    if not own.fit.multipliers.any():
        return number
    better = [
        k
        for k in varying
        if k < number and rules[k].accuracy >= own.accuracy and rules[k].gap.value <= own.gap.value
    ]
    return max(better, key=lambda k: rules[k].accuracy, default=number)
