"""The rule frontier: rules for many bounds from the scores of one network, each held to unseen rows."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skfairprune.constraints import Constraint, Floats
from skfairprune.gaps import Gap
from skfairprune.multipliers import ScoredRows
from skfairprune.rulefit import RuleFit, RuleProblem

__all__ = ["RuleFrontier", "fit_frontier"]

_N_BOUNDS = 20
_SMALLEST = 0.5  # standard errors of the gap: smaller bounds above 0 tell no rules apart


@dataclass(frozen=True)
class RuleFrontier:
    """Rules by bound.

    Attributes
    ----------
    bounds : ndarray of shape (n_bounds,)
        Increasing, from 0 to the least bound that the unconstrained rule keeps.
    fits : list of RuleFit
        The rule of each bound, on all rows.
    gaps : list of Gap
        The gap under each bound on rows that the rule behind a decision did not see.
    accuracies : ndarray of shape (n_bounds,)
        The accuracy on them.
    """

    bounds: Floats
    fits: list[RuleFit]
    gaps: list[Gap]
    accuracies: Floats

    def position(self, bound: float) -> int:
        """Return the position of the rule for a bound: that of the largest bound not above it.

        Parameters
        ----------
        bound : float
            At least 0.
        """
        return int(np.searchsorted(self.bounds, bound, side="right")) - 1

    def with_rule(self, position: int, fit: RuleFit, gap: Gap, accuracy: float) -> "RuleFrontier":
        """Return the frontier with another rule for one of its bounds."""
        fits, gaps, accuracies = list(self.fits), list(self.gaps), self.accuracies.copy()
        fits[position], gaps[position], accuracies[position] = fit, gap, accuracy
        return replace(self, fits=fits, gaps=gaps, accuracies=accuracies)


def fit_frontier(
    rows: ScoredRows,
    fold: NDArray[np.intp],
    constraint: Constraint,
    included: NDArray[np.bool_],
    bound: float,
    class_weight: Floats,
) -> RuleFrontier:
    """Fit rules for bounds from 0 to the unconstrained gap, close to each other near 0.

    Bounds are taken from the largest down, each fit from the solution of the one before.

    Parameters
    ----------
    rows, constraint, included, class_weight
        As for :func:`skfairprune.rulefit.fit_rule`.
    fold : ndarray of shape (n_samples,)
        The fold of each row; its scores are from a network that saw only the other folds.
    bound : float
        A bound that is to be among them.

    Returns
    -------
    RuleFrontier
    """
    problem = RuleProblem(rows, constraint, included, class_weight)
    largest = problem.unconstrained_bound
    smallest = min(_SMALLEST * problem.errors.max(), largest / 2)
    grid = np.geomspace(smallest, largest, _N_BOUNDS - 2).tolist() if largest > 0 else []
    bounds = np.unique([0.0, bound, *grid])
    fits = _descend(problem, bounds)
    decisions = np.empty((len(bounds), len(fold)), dtype=np.intp)
    for k in np.unique(fold):
        inside = fold == k
        others = RuleProblem(rows.take(~inside), constraint, included, class_weight)
        for decision, fit in zip(decisions, _descend(others, bounds), strict=True):
            decision[inside] = fit.rule.decide(rows.proba[inside])
    gaps = [rows.counts(constraint, decision).gap(constraint, included) for decision in decisions]
    correct = decisions == constraint.labels[rows.kind]
    return RuleFrontier(bounds, fits, gaps, correct @ rows.weight / rows.weight.sum())


def _descend(problem: RuleProblem, bounds: Floats) -> list[RuleFit]:
    """Fit a rule for each of the bounds, from the largest down.

    A rule that missed its bound gives way to the best of the others. One that meets it stays: by how much
    others are more accurate on the same rows is noise, where the dual says that they cannot be.
    """
    fits: list[RuleFit] = []
    for bound in bounds[::-1]:
        near = fits[-1] if fits and fits[-1] is not problem.unconstrained else None
        fits.append(problem.fit(bound, near))
    fits = fits[::-1]
    return [
        fit if problem.meets(fit, bound) else problem.select(fits, bound)
        for fit, bound in zip(fits, bounds, strict=True)
    ]
