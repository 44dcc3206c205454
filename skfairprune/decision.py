"""The decision rule: one group-blind linear correction in the predicted group scores.

The network predicts :math:`q_{y,g}(x)`, the joint probability of label and group. The rule decides
positive where :math:`s(x) = \\sum_{y,g} c_{y,g}\\, q_{y,g}(x) > 0`, with :math:`c` from the constraint's
multipliers (:mod:`skfairprune.multipliers`). Being linear in the softmax outputs, it is merged into the
network as one last linear layer

.. math:: p(x) = \\tfrac12 + \\tfrac{s(x)}{2 \\max(1, \\max |c|)} \\in [0, 1],

so that one deterministic network is deployed, the decision is the argmax, and without a constraint
(:math:`c = \\mp 1`) :math:`p(x)` is the network's probability of the positive class.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skfairprune.constraints import Constraint, Floats, Gap, GroupCounts
from skfairprune.multipliers import ScoredRows, smooth_decision, solve_multipliers

__all__ = ["DecisionRule", "RuleFit", "cross_fitted_gap", "fit_rule"]

# Standard errors of its gap that the rule keeps each event clear of the bound, and the least share of the
# bound that it aims at: below that, on very small data, accuracy would be paid for noise.
_MARGIN, _LEAST_TARGET = 1.0, 0.5
# What a gap above the target costs in accuracy, when rules are compared. Where noise leaves only wild rules
# within the target, one that is near it is better.
_PRICE = 5.0
_MAX_ROUNDS = 20


@dataclass(frozen=True)
class DecisionRule:
    """A linear rule in the joint probabilities of label and group.

    Parameters
    ----------
    coefficients : ndarray of shape (2, n_groups)
        :math:`c_{y,g}`; a positive decision where the score is above 0.
    """

    coefficients: Floats

    @classmethod
    def unconstrained(cls, n_groups: int) -> "DecisionRule":
        """Return the rule that takes the more probable label."""
        return cls(np.repeat([[-1.0], [1.0]], n_groups, axis=1))

    def score(self, proba: Floats) -> Floats:
        """Return :math:`s(x)`, of shape (n_samples,), from scores of shape (n_samples, 2, n_groups)."""
        return proba.reshape(len(proba), -1) @ self.coefficients.ravel()

    def scaled(self) -> Floats:
        """Return the coefficients of the same rule in [-1, 1], of shape (2 * n_groups,)."""
        return self.coefficients.ravel() / max(1.0, np.abs(self.coefficients).max())

    def output_weights(self) -> Floats:
        """Return the last layer, of shape (2, 2 * n_groups): its columns are probabilities."""
        positive = (1 + self.scaled()) / 2
        return np.stack([1 - positive, positive])


@dataclass(frozen=True)
class RuleFit:
    """A fitted rule and what it reached on the rows it was fitted on.

    Attributes
    ----------
    rule : DecisionRule
        The rule.
    multipliers : ndarray of shape (n_events, n_groups)
        The multipliers behind it.
    event_gaps : list of Gap
        The thresholded gap on the rows, in each event.
    accuracy : float
        The (class-weighted) accuracy on the rows.
    constant : bool
        Whether all rows get the same decision.
    """

    rule: DecisionRule
    multipliers: Floats
    event_gaps: list[Gap]
    accuracy: float
    constant: bool

    def excess(self, limit: Floats | float) -> float:
        """Return by how much the gap of the worst event is above the limit, one for all or for each."""
        values = np.array([gap.value for gap in self.event_gaps])
        return float(np.nan_to_num(values - limit, nan=-np.inf).max())


def fit_rule(
    rows: ScoredRows,
    constraint: Constraint,
    included: NDArray[np.bool_],
    bound: float,
    class_weight: Floats,
    start: Floats | None = None,
) -> RuleFit:
    """Fit the most accurate rule whose thresholded gap on the rows keeps clear of the bound.

    The dual is solved on the scores; then the observed, thresholded rates replace what the scores
    imply, and it is solved again, until both agree. Of all the rules met on the way the one of
    most accuracy, less a price on its excess, is taken; a rule that decides alike for all rows only if no
    other is within the bound.

    Parameters
    ----------
    rows : ScoredRows
        Rows that the network's weights did not see.
    constraint : Constraint
        The constraint.
    included : ndarray of shape (n_events, n_groups) of bool
        The cells under the constraint.
    bound : float
        The largest gap allowed, in [0, 1].
    class_weight : ndarray of shape (2,)
        The class weights the network was trained with. They count in the accuracy, not in the rates.
    start : ndarray of shape (n_events, n_groups), default=None
        Multipliers near the solution.

    Returns
    -------
    RuleFit
    """
    # The network was trained on tilted classes: its scores are tilted back before rates are read.
    untilted = rows.proba / class_weight[:, None]
    untilted /= untilted.sum(axis=(1, 2), keepdims=True)
    true_rows = ScoredRows(untilted, rows.y, rows.group, rows.weight)
    gain = np.array([-1.0, 1.0]) * class_weight / class_weight.mean()
    share = true_rows.share
    cell_weights = constraint.cell_sums(share)
    included = included & (cell_weights > 0)
    weight = rows.weight / rows.weight.sum()
    flat = untilted.reshape(len(untilted), -1)

    def evaluate(multipliers: Floats) -> tuple[RuleFit, Floats, Floats]:
        coefficients = gain[:, None] - constraint.costs(multipliers, cell_weights)
        margin = flat @ coefficients.ravel()
        decision = margin > 0
        counts = GroupCounts.from_rows(rows.y, decision, rows.group, rows.n_groups, rows.weight)
        implied = constraint.rates(share, ((weight * smooth_decision(margin)) @ flat).reshape(2, -1))
        correct = class_weight[rows.y] * rows.weight
        fit = RuleFit(
            DecisionRule(coefficients / class_weight[:, None] * class_weight.mean()),
            multipliers,
            counts.event_gaps(constraint, included),
            float(correct @ (decision == rows.y) / correct.sum()),
            bool(decision.all() or not decision.any()),
        )
        return fit, counts.rates(constraint), implied

    unconstrained, _, _ = evaluate(np.zeros_like(cell_weights))
    gaps = unconstrained.event_gaps
    errors = np.array([gap.standard_error if np.isfinite(gap.value) else 0.0 for gap in gaps])
    target = np.maximum(bound - _MARGIN * errors, _LEAST_TARGET * bound)
    if unconstrained.excess(target) <= 0:
        return unconstrained
    tolerance = 0.05 * errors.max()
    candidates = [unconstrained]
    shift = np.zeros_like(cell_weights)
    multipliers, step = start, 1.0
    for _ in range(_MAX_ROUNDS):
        multipliers = solve_multipliers(true_rows, constraint, included, target, gain, shift, multipliers)
        fit, observed, implied = evaluate(multipliers)
        candidates.append(fit)
        if abs(fit.excess(target)) <= tolerance:
            break
        if len(candidates) > 2 and fit.excess(target) * candidates[-2].excess(target) < 0:
            step /= 2  # it went past the target
        shift = shift + step * (np.where(included, observed - implied, 0.0) - shift)
    return _select(candidates, target + tolerance, bound)


def _select(candidates: list[RuleFit], target: Floats, bound: float) -> RuleFit:
    """Return the rule of most accuracy less the price of its excess over the target.

    A rule that decides alike for all rows has no gap; it is taken only if no other is within the bound.
    """

    def merit(fit: RuleFit) -> float:
        return fit.accuracy - _PRICE * max(fit.excess(target), 0.0)

    varying = [fit for fit in candidates if not fit.constant]
    constant = [fit for fit in candidates if fit.constant and fit.excess(bound) <= 0]
    if constant and not any(fit.excess(bound) <= 0 for fit in varying):
        return max(constant, key=merit)
    return max(varying or candidates, key=merit)


def cross_fitted_gap(
    rows: ScoredRows,
    fold: NDArray[np.intp],
    constraint: Constraint,
    included: NDArray[np.bool_],
    bound: float,
    class_weight: Floats,
    start: Floats,
) -> Gap:
    """Estimate the gap on unseen rows: each fold is decided by a rule fitted on the other folds.

    Parameters
    ----------
    rows, constraint, included, bound, class_weight, start
        As for :func:`fit_rule`.
    fold : ndarray of shape (n_samples,)
        The fold of each row; its scores are from a network that saw only the other folds.

    Returns
    -------
    Gap
    """
    decision = np.empty(len(fold), dtype=bool)
    for k in np.unique(fold):
        inside = fold == k
        fit = fit_rule(rows.take(~inside), constraint, included, bound, class_weight, start)
        decision[inside] = fit.rule.score(rows.proba[inside]) > 0
    counts = GroupCounts.from_rows(rows.y, decision, rows.group, rows.n_groups, rows.weight)
    return counts.gap(constraint, included)
