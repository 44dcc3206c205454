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
shift that corrects the scores' own rates to the observed ones. The shares :math:`P(e, g)` by which
:math:`V` divides are those of the cells in the scores, :math:`E[\\sum_{k \\in e} q_{k,g}]`, so that a rate is
a mean over the scores of its cell: a network may think a small group five times as rare as it is, and in the
shares of the rows a decision that all rows get would have another rate than 1. The primal solution is
:math:`h = \\arg\\max_d s_d(x)`: the Bayes rule under the constraint (Menon and Williamson, "The cost of
fairness in binary classification", 2018; Xian et al., "Fair and optimal classification via
post-processing", 2023).
"""

import math
from copy import copy
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import cho_factor, cho_solve, null_space

from skfairprune.constraints import Constraint, Floats
from skfairprune.decision import flat_differences
from skfairprune.scored import ScoredRows

__all__ = ["DualProblem"]

# The maximum is smoothed at these widths in turn, each start being the last solution.
_SMOOTHING = (0.1, 0.02, 0.004)
# Rows on which one decision has all but this probability do not bend the dual.
_CERTAIN = 1e-4
# Rows enough for the curvature, which only directs the steps (with 50 groups most of a step's time).
_CURVATURE_ROWS = 4096
# Up to so many decisions beside the first it is summed by pairs of them: with many groups six times as fast.
_MAX_PAIRED = 4
# Numbers that are held at a time for it, with more.
_CURVATURE_SIZE = 4_000_000
# The least scores of a cell, as a share of its rows: prices of fewer would leave the other scores no digits.
_LEAST_SCORES = 1e-3
# Root mean square of the rates' error at a solution. Near one few steps do; where noise leaves no solution,
# no number of them would.
_TOLERANCE, _MAX_STEPS, _MAX_WARM_STEPS = 1e-4, 40, 12


def _softmax(margins: Floats) -> tuple[Floats, Floats]:
    """Return the probabilities of the decisions from 1 on, and the logarithm of the normaliser."""
    top = np.maximum(margins.max(axis=1), 0.0)
    exponential = np.exp(margins - top[:, None])
    total = np.exp(-top) + exponential.sum(axis=1)
    exponential /= total[:, None]
    return exponential, top + np.log(total)


class DualProblem:
    """The dual on given rows: margins, the rates they imply, and the multipliers under any bound.

    Margins are the scores of the decisions from 1 on less that of decision 0, (n_samples, n_decisions - 1).

    Parameters
    ----------
    rows : ScoredRows
        The scores; of the kinds and groups only the shares are used.
    constraint : Constraint
        The constraint.
    included : ndarray of shape (n_events, n_groups) of bool
        The cells under it, where they have weight; the others get the multiplier 0.
    gain : ndarray of shape (n_head_classes, n_decisions)
        What a decision gains on a row: 1 where it is the label and else 0, for accuracy.
    """

    def __init__(
        self, rows: ScoredRows, constraint: Constraint, included: NDArray[np.bool_], gain: Floats
    ) -> None:
        first = np.eye(1, constraint.n_decisions).repeat(len(rows.kind), axis=0)
        counts = rows.counts(constraint, first).counts
        counts /= counts.sum()
        self.constraint = constraint
        self.scores = rows.proba.reshape(len(rows.proba), -1)
        self.weight = rows.weight / rows.weight.sum()
        self.cell_weights = constraint.cell_sums(counts.sum(axis=2))
        self.included = included & (self.cell_weights > 0)
        mean = (self.weight @ self.scores).reshape(-1, rows.n_groups)
        own = constraint.members[:, :: constraint.n_dense] @ mean
        self.score_weights = np.maximum(own, _LEAST_SCORES * self.cell_weights)
        self.first_rates = constraint.rates(counts)
        self._set_gain(gain)

    @cached_property
    def _slopes(self) -> Floats:
        """What a unit of score adds to a cell's rate, (n_cells, n_decisions - 1, n_joint)."""
        units = np.eye(self.cell_weights.size).reshape(-1, *self.cell_weights.shape)
        costs = self._costs(units)
        difference = (costs - costs[..., :1])[..., 1:]
        return np.moveaxis(difference, -1, 1).reshape(len(units), -1, self.scores.shape[1])

    @cached_property
    def _scale(self) -> Floats:
        """The weights of the cells: a unit of z is a unit of accuracy per row, in cells of any size."""
        return np.where(self.included, self.cell_weights, 1.0).ravel()

    @cached_property
    def _basis(self) -> Floats:
        """Multipliers are basis @ z."""
        return _zero_sum_basis(self.included, self._scale)

    @cached_property
    def _loadings(self) -> Floats:
        """What a unit of score adds to the margins by unit of z, (n_z, n_decisions - 1, n_joint)."""
        return np.tensordot(self._basis, self._slopes, (0, 0))

    @cached_property
    def _numbers(self) -> tuple[Floats, Floats]:
        """The rows' numbers that the margins are linear in, and by unit of z and decision, their loadings.

        Where few multipliers move one margin, these are what a unit of each moves it by, and else the scores.
        """
        n_numbers = self._basis.shape[1]
        if self.constraint.n_decisions > 2 or n_numbers >= self.scores.shape[1]:
            return self.scores, self._loadings
        return self.scores @ self._loadings[:, 0].T, np.eye(n_numbers)[:, None]

    def _set_gain(self, gain: Floats) -> None:
        self.gain = gain
        flat = flat_differences(np.repeat(gain[:, None], self.included.shape[1], axis=1))
        self.base: Floats = self.scores @ flat

    def with_gain(self, gain: Floats) -> "DualProblem":
        """Return the problem on the same rows with another gain."""
        _ = self._numbers  # made once, for all gains
        other = copy(self)
        other._set_gain(gain)
        return other

    def coefficients(self, multipliers: Floats) -> Floats:
        """Return the rule's coefficients, of shape (n_head_classes, n_groups, n_decisions)."""
        return self.gain[:, None] - self._costs(multipliers)

    def _costs(self, multipliers: Floats) -> Floats:
        """Return the costs of decisions, in rates that are means over the scores of each cell."""
        return self.constraint.costs(multipliers, self.score_weights)

    def margins(self, multipliers: Floats) -> Floats:
        """Return the margins under multipliers of shape (n_events, n_groups)."""
        return self.base - self.scores @ np.tensordot(self._slopes, multipliers.ravel(), (0, 0)).T

    def stakes(self, multipliers: Floats) -> Floats:
        """Return what is at stake on each row, of shape (n_samples,), in accuracy.

        It is how much the best decision is worth more than the second under the multipliers, if the row's
        label were known, for the label where that is most. Near 0 whatever is decided is as good, and small
        errors of the scores or multipliers decide.
        """
        coefficients = self.coefficients(multipliers)
        stakes = np.zeros(len(self.scores))
        for label in range(self.constraint.n_decisions):
            own = (self.constraint.head_labels == label)[:, None]
            # The other labels' scores at a coefficient of 0: a copy of this label's takes longer.
            table = np.where(own[..., None], coefficients, 0.0).reshape(self.scores.shape[1], -1)
            shares = np.repeat(own, coefficients.shape[1], axis=1).astype(np.float64).reshape(-1, 1)
            worth = self.scores @ np.hstack([table, shares])
            total = np.maximum(worth[:, -1], np.finfo(float).tiny)
            worth = worth[:, :-1]
            if worth.shape[1] == 2:  # the same, six times as fast
                lead = np.abs(worth[:, 1] - worth[:, 0])
            else:
                worth.partition(-2, axis=1)
                lead = worth[:, -1] - worth[:, -2]
            stakes = np.maximum(stakes, lead / total)
        return stakes

    def rates(self, margins: Floats) -> Floats:
        """Return the rates that the scores imply for the smoothed decisions, which the dual equates."""
        soft, _ = _softmax(margins / _SMOOTHING[-1])
        moments = (self.weight[:, None] * soft).T @ self.scores
        return self.first_rates + np.tensordot(self._slopes, moments, 2).reshape(self.first_rates.shape)

    def solve(
        self, bound: Floats | float, rate_shift: Floats | None = None, start: Floats | None = None
    ) -> Floats:
        """Solve the dual for the multipliers.

        The maximum and the absolute value are smoothed, at a width that falls in steps, and each smooth
        problem is solved by a damped Newton method until rates agree to 1e-4 (root mean square).

        Parameters
        ----------
        bound : float or ndarray of shape (n_events,)
            The largest difference allowed between two groups' rates, at least 0, one for all events or
            each.
        rate_shift : ndarray of shape (n_events, n_groups), default=None
            Added to the rates that the scores imply; None adds 0.
        start : ndarray of shape (n_events, n_groups), default=None
            Multipliers near the solution; None starts from 0.

        Returns
        -------
        ndarray of shape (n_events, n_groups)
            The multipliers, in accuracy per unit of rate; they sum to 0 over the groups of an event.
        """
        shift = 0.0 if rate_shift is None else rate_shift
        offset = self._basis.T @ np.where(self.included, self.first_rates + shift, 0.0).ravel()
        n_events, n_groups = self.included.shape
        half_bound = np.repeat(np.broadcast_to(bound, n_events), n_groups) / 2
        z = np.zeros(self._basis.shape[1])
        if start is not None:
            z = self._basis.T @ (start.ravel() / self._scale**2)
        max_steps = _MAX_STEPS if start is None else _MAX_WARM_STEPS
        for width in _SMOOTHING if start is None else _SMOOTHING[-1:]:
            z = self._newton(z, width, offset, half_bound, max_steps)
        return (self._basis @ z).reshape(self.included.shape)

    def _newton(self, z: Floats, width: float, offset: Floats, half_bound: Floats, max_steps: int) -> Floats:
        """Minimise the dual smoothed at one width, from z.

        Steps are damped as in the method of Levenberg and Marquardt. The curvature of the smoothed absolute
        value is that of the primal-dual method of Chan, Golub and Mulet, "A nonlinear primal-dual method
        for total variation-based image restoration" (1999): its slope is iterated as a variable of its
        own, so that kinks cost few steps (a third fewer with 50 groups).
        """
        features, loadings = self._numbers
        rounding = width * self._scale
        tolerance = _TOLERANCE * np.sqrt(np.mean(self._scale**2))

        def evaluate(z: Floats) -> tuple[float, Floats, Floats, Floats]:
            multipliers = self._basis @ z
            magnitude = np.hypot(multipliers, rounding)
            along = np.tensordot(loadings, z, (0, 0)).T
            decision, height = _softmax((self.base - features @ along) / width)
            value = width * (self.weight @ height) - z @ offset + half_bound @ (magnitude - rounding)
            return float(value), decision, multipliers, magnitude

        value, decision, multipliers, magnitude = evaluate(z)
        slope, damping = half_bound * multipliers / magnitude, 1e-3
        for _ in range(max_steps):
            moments = (self.weight[:, None] * decision).T @ features
            gradient = self._basis.T @ (half_bound * multipliers / magnitude) - offset
            gradient -= np.tensordot(loadings, moments, 2)
            if np.linalg.norm(gradient) <= tolerance:
                break
            bend = (half_bound - slope * multipliers / magnitude) / magnitude
            hessian = self._curvature(decision, width) + (self._basis.T * bend) @ self._basis
            diagonal = np.diag(np.diag(hessian) + 1e-6 * np.mean(np.diag(hessian)) + 1e-12)
            gain = 0.0
            while gain < 1e-4 and damping < 1e8:
                step = -cho_solve(cho_factor(hessian + damping * diagonal), gradient)
                trial = evaluate(z + step)
                gain = (value - trial[0]) / -(gradient @ step + step @ hessian @ step / 2)
                damping *= 8 if gain < 1e-4 else 2 if gain < 0.3 else 0.2 if gain > 0.7 else 1
            if gain < 1e-4:
                break  # at the limit of rounding
            damping = max(damping, 1e-7)
            moved = self._basis @ step
            slope = (half_bound * (multipliers + moved) - slope * multipliers * moved / magnitude) / magnitude
            slope = np.clip(slope, -half_bound, half_bound)
            z = z + step
            value, decision, multipliers, magnitude = trial
        return z

    def _curvature(self, decision: Floats, width: float) -> Floats:
        """Return the Hessian of the smoothed maximum: it directs the steps."""
        largest = np.maximum(decision.max(axis=1), 1 - decision.sum(axis=1))
        near = np.flatnonzero(largest < 1 - _CERTAIN)
        stride = -(-len(near) // _CURVATURE_ROWS) or 1
        near = near[::stride]
        features, loadings = self._numbers
        decision, features, weight = decision[near], features[near], stride * self.weight[near] / width
        hessian = np.zeros((self._basis.shape[1],) * 2)
        if decision.shape[1] <= _MAX_PAIRED:
            for one, other in zip(*np.triu_indices(decision.shape[1]), strict=True):
                covariance = -weight * decision[:, one] * decision[:, other]
                if one == other:
                    covariance += weight * decision[:, one]
                root = np.sqrt(np.abs(covariance))[:, None] * features
                part = loadings[:, one] @ (root.T @ root) @ loadings[:, other].T
                hessian += part if one == other else -(part + part.T)
            return hessian
        # By row and decision, what a unit of z adds to the margin: covariances of it under the shares.
        per_row = math.prod(loadings.shape[:2])
        # With many classes an event concerns few of them.
        by_row = sparse.csr_array(loadings.reshape(per_row, -1))
        for rows in np.array_split(np.arange(len(near)), -(-len(near) * per_row // _CURVATURE_SIZE) or 1):
            slopes = (by_row @ features[rows].T).T.reshape(len(rows), *loadings.shape[:2])
            weighted = weight[rows, None] * decision[rows]
            mean = np.einsum("nd,nzd->nz", decision[rows], slopes)
            spread = (np.sqrt(weighted)[:, None] * slopes).swapaxes(1, 2).reshape(-1, len(hessian))
            hessian += spread.T @ spread - (weight[rows, None] * mean).T @ mean
        return hessian


def _zero_sum_basis(included: NDArray[np.bool_], scale: Floats) -> Floats:
    """Return a basis of the tables with zero row sums on the included cells, in columns.

    The columns are orthonormal after division by the scale of the cells.
    """
    blocks = [np.zeros((included.size, 0))]
    for event, groups in enumerate(included):
        cells = event * included.shape[1] + np.flatnonzero(groups)
        if len(cells) > 1:
            block = np.zeros((included.size, len(cells) - 1))
            block[cells] = scale[cells, None] * null_space(scale[None, cells])
            blocks.append(block)
    return np.hstack(blocks)
