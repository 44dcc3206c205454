r"""Rows with a network's scores, and what it would decide on them if it had not seen them.

What a network decides on rows that it has learned is too good, and the gap on them is another one than on new
rows. Copies that were trained without a fold of the rows are blind to that fold, but they are other networks:
where few units carry a decision, their gaps differ from one to the next by more than a sampling error.

Both are had together. With :math:`d(x)` the decision of the network, one-hot, :math:`d_j` that of copy
:math:`j` and :math:`b` the copy that is blind to a row, its *share* of each decision is

.. math:: z(x) = d(x) + d_b(x) - \operatorname{mean}_{j \in P_b \setminus b} d_j(x),

what the network decides, less what copies owe to having seen the row. :math:`P_b` are the copies that are
blind to the folds of the same part of the rows, so that what tells them apart cancels from the rates on
each part. Means of :math:`z` over the rows of a cell are those of :math:`d` over unseen ones if the
network owes to its memory what its copies owe to theirs; the rows' own noise is in all terms and cancels
from the difference, as in a control variate. On most sets they tell more of gaps on unseen rows than the
copies alone do (docs/design_notes.md has the figures).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from skfairprune.constraints import Constraint, Floats
from skfairprune.decision import DecisionRule
from skfairprune.gaps import GroupCounts

__all__ = ["ScoredRows", "decision_shares"]


def decision_shares(decisions: NDArray[np.intp], blind: NDArray[np.intp] | None, n_decisions: int) -> Floats:
    """Return what a network decides on rows as if it had not seen them.

    Parameters
    ----------
    decisions : ndarray of shape (1 + n_copies, n_samples)
        The decisions of the network, then of its copies.
    blind : ndarray of shape (n_samples,) or None
        The number of the copy that is blind to each row; None without copies, where the network is.
    n_decisions : int
        The number of decisions.

    Returns
    -------
    ndarray of shape (n_samples, n_decisions)
        The share of each decision: they sum to 1, and are 0 or 1 without copies, or where all agree.
    """
    shares = np.ones((decisions.shape[1], n_decisions))
    for decision in range(n_decisions - 1):
        own, *copies = decisions == decision
        share = own.astype(np.float64)
        if blind is not None:
            theirs = np.choose(blind, copies)
            others = np.sum(copies, axis=0) - theirs
            share += theirs - others / (len(copies) - 1)
        shares[:, decision] = share
        shares[:, -1] -= share
    return shares


@dataclass(frozen=True)
class ScoredRows:
    """Rows with the scores of a network, and of copies of it that are blind to some of them.

    Parameters
    ----------
    proba : ndarray of shape (n_samples, n_head_classes, n_groups)
        The network's scores :math:`q_{k,g}(x)`; they sum to 1 over the last two axes.
    kind : ndarray of shape (n_samples,)
        Kinds in [0, n_kinds), see :class:`skfairprune.constraints.Constraint`.
    group : ndarray of shape (n_samples,)
        Group codes in [0, n_groups).
    weight : ndarray of shape (n_samples,)
        Non-negative weights.
    copies : ndarray of shape (n_copies, n_samples, n_head_classes, n_groups), default=None
        The scores of the copies of each row's part, two or more; None if the network itself has not seen the
        rows.
    blind : ndarray of shape (n_samples,), default=None
        The number of the copy that has not seen a row; given with ``copies``.
    """

    proba: Floats
    kind: NDArray[np.intp]
    group: NDArray[np.intp]
    weight: Floats
    copies: Floats | None = None
    blind: NDArray[np.intp] | None = None

    def take(self, rows: NDArray) -> "ScoredRows":
        """Return the rows of that index or boolean mask."""
        there = ScoredRows(self.proba[rows], self.kind[rows], self.group[rows], self.weight[rows])
        if self.copies is None or self.blind is None:
            return there
        return replace(there, copies=self.copies[:, rows], blind=self.blind[rows])

    @property
    def n_groups(self) -> int:
        """The number of groups."""
        return self.proba.shape[2]

    def decisions(self, rule: DecisionRule) -> NDArray[np.intp]:
        """Return the decisions of the network, then of its copies, of shape (1 + n_copies, n_samples)."""
        networks = [self.proba] if self.copies is None else [self.proba, *self.copies]
        return np.array([rule.decide(scores) for scores in networks])

    def decide(self, rule: DecisionRule) -> Floats:
        """Return the shares of a rule's decisions, of shape (n_samples, n_decisions): see the module."""
        return decision_shares(self.decisions(rule), self.blind, rule.coefficients.shape[2])

    def counts(self, constraint: Constraint, shares: Floats) -> GroupCounts:
        """Count the rows by kind, group and the shares (n_samples, n_decisions) of the decisions."""
        shape = (constraint.n_kinds, self.n_groups, constraint.n_decisions)
        if self.copies is None:
            return GroupCounts.from_rows(self.kind, shares.argmax(axis=1), self.group, shape, self.weight)
        return GroupCounts.from_shares(self.kind, shares, self.group, shape, self.weight)
