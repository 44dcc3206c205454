"""The fairness task of a fit: the constraint, the rows' kinds and groups, and rules fitted on them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skfairprune.constraints import Constraint, Floats
from skfairprune.decision import DecisionRule, condition_on_group
from skfairprune.frontier import RuleFrontier, fit_frontier
from skfairprune.gaps import CellRates
from skfairprune.rulefit import RuleFit, RuleProblem
from skfairprune.scored import ScoredRows

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
    with_rule : bool, default=True
        Whether a rule decides; if not, the network's most probable label does.
    """

    constraint: Constraint
    included: NDArray[np.bool_]
    bound: float
    kind: NDArray[np.intp]
    group: NDArray[np.intp]
    weight: Floats
    class_weight: Floats
    with_rule: bool = True

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
    def labels(self) -> NDArray[np.intp]:
        """The label code of each row, of shape (n_total,)."""
        return self.constraint.labels[self.kind]

    @property
    def unconstrained(self) -> DecisionRule:
        """The rule that takes the most probable label."""
        constraint = self.constraint
        return DecisionRule.unconstrained(constraint.head_labels, self.n_groups, constraint.n_decisions)

    @property
    def needs_dense_decisions(self) -> bool:
        """Whether the constraint compares with the dense network: see :meth:`with_dense_decisions`."""
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

    def scored(
        self, networks: Sequence[Floats], index: NDArray[np.intp], blind: NDArray[np.intp] | None
    ) -> ScoredRows:
        """Return rows as rules are fitted on them.

        Parameters
        ----------
        networks : sequence of ndarray of shape (n_samples, n_joint)
            The joint probabilities by the network, then by its copies.
        index : ndarray of shape (n_samples,)
            The rows' positions.
        blind : ndarray of shape (n_samples,) or None
            The number of the copy that has not seen each row; None without copies.
        """
        rows = self._scored(networks[0], index)
        if blind is None:
            return rows
        return replace(rows, copies=np.stack([self._shaped(joint) for joint in networks[1:]]), blind=blind)

    def fit_rule(self, joint: Floats, index: NDArray[np.intp]) -> RuleFit:
        """Fit the rule on joint probabilities (n_samples, n_joint) of the rows of that index."""
        rows = self._scored(joint, index)
        return RuleProblem(rows, self.constraint, self.included, self.class_weight).fit(self.bound)

    def is_limited_by_noise(self, joint: Floats, index: NDArray[np.intp]) -> bool:
        """Tell whether noise would stop a rule on joint probabilities of these rows short of the bound.

        See :meth:`skfairprune.noise.Noise.stops_short`.
        """
        rows = self._scored(joint, index)
        problem = RuleProblem(rows, self.constraint, self.included, self.class_weight)
        return problem.noise.stops_short(self.bound)

    def driven(self, rows: ScoredRows) -> NDArray[np.bool_]:
        """Return the cells that are known well enough to be driven by their gaps, (n_events, n_groups)."""
        return RuleProblem(rows, self.constraint, self.included, self.class_weight).included

    def fit_frontier(
        self, rows: ScoredRows, fold: NDArray[np.intp], aware: bool = False
    ) -> tuple[RuleFrontier, Floats]:
        """Fit rules for many bounds, the task's own among them.

        Parameters
        ----------
        rows : ScoredRows
            From :meth:`scored`.
        fold : ndarray of shape (n_samples,)
            The folds of the rows.
        aware : bool
            Whether the rules are told the group of each row.
        """
        if aware:
            copies = rows.copies
            if copies is not None:
                copies = np.stack([condition_on_group(scores, rows.group) for scores in copies])
            rows = replace(rows, proba=condition_on_group(rows.proba, rows.group), copies=copies)
        return fit_frontier(rows, fold, self.constraint, self.included, self.bound, self.class_weight)

    def cell_rates(self, rows: ScoredRows, shares: Floats) -> CellRates:
        """Measure the rates of decisions with those shares, (n_samples, n_decisions), on rows."""
        return rows.counts(self.constraint, shares).cell_rates(self.constraint, self.included)

    def violation(self, joint: Floats, index: NDArray[np.intp]) -> tuple[Floats, NDArray[np.bool_]]:
        """Return how far the rates of the network's own decisions lie outside the band that is allowed.

        Of each event the band of the width that is clear of the bound by the sampling error is laid to the
        rates that take part; a gap within it violates nothing.

        Returns
        -------
        outside : ndarray of shape (n_events, n_groups)
            Positive above the band, negative below, 0 inside and where a cell is not under the constraint.
        driven : ndarray of shape (n_events, n_groups) of bool
            The cells that take part.
        """
        rows = self._scored(joint, index)
        problem = RuleProblem(rows, self.constraint, self.included, self.class_weight)
        counts = problem.rows.counts(self.constraint, problem.rows.decide(self.unconstrained))
        rates = np.where(problem.reported, counts.rates(self.constraint), np.nan)
        # An event that has left the constraint has no rates: its band is empty, and nothing lies outside.
        low = np.where(problem.included, rates, np.inf).min(axis=1)
        high = np.where(problem.included, rates, -np.inf).max(axis=1)
        slack = np.maximum(high - low - problem.noise.clear(self.bound), 0)[:, None] / 2
        outside = rates - np.clip(rates, low[:, None] + slack, high[:, None] - slack)
        return np.nan_to_num(outside), problem.included

    def merit(self, joint: Floats, index: NDArray[np.intp]) -> float:
        """Return the accuracy of the network's own decisions less the price of a gap not clear of the bound.

        The price is that of the rule. A network that decides alike for all has no merit (minus infinity).
        """
        rows = self._scored(joint, index)
        problem = RuleProblem(rows, self.constraint, self.included, self.class_weight)
        return problem.merit(problem.unconstrained, self.bound)

    def cell_weights(self, index: NDArray[np.intp]) -> Floats:
        """Return the share of the weight of those rows in each cell under the constraint, else 0."""
        n_kinds = self.constraint.n_kinds
        code = self.kind[index] * self.n_groups + self.group[index]
        share = np.bincount(code, self.weight[index], minlength=n_kinds * self.n_groups)
        table = share.reshape(n_kinds, self.n_groups) / share.sum()
        return np.where(self.included, self.constraint.cell_sums(table), 0.0)

    def values(self, multipliers: Floats, cell_weights: Floats) -> Floats:
        """Return the value of each decision on each joint class, of shape (n_joint, n_decisions).

        Losses are multiplied by the class weights, which do not count in rates: so the prices are divided by
        them, as those of a rule are.

        Parameters
        ----------
        multipliers : ndarray of shape (n_events, n_groups)
            In accuracy per unit of rate.
        cell_weights : ndarray of shape (n_events, n_groups)
            From :meth:`cell_weights`.
        """
        constraint = self.constraint
        costs = constraint.costs(multipliers, cell_weights)
        tilt = self.class_weight[constraint.head_labels] / self.class_weight.mean()
        gain = np.eye(constraint.n_decisions)[constraint.head_labels][:, None]
        return (gain - costs / tilt[:, None, None]).reshape(self.n_joint, constraint.n_decisions)
