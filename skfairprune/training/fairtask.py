"""The fairness task of a fit: the constraint, the rows' kinds and groups, and rules fitted on them."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skfairprune.constraints import Constraint, Floats, Gap
from skfairprune.decision import DecisionRule
from skfairprune.frontier import RuleFrontier, fit_frontier
from skfairprune.multipliers import ScoredRows
from skfairprune.rulefit import RuleFit, cross_fitted_gap, fit_rule

__all__ = ["FairTask"]


@dataclass(frozen=True)
class FairTask:
    """A constraint and the kinds, groups and weights of the rows it is measured on.

    Attributes
    ----------
    constraint : Constraint
        The constraint.
    included : ndarray of shape (n_events, n_groups) of bool
        The cells under it.
    bound : float
        The largest gap allowed.
    kind, group : ndarray of shape (n_total,)
        Kinds (:meth:`Constraint.kinds`) and group codes of all rows.
    weight : ndarray of shape (n_total,)
        Sample weights, for rates.
    class_weight : ndarray of shape (n_classes,)
        Class weights of the loss.
    """

    constraint: Constraint
    included: NDArray[np.bool_]
    bound: float
    kind: NDArray[np.intp]
    group: NDArray[np.intp]
    weight: Floats
    class_weight: Floats

    @property
    def n_groups(self) -> int:
        """The number of groups."""
        return self.included.shape[1]

    @property
    def n_joint(self) -> int:
        """The number of joint classes (head class, group): the network's outputs."""
        return len(self.constraint.head_labels) * self.n_groups

    @property
    def joint(self) -> NDArray[np.intp]:
        """The joint class of each row, of shape (n_total,)."""
        return self.kind // self.constraint.n_dense * self.n_groups + self.group

    @property
    def unconstrained(self) -> DecisionRule:
        """The rule that takes the most probable label."""
        constraint = self.constraint
        return DecisionRule.unconstrained(constraint.head_labels, self.n_groups, constraint.n_decisions)

    @property
    def needs_dense_decisions(self) -> bool:
        """Whether :meth:`with_dense_decisions` is due: the constraint compares with the dense network."""
        return self.constraint.n_dense > 1

    def with_dense_decisions(self, joint: Floats) -> "FairTask":
        """Return the task that knows what the dense network decides on all rows.

        Parameters
        ----------
        joint : ndarray of shape (n_total, n_joint)
            The dense network's joint probabilities.
        """
        decision = self.unconstrained.decide(self._shaped(joint))
        return replace(self, kind=self.constraint.with_dense_decisions(self.kind, decision))

    def _shaped(self, joint: Floats) -> Floats:
        return joint.reshape(len(joint), -1, self.n_groups)

    def _scored(self, joint: Floats, index: NDArray[np.intp]) -> ScoredRows:
        return ScoredRows(self._shaped(joint), self.kind[index], self.group[index], self.weight[index])

    def fit_rule(self, joint: Floats, index: NDArray[np.intp]) -> RuleFit:
        """Fit the rule on joint probabilities (n_samples, n_joint) of the rows of that index."""
        return fit_rule(
            self._scored(joint, index),
            self.constraint,
            self.included,
            self.bound,
            self.class_weight,
        )

    def fit_frontier(self, joint: Floats, index: NDArray[np.intp], fold: NDArray[np.intp]) -> RuleFrontier:
        """Fit rules for many bounds, the task's own among them, on out-of-fold joint probabilities."""
        return fit_frontier(
            self._scored(joint, index),
            fold,
            self.constraint,
            self.included,
            self.bound,
            self.class_weight,
        )

    def measure(self, rule: DecisionRule, joint: Floats, index: NDArray[np.intp]) -> Gap:
        """Measure a rule's gap on those rows."""
        rows = self._scored(joint, index)
        return rows.counts(self.constraint, rule.decide(rows.proba)).gap(self.constraint, self.included)

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
