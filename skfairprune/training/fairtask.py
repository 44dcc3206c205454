"""The fairness task of a fit: the constraint, the rows' labels and groups, and rules fitted on them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skfairprune.constraints import Constraint, Floats, Gap, GroupCounts
from skfairprune.decision import DecisionRule, RuleFit, cross_fitted_gap, fit_rule
from skfairprune.multipliers import ScoredRows

__all__ = ["FairTask"]


@dataclass(frozen=True)
class FairTask:
    """A constraint and the labels, groups and weights of the rows it is measured on.

    Attributes
    ----------
    constraint : Constraint
        The constraint.
    included : ndarray of shape (n_events, n_groups) of bool
        The cells under it.
    bound : float
        The largest gap allowed.
    y, group : ndarray of shape (n_total,)
        Label and group codes of all rows.
    weight : ndarray of shape (n_total,)
        Sample weights, for rates.
    class_weight : ndarray of shape (2,)
        Class weights of the loss.
    """

    constraint: Constraint
    included: NDArray[np.bool_]
    bound: float
    y: NDArray[np.intp]
    group: NDArray[np.intp]
    weight: Floats
    class_weight: Floats

    @property
    def n_groups(self) -> int:
        """The number of groups."""
        return self.included.shape[1]

    def _scored(self, joint: Floats, index: NDArray[np.intp]) -> ScoredRows:
        proba = joint.reshape(len(joint), 2, self.n_groups)
        return ScoredRows(proba, self.y[index], self.group[index], self.weight[index])

    def fit_rule(self, joint: Floats, index: NDArray[np.intp]) -> RuleFit:
        """Fit the rule on joint probabilities (n_samples, 2 * n_groups) of the rows of that index."""
        return fit_rule(
            self._scored(joint, index),
            self.constraint,
            self.included,
            self.bound,
            self.class_weight,
        )

    def measure(self, rule: DecisionRule, joint: Floats, index: NDArray[np.intp]) -> Gap:
        """Measure a rule's gap on those rows."""
        rows = self._scored(joint, index)
        counts = GroupCounts.from_rows(
            rows.y, rule.score(rows.proba) > 0, rows.group, self.n_groups, rows.weight
        )
        return counts.gap(self.constraint, self.included)

    def cross_fitted_gap(
        self, joint: Floats, index: NDArray[np.intp], fold: NDArray[np.intp], start: Floats
    ) -> Gap:
        """Estimate the gap on unseen rows from out-of-fold joint probabilities."""
        return cross_fitted_gap(
            self._scored(joint, index),
            fold,
            self.constraint,
            self.included,
            self.bound,
            self.class_weight,
            start,
        )
