"""The rule frontier: rules for many bounds from the scores of one network, each held to unseen rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from skfairprune.constraints import Constraint, Floats
from skfairprune.decision import DecisionRule
from skfairprune.gaps import CellRates, Gap, largest_gap
from skfairprune.rulefit import RuleFit, RuleProblem
from skfairprune.scored import ScoredRows

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
    accuracy_error : float
        Its sampling standard error; NaN where it is not known.
    agreement : float
        The share of these rows on which the network decides alike by the rule and by the one behind the
        figures; NaN where it is not known.
    cells : CellRates or None
        The held-out rates; None in a file of a format before 5.
    balanced_accuracy : float
        The held-out mean over the classes of the share of a class that is decided rightly; NaN in a file of a
        format before 6.
    """

    fit: RuleFit
    event_gaps: list[Gap]
    accuracy: float
    accuracy_error: float = np.nan
    agreement: float = np.nan
    cells: CellRates | None = None
    balanced_accuracy: float = np.nan

    @property
    def gap(self) -> Gap:
        """The largest of the gaps."""
        return largest_gap(self.event_gaps)


@dataclass(frozen=True)
class RuleFrontier:
    """Rules by bound.

    Attributes
    ----------
    bounds : ndarray of shape (n_bounds,)
        Increasing, from 0 to the least bound that the unconstrained rule keeps, and the one asked for.
    rules : list of FrontierRule
        The rule of each.
    majority : float
        The accuracy of one class for all held-out rows; NaN with class weights, where accuracy is not what
        was asked for, and in a file of a format before 6.
    driven : ndarray of shape (n_events, n_groups) of bool or None
        The cells that the rules were fitted for (:class:`skfairprune.noise.Noise`); None in a
        file of an older version.
    """

    bounds: Floats
    rules: list[FrontierRule]
    majority: float = np.nan
    driven: NDArray[np.bool_] | None = None

    @property
    def is_constant(self) -> bool:
        """Whether the network itself decides alike for all rows, whatever the bound."""
        return self.rules[-1].fit.constant

    def position(self, bound: float) -> int:
        """Return the position of the rule for a bound: that of the largest bound not above it.

        Parameters
        ----------
        bound : float
            At least 0.
        """
        # As of a network, whose bounds are in single precision (DecisionNetwork.position).
        return int(np.searchsorted(self.bounds, bound * (1 + 1e-6), side="right")) - 1


def fit_frontier(
    rows: ScoredRows,
    fold: NDArray[np.intp],
    constraint: Constraint,
    included: NDArray[np.bool_],
    bound: float,
    class_weight: Floats,
) -> tuple[RuleFrontier, Floats]:
    """Fit rules for bounds from 0 to the unconstrained gap, close to each other near 0.

    A rule gives way to that of a smaller bound which is better in accuracy (by the class weights) or gap on
    held-out rows and no worse in the other; the unconstrained one stays.

    Parameters
    ----------
    rows, constraint, included, class_weight
        As for :class:`skfairprune.rulefit.RuleProblem`.
    fold : ndarray of shape (n_samples,)
        The fold of each row: the figures of a rule are of rules that were fitted without it. -1 for rows
        that rules are fitted on and no figure is of.
    bound : float
        A bound that is to be among them.

    Returns
    -------
    frontier : RuleFrontier
        The rules.
    shares : ndarray of shape (n_judged, n_decisions)
        The shares of the decisions behind the held-out figures of the rule for ``bound``, on the rows of a
        fold.
    """
    problem = RuleProblem(rows, constraint, included, class_weight)
    largest = problem.noise.least_bound
    smallest = min(_SMALLEST * problem.noise.error.max(initial=0.0), largest / 2)
    grid = np.geomspace(smallest, largest, _N_BOUNDS - 2).tolist() if largest > 0 else []
    bounds = np.unique([0.0, bound, *grid])
    held_out = _HeldOut(problem, fold, bounds, bound)
    candidates = held_out.candidates()
    chosen: list[int] = []
    for number in range(len(bounds)):
        chosen.append(_settle(number, candidates, chosen, problem.included))
    frontier = RuleFrontier(
        bounds, [candidates[number].rule for number in chosen], held_out.majority, problem.included
    )
    return frontier, held_out.shares(chosen[frontier.position(bound)])


class _Candidate(NamedTuple):
    """A rule, and its held-out accuracy by the class weights, which rules are fitted for."""

    rule: FrontierRule
    worth: float

    def dominates(self, other: "_Candidate", driven: NDArray[np.bool_]) -> bool:
        """Tell whether accuracy or gap is better than another rule's and the other no worse.

        The gap is that of the cells ``driven``, of shape (n_events, n_groups): of others, which no rule is
        fitted for, it is noise.
        """
        mine, theirs = ((one.worth, -largest_gap(one._gaps_of(driven)).value) for one in (self, other))
        return mine != theirs and all(one >= two for one, two in zip(mine, theirs, strict=True))

    def replaces(self, other: "_Candidate", driven: NDArray[np.bool_]) -> bool:
        """Tell whether it dominates another rule, with no larger gap in any event."""
        pairs = zip(self._gaps_of(driven), other._gaps_of(driven), strict=True)
        return self.dominates(other, driven) and not any(one.value > two.value for one, two in pairs)

    def _gaps_of(self, cells: NDArray[np.bool_]) -> list[Gap]:
        """Return the gaps of some cells."""
        rates = self.rule.cells
        assert rates is not None
        return rates._replace(included=rates.included & cells).event_gaps()


class _HeldOut:
    """The rules of all bounds, and the decisions on the rows of each fold by others, fitted without it.

    Decisions are made again when they are asked for: those for all bounds would fill more memory than the
    rows do.
    """

    def __init__(self, problem: RuleProblem, fold: NDArray[np.intp], bounds: Floats, asked: float) -> None:
        judged = fold >= 0
        self.problem, self.rows, self.fold = problem, problem.rows.take(judged), fold[judged]
        self.label = problem.label[judged]
        self.weight = self.rows.weight / self.rows.weight.sum()
        self.class_shares = np.bincount(self.label, self.weight, minlength=problem.constraint.n_decisions)
        self.fits, self.origin = _descend(problem, bounds, asked)
        self.blind = {k: self._fit_without(fold != k, bounds, asked) for k in np.unique(self.fold)}

    def _fit_without(self, rows: NDArray[np.bool_], bounds: Floats, asked: float) -> list[DecisionRule]:
        """Return the rules of some of the rows.

        Bounds that have the same rule on all rows have the same here: that of the bound it was fitted for.
        """
        part = self.problem.part(rows)
        # Noise that leaves all rows alone may be larger than that on a part: the rule does nothing.
        if all(whole is self.problem.unconstrained for whole in self.fits):
            return [part.unconstrained.rule] * len(bounds)
        fits, _ = _descend(part, bounds, asked, self.fits)
        return [
            (part.unconstrained if whole is self.problem.unconstrained else fits[number]).rule
            for whole, number in zip(self.fits, self.origin, strict=True)
        ]

    def _parts(self, number: int) -> Iterator[tuple[NDArray[np.bool_], ScoredRows, DecisionRule]]:
        """Yield each fold, its rows, and the rule for the bound of that number that was fitted without it."""
        for k, rules in self.blind.items():
            there = self.fold == k
            yield there, self.rows.take(there), rules[number]

    @property
    def majority(self) -> float:
        """The accuracy of one class for all rows, NaN with class weights."""
        return np.nan if np.ptp(self.problem.class_weight) > 0 else float(self.class_shares.max())

    def shares(self, number: int) -> Floats:
        """Return the shares of the decisions under the bound of that number, (n_judged, n_decisions)."""
        shares = np.empty((len(self.label), self.problem.constraint.n_decisions))
        for there, rows, rule in self._parts(number):
            shares[there] = rows.decide(rule)
        return shares

    def candidates(self) -> list[_Candidate]:
        """Return the rule for each bound, and what it reaches."""
        measured: dict[int, _Candidate] = {}
        for number, fit in enumerate(self.fits):
            if id(fit) not in measured:
                measured[id(fit)] = self._measure(number)
        return [measured[id(fit)] for fit in self.fits]

    def _measure(self, number: int) -> _Candidate:
        """Return the rule for the bound of that number, and what it reaches."""
        problem, fit, weight = self.problem, self.fits[number], self.weight
        shares = self.shares(number)
        cells = self.rows.counts(problem.constraint, shares).cell_rates(problem.constraint, problem.reported)
        right = shares[np.arange(len(self.label)), self.label]
        accuracy = float(weight @ right)
        error = float(np.sqrt(weight**2 @ (right - accuracy) ** 2))
        alike = 0.0
        for there, rows, rule in self._parts(number):
            alike += float(weight[there] @ (rule.decide(rows.proba) == fit.rule.decide(rows.proba)))
        there = self.class_shares > 0
        recalls = np.bincount(self.label, weight * right, len(there))[there] / self.class_shares[there]
        accuracy, balanced = np.clip([accuracy, recalls.mean()], 0.0, 1.0).tolist()
        measured = FrontierRule(fit, cells.event_gaps(), accuracy, error, min(alike, 1.0), cells, balanced)
        if np.ptp(problem.class_weight) == 0:
            return _Candidate(measured, accuracy)
        by_class = problem.class_weight[self.label] * weight
        return _Candidate(measured, float(by_class @ right / by_class.sum()))


def _descend(
    problem: RuleProblem, bounds: Floats, asked: float, known: list[RuleFit] | None = None
) -> tuple[list[RuleFit], list[int]]:
    """Fit a rule for each of the bounds, from the largest down, each from the solution of the one before.

    Returned are the rules, and the number of the bound that each was fitted for.

    That of the bound asked for is fitted with all patience. A rule that missed its bound gives way to the
    best of the others. One that meets it stays, unless another is within the bound and clearly more accurate
    on the same rows: a little more is noise, where the dual says that it cannot be. One that had to aim
    higher, and missed, stands for all smaller bounds, too, and so does one for those whose target noise makes
    the same. The rules of a part keep to the odds of those of all rows.
    """
    fits: list[RuleFit] = []
    for number in range(len(bounds))[::-1]:
        bound, whole = bounds[number], None if known is None else known[number]
        before = fits[-1] if fits and fits[-1] is not problem.unconstrained else None
        near = before
        if whole is not None and whole.odds != (1 if before is None else before.odds):
            near = whole
        kept = (
            near is not None
            and near is before
            and (
                _is_hopeless(problem, near, bounds[number + 1], whole)
                or _aims_alike(problem, near, bounds[number + 1], bound)
            )
        )
        if near is not None and kept and bound != asked:
            fits.append(near)
        elif bound == asked and (whole is None or whole.odds == 1):
            start = None if whole is None else whole.multipliers
            fits.append(problem.fit(bound, multipliers=start, move=whole is None))
        else:
            fits.append(problem.fit(bound, near, move=whole is None))
    fits = fits[::-1]
    origin = {id(fit): number for number, fit in enumerate(fits)}  # the largest, where several have one
    settled = []
    for fit, bound in zip(fits, bounds, strict=True):
        meets = problem.meets(fit, bound)
        others = [other for other in fits if other is fit or other.excess(bound) <= 0] if meets else fits
        best = problem.select(others, bound)
        settled.append(fit if meets and not problem.is_behind(fit, best) else best)
    return settled, [origin[id(fit)] for fit in settled]


def _is_hopeless(problem: RuleProblem, fit: RuleFit, bound: float, whole: RuleFit | None) -> bool:
    """Tell whether a rule that had to aim higher than its bound leaves nothing to find for smaller ones."""
    moves = whole is None and problem.safe is not None
    missed = fit.excess(bound) > 0 if moves else not problem.meets(fit, bound)
    return fit.raised and missed


def _aims_alike(problem: RuleProblem, fit: RuleFit, bound: float, smaller: float) -> bool:
    """Tell whether what noise leaves has the rule of a bound aim where that of a smaller one does."""
    target = problem.noise.target
    return not fit.raised and bool(np.array_equal(target(bound), target(smaller)))


def _settle(number: int, candidates: list[_Candidate], smaller: list[int], driven: NDArray[np.bool_]) -> int:
    """Return the number of the rule itself, or of one of a smaller bound that dominates it on held-out rows.

    Of several the most accurate is taken. None takes the place of the unconstrained rule, nor does one that
    decides alike for all rows; but that one, the last, takes the place of any that it dominates: where noise
    drove a rule, it is neither more accurate nor nearer to the bound on other rows. The choice is by held-out
    figures, which it then makes look a little too good.
    """
    own = candidates[number]
    if not own.rule.fit.multipliers.any():
        return number
    better = [
        k for k in smaller if not candidates[k].rule.fit.constant and candidates[k].dominates(own, driven)
    ]
    if not better and candidates[-1].replaces(own, driven):
        return len(candidates) - 1
    return max(better, key=lambda k: candidates[k].worth, default=number)
