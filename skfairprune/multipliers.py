"""The constraint's multipliers: the convex dual of the fair decision problem on given scores.

Given :math:`q_{k,g}(x) = P(k, group = g \\mid x)` for the head classes :math:`k` (labels, or labels and
strata), the group-blind decision of largest accuracy whose rates differ by at most :math:`\\epsilon`
between groups is a linear programme in the probabilities of the decisions. Its dual has one multiplier per
cell, which sum to 0 over the groups of an event:

.. math::

    \\min_\\lambda\\; E\\big[\\max_d s_d(x)\\big] - \\sum_{e,g} \\lambda_{e,g}\\, (a_{e,g} + t_{e,g})
    + \\tfrac{\\epsilon}{2} \\sum_{e,g} |\\lambda_{e,g}|, \\qquad
    s_d(x) = \\sum_{k,g} q_{k,g}(x)\\, \\big(u_{k,d} - V_{k,g,d}(\\lambda)\\big)

with :math:`u` the accuracy that a decision gains and :math:`V` the costs of :meth:`Constraint.costs`,
both as differences to decision 0, :math:`a` the rates where all decisions are 0, and :math:`t` a
shift that corrects the scores' own rates to the observed ones. The primal solution is
:math:`h = \\arg\\max_d s_d(x)`: the Bayes rule under the constraint (Menon and Williamson, "The cost of
fairness in binary classification", 2018; Xian et al., "Fair and optimal classification via
post-processing", 2023).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import helmert
from scipy.optimize import minimize

from skfairprune.constraints import Constraint, Floats, GroupCounts

__all__ = ["Margins", "ScoredRows", "flat_differences", "smooth_decision", "solve_multipliers"]

# The maximum is smoothed at these widths in turn, each start being the last solution.
_SMOOTHING = (0.1, 0.02, 0.004)
# Rows on which one decision has all but this probability do not bend the dual.
_CERTAIN = 1e-6


@dataclass(frozen=True)
class ScoredRows:
    """Rows with the scores of a network that did not see them.

    Parameters
    ----------
    proba : ndarray of shape (n_samples, n_head_classes, n_groups)
        The scores :math:`q_{k,g}(x)`; they sum to 1 over the last two axes.
    kind : ndarray of shape (n_samples,)
        Kinds in [0, n_kinds), see :class:`skfairprune.constraints.Constraint`.
    group : ndarray of shape (n_samples,)
        Group codes in [0, n_groups).
    weight : ndarray of shape (n_samples,)
        Non-negative weights.
    """

    proba: Floats
    kind: NDArray[np.intp]
    group: NDArray[np.intp]
    weight: Floats

    def take(self, rows: NDArray) -> "ScoredRows":
        """Return the rows of that index or boolean mask."""
        return ScoredRows(self.proba[rows], self.kind[rows], self.group[rows], self.weight[rows])

    @property
    def n_groups(self) -> int:
        """The number of groups."""
        return self.proba.shape[2]

    def counts(self, constraint: Constraint, decision: NDArray[np.intp]) -> GroupCounts:
        """Count the rows by kind, group and their decision."""
        shape = (constraint.n_kinds, self.n_groups, constraint.n_decisions)
        return GroupCounts.from_rows(self.kind, decision, self.group, shape, self.weight)


class Margins:
    """What the dual needs of the rows: margins over decision 0, and the rates they imply.

    Parameters
    ----------
    rows : ScoredRows
        The scores; of the kinds and groups only the shares are used.
    constraint : Constraint
        The constraint.
    gain : ndarray of shape (n_head_classes, n_decisions)
        What a decision gains on a row: 1 where it is the label and else 0, for accuracy.
    """

    def __init__(self, rows: ScoredRows, constraint: Constraint, gain: Floats) -> None:
        counts = rows.counts(constraint, np.zeros(len(rows.kind), dtype=np.intp)).counts
        counts /= counts.sum()
        self.constraint, self.gain = constraint, gain
        self.scores = rows.proba.reshape(len(rows.proba), -1)
        self.weight = rows.weight / rows.weight.sum()
        self.cell_weights = constraint.cell_sums(counts.sum(axis=2))
        self.first_rates = constraint.rates(counts)
        units = np.eye(self.cell_weights.size).reshape(-1, *self.cell_weights.shape)
        costs = constraint.costs(units, self.cell_weights)
        # By cell, decision from 1 on, and joint class: what the rate of the cell gains per unit of score.
        difference = (costs - costs[..., :1])[..., 1:]
        self.slopes: Floats = np.moveaxis(difference, -1, 1).reshape(len(units), -1, self.scores.shape[1])
        self.base: Floats = self.scores @ flat_differences(np.repeat(gain[:, None], rows.n_groups, axis=1))

    def coefficients(self, multipliers: Floats) -> Floats:
        """Return the rule's coefficients, of shape (n_head_classes, n_groups, n_decisions)."""
        return self.gain[:, None] - self.constraint.costs(multipliers, self.cell_weights)

    def of(self, multipliers: Floats) -> Floats:
        """Return the margins of the decisions from 1 on, of shape (n_samples, n_decisions - 1)."""
        return self.base - self.scores @ np.tensordot(self.slopes, multipliers.ravel(), (0, 0)).T

    def rates(self, soft: Floats) -> Floats:
        """Return the rates that the scores imply for soft decisions of shape (n_samples, n_decisions - 1)."""
        moments = (self.weight[:, None] * soft).T @ self.scores
        return self.first_rates + np.tensordot(self.slopes, moments, 2).reshape(self.first_rates.shape)


def flat_differences(coefficients: Floats) -> Floats:
    """Return coefficients less those of decision 0, of shape (n_head_classes * n_groups, n_decisions - 1)."""
    difference: Floats = (coefficients - coefficients[..., :1])[..., 1:]
    return difference.reshape(-1, difference.shape[-1])


def smooth_decision(margins: Floats) -> Floats:
    """Return the decisions, in [0, 1], whose rates the smoothed dual equates at its solution."""
    return _softmax(margins / _SMOOTHING[-1])[0]


def _softmax(margins: Floats) -> tuple[Floats, Floats]:
    """Return the probabilities of the decisions from 1 on, and the logarithm of the normaliser."""
    top = np.maximum(margins.max(axis=1), 0.0)
    exponential = np.exp(margins - top[:, None])
    total = np.exp(-top) + exponential.sum(axis=1)
    exponential /= total[:, None]
    return exponential, top + np.log(total)


def solve_multipliers(
    margins: Margins,
    included: NDArray[np.bool_],
    bound: Floats | float,
    rate_shift: Floats | None = None,
    start: Floats | None = None,
) -> Floats:
    """Solve the dual for the multipliers.

    The maximum and the absolute value are smoothed, at a width that falls in steps, and each smooth
    problem is solved by Newton's method in a trust region until rates agree to 1e-4.

    Parameters
    ----------
    margins : Margins
        The rows and the constraint.
    included : ndarray of shape (n_events, n_groups) of bool
        The cells under the constraint; the others get the multiplier 0.
    bound : float or ndarray of shape (n_events,)
        The largest difference allowed between two groups' rates, at least 0, one for all events or each.
    rate_shift : ndarray of shape (n_events, n_groups), default=None
        Added to the rates that the scores imply; None adds 0.
    start : ndarray of shape (n_events, n_groups), default=None
        Multipliers near the solution; None starts from 0.

    Returns
    -------
    ndarray of shape (n_events, n_groups)
        The multipliers, in accuracy per unit of rate; they sum to 0 over the groups of an event.
    """
    scores, weight = margins.scores, margins.weight
    shift = 0.0 if rate_shift is None else rate_shift
    # Columns span the multipliers that sum to 0 over the included groups of each event.
    basis = _zero_sum_basis(included)
    offset = basis.T @ np.where(included, margins.first_rates + shift, 0.0).ravel()
    slopes = np.tensordot(basis, margins.slopes, (0, 0))
    half_bound = np.repeat(np.broadcast_to(bound, len(included)), included.shape[1]) / 2
    scale = np.where(included, margins.cell_weights, 1.0).ravel()

    def soft(z: Floats, width: float) -> tuple[Floats, Floats]:
        return _softmax((margins.base - scores @ np.tensordot(slopes, z, (0, 0)).T) / width)

    def dual(z: Floats, width: float) -> tuple[float, Floats]:
        multipliers, rounding = basis @ z, width * scale
        decision, height = soft(z, width)
        magnitude = np.hypot(multipliers, rounding)
        value = width * (weight @ height) - z @ offset
        rates = np.tensordot(slopes, (weight[:, None] * decision).T @ scores, 2)
        slope = basis.T @ (half_bound * multipliers / magnitude)
        return float(value + half_bound @ (magnitude - rounding)), slope - rates - offset

    def curvature(z: Floats, width: float) -> Floats:
        multipliers, rounding = basis @ z, width * scale
        decision, _ = soft(z, width)
        largest = np.maximum(decision.max(axis=1), 1 - decision.sum(axis=1))
        near = np.flatnonzero(largest < 1 - _CERTAIN)
        decision, part, share = decision[near], scores[near], weight[near] / width
        bend = half_bound * rounding**2 / np.hypot(multipliers, rounding) ** 3
        hessian = (basis.T * bend) @ basis
        for d in range(decision.shape[1]):
            for other in range(d + 1):
                mixed = -share * decision[:, d] * decision[:, other]
                if d == other:
                    mixed += share * decision[:, d]
                block = slopes[:, d] @ (part.T @ (mixed[:, None] * part)) @ slopes[:, other].T
                hessian += block if d == other else block + block.T
        return hessian

    z = np.zeros(basis.shape[1]) if start is None else basis.T @ start.ravel()
    for width in _SMOOTHING if start is None else _SMOOTHING[-1:]:
        z = minimize(
            dual,
            z,
            args=(width,),
            jac=True,
            hess=curvature,
            method="trust-exact",
            options={"gtol": 1e-4, "maxiter": 60, "initial_trust_radius": 0.1, "max_trust_radius": 1.0},
        ).x
    return (basis @ z).reshape(included.shape)


def _zero_sum_basis(included: NDArray[np.bool_]) -> Floats:
    """Return an orthonormal basis, in columns, of the tables with zero row sums on the included cells."""
    columns = []
    for event, groups in enumerate(included):
        cells = event * included.shape[1] + np.flatnonzero(groups)
        for row in helmert(len(cells)) if len(cells) > 1 else ():
            column = np.zeros(included.size)
            column[cells] = row
            columns.append(column)
    return np.stack(columns, axis=1)
