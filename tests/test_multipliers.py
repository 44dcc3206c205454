from functools import cache

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import check_grad, linprog
from scipy.special import softmax

from skfairprune.constraints import get_constraint
from skfairprune.multipliers import DualProblem
from skfairprune.scored import ScoredRows

every_constraint = pytest.mark.parametrize(
    "name",
    [
        "demographic_parity",
        "equalized_odds",
        "true_positive_rate_parity",
        "false_positive_rate_parity",
        "error_rate_parity",
    ],
)
every_multi_class = pytest.mark.parametrize(
    "name", ["demographic_parity", "equalized_odds", "error_rate_parity"]
)


def _terms(name, n_classes):
    """Write the constraints by hand: the labels and the utility (label, decision) of each event."""
    labels, decisions = np.ogrid[:n_classes, :n_classes]
    some = [1] if n_classes == 2 else range(n_classes)
    everything = np.ones(n_classes, bool)
    if name == "demographic_parity":
        return [(everything, (decisions == c) + 0 * labels) for c in some]
    if name == "equalized_odds":
        return [
            (members, (decisions == c) + 0 * labels)
            for c in some
            for members in (np.arange(n_classes) != c, np.arange(n_classes) == c)
        ]
    if name == "error_rate_parity":
        return [(everything, (labels != decisions).astype(int))]
    label = 1 if name == "true_positive_rate_parity" else 0
    return [(np.arange(2) == label, (decisions == 1) + 0 * labels)]


@cache
def _rows(n_groups, seed=1, n_samples=1500, n_classes=2):
    rng = np.random.default_rng(seed)
    n_joint = n_classes * n_groups
    logits = rng.normal(size=(n_samples, 3)) @ rng.normal(size=(3, n_joint)) * 1.2
    proba = softmax(logits, axis=1)
    code = (rng.uniform(size=(n_samples, 1)) > proba.cumsum(axis=1)).sum(axis=1)
    weight = rng.uniform(0.2, 2, n_samples)
    return ScoredRows(proba.reshape(-1, n_classes, n_groups), code // n_groups, code % n_groups, weight)


class _Programme:
    """The linear programme: maximise gain . h so that slope . h + fixed differ by at most the bound.

    h are the probabilities of the decisions from 1 on, gain and slope what they add to decision 0.
    """

    def __init__(self, rows, name, bound, *, included=None, shift=0.0, gain=None):
        weight = rows.weight / rows.weight.sum()
        _, n_classes, n_groups = rows.proba.shape
        gain = np.eye(n_classes) if gain is None else gain
        slope, fixed = [], []
        for members, utility in _terms(name, n_classes):
            change = members[:, None] * (utility - utility[:, :1])[:, 1:]
            for g in range(n_groups):
                mass = np.bincount(rows.kind, weight * (rows.group == g), n_classes)
                size = mass @ members
                # A rate is a mean over the scores of its cell.
                scores = weight @ (rows.proba[:, :, g] @ members)
                slope.append(weight * (rows.proba[:, :, g] @ change).T / scores)
                fixed.append(mass @ (members * utility[:, 0]) / size)
        self.slope = np.reshape(slope, (-1, n_groups, n_classes - 1, len(weight)))
        self.fixed = np.reshape(fixed, (-1, n_groups)) + shift
        self.gain = weight * (rows.proba.sum(axis=2) @ (gain - gain[:, :1])[:, 1:]).T
        self.included = np.ones(self.fixed.shape, bool) if included is None else included
        self.bound = np.broadcast_to(bound, len(self.fixed))

    def optimum(self):
        n_events, _, n_margins, n_samples = self.slope.shape
        left, right = [], []
        for e, g in np.argwhere(self.included):
            middle = -np.eye(n_events)[e]
            for sign in (1, -1):
                left.append(sign * np.append(self.slope[e, g], middle))
                right.append(self.bound[e] / 2 - sign * self.fixed[e, g])
        if n_margins > 1:
            one = np.tile(np.eye(n_samples), n_margins)
            left = np.vstack([left, np.hstack([one, np.zeros((n_samples, n_events))])])
            right = np.append(right, np.ones(n_samples))
        solution = linprog(
            np.append(-self.gain, np.zeros(n_events)),
            A_ub=np.array(left),
            b_ub=right,
            bounds=[(0, 1)] * (n_margins * n_samples) + [(None, None)] * n_events,
        )
        assert solution.status == 0
        return -solution.fun

    def scores(self, multipliers):
        return self.gain - np.einsum("eg,egdn->dn", multipliers, self.slope)

    def dual(self, multipliers):
        """Return the dual's value without any smoothing: an upper bound of the optimum."""
        value = np.maximum(self.scores(multipliers).max(axis=0), 0).sum() - np.sum(multipliers * self.fixed)
        return value + self.bound / 2 @ np.abs(multipliers).sum(axis=1)

    def decide(self, multipliers):
        """Return the accuracy's part and the gaps of the decision by the largest score."""
        scores = self.scores(multipliers)
        decision = (scores > 0) & (scores == scores.max(axis=0))
        rates = np.where(self.included, np.einsum("egdn,dn->eg", self.slope, decision) + self.fixed, np.nan)
        return np.sum(self.gain * decision), np.nanmax(rates, axis=1) - np.nanmin(rates, axis=1)

    def check(self, multipliers):
        assert multipliers.shape == self.included.shape
        assert_allclose(multipliers.sum(axis=1), 0, atol=1e-12)
        assert_array_equal(multipliers[~self.included], 0)
        optimum = self.optimum()
        assert optimum - 1e-9 <= self.dual(multipliers) <= optimum + 3e-4
        value, gaps = self.decide(multipliers)
        # single rows on the threshold: the programme may split them, the rule cannot
        assert abs(value - optimum) < 3e-3
        assert np.all(gaps <= self.bound + 0.01)


def _problem(rows, name, included=None, gain=None):
    constraint = get_constraint(name, rows.proba.shape[1])
    if included is None:
        included = np.ones((constraint.n_events, rows.n_groups), bool)
    return DualProblem(rows, constraint, included, np.eye(rows.proba.shape[1]) if gain is None else gain)


def _solve(rows, name, bound, *, included=None, shift=None, gain=None, start=None):
    return _problem(rows, name, included, gain).solve(bound, shift, start)


@pytest.mark.parametrize("bound", [0.0, 0.02, 0.1, 0.3])
@pytest.mark.parametrize("n_groups", [2, 3])
@every_constraint
def test_solution_is_the_linear_programmes(name, n_groups, bound):
    rows = _rows(n_groups)
    _Programme(rows, name, bound).check(_solve(rows, name, bound))


@pytest.mark.parametrize("bound", [0.0, 0.03, 0.1])
@pytest.mark.parametrize("n_groups", [2, 3])
@every_multi_class
def test_solution_with_three_classes(name, n_groups, bound):
    rows = _rows(n_groups, n_samples=400, n_classes=3)
    multipliers = _solve(rows, name, bound)
    programme = _Programme(rows, name, bound)
    optimum = programme.optimum()
    assert optimum - 1e-9 <= programme.dual(multipliers) <= optimum + 2e-3
    value, gaps = programme.decide(multipliers)
    assert abs(value - optimum) < 0.01  # of 400 rows, a few lie on the threshold
    assert np.all(gaps <= bound + 0.03)


@pytest.mark.parametrize("name", ["demographic_parity", "equalized_odds"])
@pytest.mark.parametrize("seed", range(3))
def test_random_scores(seed, name):
    rng = np.random.default_rng(seed)
    rows = _rows(4, seed=10 + seed, n_samples=2500)
    bound = rng.uniform(0, 0.2)
    _Programme(rows, name, bound).check(_solve(rows, name, bound))


def test_events_with_their_own_bounds():
    rows, bound = _rows(3), np.array([0.2, 0.01])
    multipliers = _solve(rows, "equalized_odds", bound)
    _Programme(rows, "equalized_odds", bound).check(multipliers)
    assert np.abs(multipliers[1]).max() > 10 * np.abs(multipliers[0]).max()


@pytest.mark.parametrize(
    ("name", "included"),
    [
        ("demographic_parity", [[True, False, True]]),
        ("equalized_odds", [[True, True, True], [False, True, True]]),
        ("equalized_odds", [[True, False, False], [True, True, True]]),
        ("error_rate_parity", [[False, True, True]]),
    ],
)
def test_left_out_cells_are_free(name, included):
    rows, included = _rows(3), np.array(included)
    _Programme(rows, name, 0.02, included=included).check(_solve(rows, name, 0.02, included=included))


@every_constraint
def test_rate_shift_moves_the_rates(name):
    rows, n_events = _rows(3), get_constraint(name).n_events
    shift = np.random.default_rng(0).uniform(-0.04, 0.04, (n_events, 3))
    multipliers = _solve(rows, name, 0.03, shift=shift)
    _Programme(rows, name, 0.03, shift=shift).check(multipliers)
    assert np.abs(multipliers - _solve(rows, name, 0.03)).max() > 1e-3


@every_constraint
def test_the_same_shift_for_all_groups_changes_nothing(name):
    rows, n_events = _rows(3), get_constraint(name).n_events
    shift = np.repeat(np.linspace(0.1, 0.2, n_events)[:, None], 3, axis=1)
    assert_allclose(_solve(rows, name, 0.03, shift=shift), _solve(rows, name, 0.03), atol=1e-6)


@pytest.mark.parametrize("gain", [(0.6, 1.4), (1.5, 0.5)])
def test_class_weights_enter_the_gain(gain):
    rows, gain = _rows(2), np.diag(gain)
    multipliers = _solve(rows, "demographic_parity", 0.02, gain=gain)
    _Programme(rows, "demographic_parity", 0.02, gain=gain).check(multipliers)


@pytest.mark.parametrize("noise", [0.0, 0.02])
@every_constraint
def test_warm_start_gives_the_same_solution(name, noise):
    rows = _rows(3)
    cold = _solve(rows, name, 0.05)
    start = cold + noise * np.random.default_rng(0).normal(size=cold.shape)
    warm = _solve(rows, name, 0.05, start=start)
    programme = _Programme(rows, name, 0.05)
    programme.check(warm)
    assert_allclose(programme.dual(warm), programme.dual(cold), atol=1e-5)
    assert_allclose(warm, cold, atol=2e-3)


@every_constraint
def test_weights_count_like_repeated_rows(name):
    rows = _rows(2)
    times = np.random.default_rng(0).integers(1, 4, len(rows.kind))
    weighted = ScoredRows(rows.proba, rows.kind, rows.group, times.astype(float))
    position = np.repeat(np.arange(len(times)), times)
    repeated = ScoredRows(rows.proba, rows.kind, rows.group, np.ones(len(times))).take(position)
    assert_allclose(_solve(weighted, name, 0.03), _solve(repeated, name, 0.03), atol=1e-6)


@every_constraint
def test_permuting_groups_permutes_multipliers(name):
    rows, order = _rows(3), np.array([2, 0, 1])
    permuted = ScoredRows(rows.proba[:, :, order], rows.kind, np.argsort(order)[rows.group], rows.weight)
    assert_allclose(_solve(permuted, name, 0.03), _solve(rows, name, 0.03)[:, order], atol=1e-3)


def test_multipliers_price_the_bound():
    """The optimum's derivative by the bound is half the sum of the multipliers' magnitudes."""
    rows, step = _rows(3), 0.005
    optima = [_Programme(rows, "demographic_parity", 0.05 + s).optimum() for s in (-step, step)]
    price = np.abs(_solve(rows, "demographic_parity", 0.05)).sum() / 2
    assert_allclose(price, (optima[1] - optima[0]) / (2 * step), rtol=0.03)


@every_constraint
def test_smooth_rates_are_at_the_bound_to_rounding(name):
    """Unlike thresholded ones, which jump from row to row: here exactly, where a multiplier is active."""
    problem, bound = _problem(_rows(2), name), 0.02
    multipliers = problem.solve(bound)
    gaps = np.ptp(problem.rates(problem.margins(multipliers)), axis=1)
    active = np.abs(multipliers[:, 0]) > 0.05
    assert active.any()
    assert_allclose(gaps[active], bound, atol=1e-3)
    assert np.all(gaps <= bound + 1e-3)


@pytest.mark.parametrize("n_classes", [2, 3])
@every_multi_class
def test_margins_and_rates_are_the_programmes(name, n_classes):
    rows = _rows(3, n_classes=n_classes)
    problem, programme = _problem(rows, name), _Programme(rows, name, 0.05)
    multipliers = np.random.default_rng(0).normal(size=problem.included.shape) * 0.05
    margins, weight = problem.margins(multipliers), rows.weight / rows.weight.sum()
    assert_allclose(margins.T * weight, programme.scores(multipliers), atol=1e-12)
    coefficients = problem.coefficients(multipliers)
    scores = np.einsum("nkg,kgd->nd", rows.proba, coefficients)
    assert_allclose(scores[:, 1:] - scores[:, :1], margins, atol=1e-12)
    soft = softmax(np.column_stack([np.zeros(len(margins)), margins]) / 0.004, axis=1)[:, 1:]
    expected = np.einsum("egdn,nd->eg", programme.slope, soft) + programme.fixed
    assert_allclose(problem.rates(margins), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "n_classes"),
    [
        *((name, n) for name in ("demographic_parity", "equalized_odds") for n in (2, 3)),
        ("true_positive_rate_parity", 2),
    ],
)
def test_the_rates_of_one_decision_for_all_rows_are_the_observed_ones(name, n_classes):
    """Scores of any calibration imply them exactly: 0 and 1."""
    rows = _rows(3, n_classes=n_classes)
    skewed = rows.proba * np.array([1.0, 0.3, 4.0])
    skewed /= skewed.sum(axis=(1, 2), keepdims=True)
    problem = _problem(ScoredRows(skewed, rows.kind, rows.group, rows.weight), name)
    for decision in range(n_classes):
        margins = np.full((len(skewed), n_classes - 1), -1e3)
        if decision:
            margins[:, decision - 1] = 1e3
        shares = np.eye(n_classes)[np.full(len(skewed), decision)]
        observed = rows.counts(problem.constraint, shares).rates(problem.constraint)
        assert_allclose(problem.rates(margins), observed, atol=1e-12)


@pytest.mark.parametrize("n_classes", [2, 4, 6])
def test_curvature_is_the_derivative_of_the_rates(n_classes):
    rows = _rows(3, n_classes=n_classes, n_samples=300)
    problem, width, rng = _problem(rows, "equalized_odds"), 0.5, np.random.default_rng(0)
    n = problem._basis.shape[1]
    point = 0.3 * rng.normal(size=n)

    def soft(z):
        margins = problem.margins((problem._basis @ z).reshape(problem.included.shape)) / width
        return softmax(np.column_stack([np.zeros(len(margins)), margins]), axis=1)[:, 1:]

    def gradient(z, row):
        moments = (problem.weight[:, None] * soft(z)).T @ problem.scores
        return -np.tensordot(problem._loadings, moments, 2)[row]

    hessian = problem._curvature(soft(point), width)
    assert_allclose(hessian, hessian.T, atol=1e-14)
    for row in range(n):
        error = check_grad(lambda z, r=row: gradient(z, r), lambda _, r=row: hessian[r], point)
        assert error < 1e-5


def test_unequal_groups_and_fifty_of_them_are_solved_in_few_steps():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 8)) @ rng.normal(size=(8, 100)) + np.tile(rng.uniform(-1, 1, 50), 2)
    proba = softmax(logits, axis=1)
    code = (rng.uniform(size=(4000, 1)) > proba.cumsum(axis=1)).sum(axis=1)
    rows = ScoredRows(proba.reshape(-1, 2, 50), code // 50, code % 50, np.ones(4000))
    problem, steps = _problem(rows, "demographic_parity"), []
    curvature = problem._curvature
    problem._curvature = lambda *arguments: steps.append(1) or curvature(*arguments)
    multipliers = problem.solve(0.02)
    rates = problem.rates(problem.margins(multipliers))[problem.included]
    assert np.ptp(rates) < 0.021
    assert len(steps) < 60


def test_nothing_to_compare_gives_no_multipliers():
    included = np.array([[True, False, False]])
    assert_array_equal(_solve(_rows(3), "demographic_parity", 0.0, included=included), 0)


def test_no_multipliers_within_a_wide_bound():
    assert_allclose(_solve(_rows(2), "demographic_parity", 1.0), 0, atol=3e-3)


def test_the_stake_of_a_row_is_what_its_decision_is_worth_under_the_label_where_that_is_most():
    rows = _rows(3)
    problem = _problem(rows, "equalized_odds")
    assert_allclose(problem.stakes(np.zeros((2, 3))), 1)
    multipliers = np.random.default_rng(0).normal(size=(2, 3)) * 0.05
    paid = multipliers / np.average(rows.proba, axis=0, weights=rows.weight)
    # a positive decision loses 1 on a negative, gains 1 on a positive, and costs the price of its event
    worth = np.array([[-1.0], [1.0]]) - paid
    within = rows.proba / rows.proba.sum(axis=2, keepdims=True)
    assert_allclose(problem.stakes(multipliers), np.abs((within * worth).sum(axis=2)).max(axis=1))


def test_the_stake_counts_all_strata_of_a_label():
    """A label's worth is a mean over what the row may otherwise be: its group, and its stratum."""
    proba = np.full((1, 4, 2), 1 / 8)
    rows = ScoredRows(np.repeat(proba, 8, axis=0), np.repeat(np.arange(4), 2), np.arange(8) % 2, np.ones(8))
    constraint = get_constraint("demographic_parity").stratified(["a", "b"])
    problem = DualProblem(rows, constraint, np.ones((2, 2), bool), np.eye(2)[[0, 1, 0, 1]])
    # Prices of opposite sign in the strata cancel on rows that may be of either.
    assert_allclose(problem.stakes(np.array([[0.1, -0.1], [-0.1, 0.1]])), 1)
    one = problem.stakes(np.array([[0.1, 0.1], [0.1, 0.1]]))
    assert_allclose(one, 1 + 0.1 / 0.25)
