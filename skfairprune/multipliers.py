"""The constraint's multipliers: the convex dual of the fair decision problem on given scores.

Given :math:`q_{y,g}(x) = P(y, group = g \\mid x)`, the group-blind decision of largest accuracy whose
rates differ by at most :math:`\\epsilon` between groups is a linear programme in :math:`h`. Its dual has
one multiplier per cell, which sum to 0 over the groups of an event:

.. math::

    \\min_\\lambda\\; E\\big[(s_\\lambda(x))_+\\big] - \\sum_{e,g} \\lambda_{e,g}\\, (a_{e,g} + d_{e,g})
    + \\tfrac{\\epsilon}{2} \\sum_{e,g} |\\lambda_{e,g}|, \\qquad
    s_\\lambda(x) = \\sum_{y,g} q_{y,g}(x)\\, \\big(u_y - V_{y,g}(\\lambda)\\big)

with :math:`u = (-1, 1)` the accuracy that a positive decision gains, :math:`V` the costs of
:meth:`Constraint.costs`, :math:`a` the rates of the all-negative decision, and :math:`d` a shift that
corrects the scores' own rates to the observed ones. The primal solution is
:math:`h = 1[s_\\lambda(x) > 0]`: the Bayes rule under the constraint (Menon and Williamson, "The cost of
fairness in binary classification", 2018; Xian et al., "Fair and optimal classification via
post-processing", 2023).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import helmert
from scipy.optimize import minimize
from scipy.special import expit

from skfairprune.constraints import Constraint, Floats

__all__ = ["ScoredRows", "smooth_decision", "solve_multipliers"]

# The hinge is smoothed at these widths in turn, each start being the last solution.
_SMOOTHING = (0.1, 0.02, 0.004)


@dataclass(frozen=True)
class ScoredRows:
    """Rows with the scores of a network that did not see them.

    Parameters
    ----------
    proba : ndarray of shape (n_samples, 2, n_groups)
        The scores :math:`q_{y,g}(x)`; they sum to 1 over the last two axes.
    y : ndarray of shape (n_samples,)
        Labels, 0 or 1.
    group : ndarray of shape (n_samples,)
        Group codes in [0, n_groups).
    weight : ndarray of shape (n_samples,)
        Non-negative weights.
    """

    proba: Floats
    y: NDArray[np.intp]
    group: NDArray[np.intp]
    weight: Floats

    def take(self, rows: NDArray) -> "ScoredRows":
        """Return the rows of that index or boolean mask."""
        return ScoredRows(self.proba[rows], self.y[rows], self.group[rows], self.weight[rows])

    @property
    def n_groups(self) -> int:
        """The number of groups."""
        return self.proba.shape[2]

    @property
    def share(self) -> Floats:
        """The share of the weight in each (label, group), of shape (2, n_groups)."""
        code = self.y * self.n_groups + self.group
        total = np.bincount(code, self.weight, minlength=2 * self.n_groups)
        return (total / total.sum()).reshape(2, self.n_groups)


def smooth_decision(margin: Floats) -> Floats:
    """Return the decisions, in [0, 1], whose rates the smoothed dual equates at its solution."""
    return expit(margin / _SMOOTHING[-1])


def solve_multipliers(
    rows: ScoredRows,
    constraint: Constraint,
    included: NDArray[np.bool_],
    bound: Floats | float,
    gain: Floats,
    rate_shift: Floats | None = None,
    start: Floats | None = None,
) -> Floats:
    """Solve the dual for the multipliers.

    The hinge and the absolute value are smoothed, at a width that falls in steps, and each smooth
    problem is solved by Newton's method in a trust region until rates agree to 1e-4.

    Parameters
    ----------
    rows : ScoredRows
        The scores; of the labels and groups only the shares are used.
    constraint : Constraint
        The constraint.
    included : ndarray of shape (n_events, n_groups) of bool
        The cells under the constraint; the others get the multiplier 0.
    bound : float or ndarray of shape (n_events,)
        The largest difference allowed between two groups' rates, in [0, 1], one for all events or each.
    gain : ndarray of shape (2,)
        What a positive decision gains on a row of label 0 and 1: (-1, 1) for accuracy.
    rate_shift : ndarray of shape (n_events, n_groups), default=None
        Added to the rates that the scores imply; None adds 0.
    start : ndarray of shape (n_events, n_groups), default=None
        Multipliers near the solution; None starts from 0.

    Returns
    -------
    ndarray of shape (n_events, n_groups)
        The multipliers, in accuracy per unit of rate; they sum to 0 over the groups of an event.
    """
    scores = rows.proba.reshape(len(rows.proba), -1)
    weight = rows.weight / rows.weight.sum()
    share = rows.share
    cell_weights = constraint.cell_sums(share)
    fixed_rates = constraint.rates(share, np.zeros_like(share))
    offset = np.where(included, fixed_rates if rate_shift is None else fixed_rates + rate_shift, 0.0)
    # Columns span the multipliers that sum to 0 over the included groups of each event.
    basis = _zero_sum_basis(included)
    # Row k: the costs of a unit multiplier on cell k.
    units = np.eye(included.size).reshape(-1, *included.shape)
    unit_costs = np.stack([constraint.costs(unit, cell_weights).ravel() for unit in units])
    unit_costs = basis.T @ unit_costs
    half_bound = np.repeat(np.broadcast_to(bound, len(included)), rows.n_groups) / 2
    base = scores @ np.repeat(gain, rows.n_groups)
    offset, scale = basis.T @ offset.ravel(), np.where(included, cell_weights, 1.0).ravel()

    def margins(z: Floats) -> Floats:
        return base - scores @ (z @ unit_costs)

    def dual(z: Floats, width: float) -> tuple[float, Floats]:
        margin, multipliers, rounding = margins(z) / width, basis @ z, width * scale
        magnitude = np.hypot(multipliers, rounding)
        value = width * (weight @ np.logaddexp(0.0, margin)) - z @ offset
        rates = unit_costs @ ((weight * expit(margin)) @ scores)
        slope = basis.T @ (half_bound * multipliers / magnitude)
        return float(value + half_bound @ (magnitude - rounding)), slope - rates - offset

    def curvature(z: Floats, width: float) -> Floats:
        soft, multipliers, rounding = expit(margins(z) / width), basis @ z, width * scale
        moments = scores.T @ ((weight * soft * (1 - soft) / width)[:, None] * scores)
        bend = half_bound * rounding**2 / np.hypot(multipliers, rounding) ** 3
        return unit_costs @ moments @ unit_costs.T + (basis.T * bend) @ basis

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
