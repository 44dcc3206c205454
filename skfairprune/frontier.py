"""The rule frontier: rules for many bounds from the scores of one network, each held to unseen rows."""

from collections.abc import Iterable
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
# Standard errors by which the network may be right less often than its copies, on rows that it has seen.
_WORSE = 2.0
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
        network's own scores, because under the first one, with this gap, the network decided too differently.
    """

    fit: RuleFit
    event_gaps: list[Gap]
    accuracy: float
    strayed: Gap | None = None

    @property
    def gap(self) -> Gap:
        """The largest of the gaps."""
        return largest_gap(self.event_gaps)

    def dominates(self, other: "FrontierRule") -> bool:
        """Tell whether accuracy or gap is better than another rule's and the other no worse."""
        mine, theirs = (self.accuracy, -self.gap.value), (other.accuracy, -other.gap.value)
        return mine != theirs and all(one >= two for one, two in zip(mine, theirs, strict=True))

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
    network's gap is then above the bound, or what noise lets the rule aim at, by more than its standard
    error, in any event, or the network is right less often beyond chance, it decides other than its blind
    copies, and the rule is fitted on its own scores instead. Last, a rule whose held-out gap is too large in
    the same way gives way to that of another bound which is better, and so does one that that of a smaller
    bound dominates (the unconstrained one stays).

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
    largest = problem.noise.least_bound
    smallest = min(_SMALLEST * problem.noise.error.max(initial=0.0), largest / 2)
    grid = np.geomspace(smallest, largest, _N_BOUNDS - 2).tolist() if largest > 0 else []
    bounds = np.unique([0.0, bound, *grid])
    rules, decisions = _cross_fit(problem, fold, bounds, bound)
    own_rows = replace(rows, proba=own)
    limits = [problem.noise.limit(allowed) for allowed in bounds]
    strayed: dict[int, Gap] = {}
    for k, (rule, decision, limit) in enumerate(zip(rules, decisions, limits, strict=True)):
        followed = rule.fit.rule.decide(own)
        gaps = own_rows.counts(constraint, followed).event_gaps(constraint, included)
        if not is_within(gaps, limit) or _is_worse(followed, decision, problem.label, rows.weight):
            strayed[k] = largest_gap(gaps)
    if strayed:
        own_problem, numbers = RuleProblem(own_rows, constraint, included, class_weight), list(strayed)
        own_rules, decisions[numbers] = _cross_fit(own_problem, fold, bounds[numbers], bound)
        for k, rule in zip(numbers, own_rules, strict=True):
            rules[k] = rule._replace(strayed=strayed[k])
    chosen: list[int] = []
    for k, (allowed, limit) in enumerate(zip(bounds, limits, strict=True)):
        chosen.append(_settle(k, rules, allowed, limit, chosen))
    return RuleFrontier(bounds, [rules[k] for k in chosen]), decisions[chosen]


def _is_worse(
    decision: NDArray[np.intp], other: NDArray[np.intp], label: NDArray[np.intp], weight: Floats
) -> bool:
    """Tell whether decisions are right less often than others on the same rows, beyond chance."""
    lost = ((other == label) * 1.0 - (decision == label)) * weight / weight.sum()
    return bool(lost.sum() > _WORSE * np.sqrt(np.sum((lost - lost.mean()) ** 2)))


def _cross_fit(
    problem: RuleProblem, fold: NDArray[np.intp], bounds: Floats, asked: float
) -> tuple[list[FrontierRule], NDArray[np.intp]]:
    """Fit the rules of all bounds; measure them by the decisions of others, fitted without one fold each."""
    rows, constraint, included = problem.rows, problem.constraint, problem.included
    fits = _descend(problem, bounds, asked)
    decisions = np.empty((len(bounds), len(fold)), dtype=np.intp)
    for k in np.unique(fold):
        inside = fold == k
        part = problem.part(~inside)
        for decision, whole, fit in zip(decisions, fits, _descend(part, bounds, asked, fits), strict=True):
            # Noise that leaves all rows alone may be larger than that on a part: the rule does nothing.
            stands = part.unconstrained if whole is problem.unconstrained else fit
            decision[inside] = stands.rule.decide(rows.proba[inside])
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


def _settle(
    number: int, rules: list[FrontierRule], bound: float, limit: Floats | float, smaller: list[int]
) -> int:
    """Return the number of the rule itself if it keeps its limit on held-out rows; else of the best of all.

    The best is that of most merit, of those that keep the limit if there are any. Where a rule keeps it, one
    of those that were settled for smaller bounds is taken that is better in accuracy or gap and no worse in
    the other, but no other takes the place of the unconstrained one. The choice is by held-out figures, which
    it then makes look a little too good. Figures of rows that the weights have seen are too good from the
    start: a rule that has them takes the place of none that has not.
    """
    own = rules[number]

    def comparable(candidates: Iterable[int]) -> list[int]:
        found = [k for k in candidates if rules[k].strayed is None or own.strayed is not None]
        return [k for k in found if not rules[k].fit.constant]

    def kept(candidates: Iterable[int]) -> list[int]:
        return [k for k in candidates if is_within(rules[k].event_gaps, limit)]

    if not kept([number]):
        others = comparable(range(len(rules)))
        return max(kept(others) or others or [number], key=lambda k: rules[k].merit(bound))
    if not own.fit.multipliers.any():
        return number
    better = [k for k in kept(comparable(smaller)) if rules[k].dominates(own)]
    return max(better, key=lambda k: rules[k].accuracy, default=number)
