from functools import cache

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linprog
from scipy.special import softmax

from skfairprune.constraints import CONSTRAINTS
from skfairprune.multipliers import ScoredRows, smooth_decision, solve_multipliers

ACCURACY = np.array([-1.0, 1.0])
# The utilities once more, by hand: for each event, what a positive decision adds by label.
SLOPES = {
    "demographic_parity": [(1, 1)],
    "equalized_odds": [(1, 0), (0, 1)],
    "true_positive_rate_parity": [(0, 1)],
    "false_positive_rate_parity": [(1, 0)],
    "error_rate_parity": [(1, -1)],
}
every_constraint = pytest.mark.parametrize("name", CONSTRAINTS)


@cache
def _rows(n_groups, seed=1, n_samples=1500):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n_samples, 3)) @ rng.normal(size=(3, 2 * n_groups)) * 1.2
    proba = softmax(logits, axis=1)
    code = (rng.uniform(size=(n_samples, 1)) > proba.cumsum(axis=1)).sum(axis=1)
    return ScoredRows(
        proba.reshape(-1, 2, n_groups), code // n_groups, code % n_groups, rng.uniform(0.2, 2, n_samples)
    )


class _Programme:
    """The linear programme: maximise gain @ h so that slope @ h + fixed differ by at most the bound."""

    def __init__(self, rows, name, bound, *, included=None, shift=0.0, gain=ACCURACY):
        weight = rows.weight / rows.weight.sum()
        n_groups = rows.proba.shape[2]
        slope, fixed = [], []
        for by_label in SLOPES[name]:
            for g in range(n_groups):
                rows_of = [(rows.y == y) & (rows.group == g) for y in (0, 1)]
                size = sum(weight[rows_of[y]].sum() for y in (0, 1) if by_label[y])
                slope.append(weight * (rows.proba[:, :, g] @ by_label) / size)
                fixed.append(weight[rows_of[1]].sum() / size if name == "error_rate_parity" else 0.0)
        self.slope = np.reshape(slope, (-1, n_groups, len(weight)))
        self.fixed = np.reshape(fixed, (-1, n_groups)) + shift
        self.gain = weight * (rows.proba.sum(axis=2) @ gain)
        self.included = np.ones(self.fixed.shape, bool) if included is None else included
        self.bound = np.broadcast_to(bound, len(self.fixed))

    def optimum(self):
        n_events, _, n_samples = self.slope.shape
        left, right = [], []
        for e, g in np.argwhere(self.included):
            middle = -np.eye(n_events)[e]
            for sign in (1, -1):
                left.append(sign * np.append(self.slope[e, g], middle))
                right.append(self.bound[e] / 2 - sign * self.fixed[e, g])
        solution = linprog(
            np.append(-self.gain, np.zeros(n_events)),
            A_ub=np.array(left),
            b_ub=right,
            bounds=[(0, 1)] * n_samples + [(None, None)] * n_events,
        )
        assert solution.status == 0
        return -solution.fun

    def scores(self, multipliers):
        return self.gain - np.einsum("eg,egn->n", multipliers, self.slope)

    def dual(self, multipliers):
        """Return the dual's value without any smoothing: an upper bound of the optimum."""
        value = np.maximum(self.scores(multipliers), 0).sum() - np.sum(multipliers * self.fixed)
        return value + self.bound / 2 @ np.abs(multipliers).sum(axis=1)

    def decide(self, multipliers):
        """Return the accuracy's part and the gaps of the decision by the sign of the score."""
        decision = self.scores(multipliers) > 0
        rates = np.where(self.included, self.slope @ decision + self.fixed, np.nan)
        return self.gain @ decision, np.nanmax(rates, axis=1) - np.nanmin(rates, axis=1)

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


def _solve(rows, name, bound, *, included=None, shift=None, gain=ACCURACY, start=None):
    constraint = CONSTRAINTS[name]
    if included is None:
        included = np.ones((constraint.n_events, rows.n_groups), bool)
    return solve_multipliers(rows, constraint, included, bound, gain, shift, start)


@pytest.mark.parametrize("bound", [0.0, 0.02, 0.1, 0.3])
@pytest.mark.parametrize("n_groups", [2, 3])
@every_constraint
def test_solution_is_the_linear_programmes(name, n_groups, bound):
    rows = _rows(n_groups)
    _Programme(rows, name, bound).check(_solve(rows, name, bound))


@pytest.mark.parametrize("seed", range(3))
def test_random_scores(seed):
    rng = np.random.default_rng(seed)
    rows = _rows(4, seed=10 + seed, n_samples=800)
    name, bound = rng.choice(list(CONSTRAINTS)), rng.uniform(0, 0.2)
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
    rows, n_events = _rows(3), CONSTRAINTS[name].n_events
    shift = np.random.default_rng(0).uniform(-0.04, 0.04, (n_events, 3))
    multipliers = _solve(rows, name, 0.03, shift=shift)
    _Programme(rows, name, 0.03, shift=shift).check(multipliers)
    assert np.abs(multipliers - _solve(rows, name, 0.03)).max() > 1e-3


@every_constraint
def test_the_same_shift_for_all_groups_changes_nothing(name):
    rows, n_events = _rows(3), CONSTRAINTS[name].n_events
    shift = np.repeat(np.linspace(0.1, 0.2, n_events)[:, None], 3, axis=1)
    assert_allclose(_solve(rows, name, 0.03, shift=shift), _solve(rows, name, 0.03), atol=1e-6)


@pytest.mark.parametrize("gain", [(-0.6, 1.4), (-1.5, 0.5)])
def test_class_weights_enter_the_gain(gain):
    rows, gain = _rows(2), np.array(gain)
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
    times = np.random.default_rng(0).integers(1, 4, len(rows.y))
    weighted = ScoredRows(rows.proba, rows.y, rows.group, times.astype(float))
    position = np.repeat(np.arange(len(times)), times)
    repeated = ScoredRows(rows.proba, rows.y, rows.group, np.ones(len(times))).take(position)
    assert_allclose(_solve(weighted, name, 0.03), _solve(repeated, name, 0.03), atol=1e-6)


@every_constraint
def test_permuting_groups_permutes_multipliers(name):
    rows, order = _rows(3), np.array([2, 0, 1])
    permuted = ScoredRows(rows.proba[:, :, order], rows.y, np.argsort(order)[rows.group], rows.weight)
    assert_allclose(_solve(permuted, name, 0.03), _solve(rows, name, 0.03)[:, order], atol=1e-3)


def test_multipliers_price_the_bound():
    """The optimum's derivative by the bound is half the sum of the multipliers' magnitudes."""
    rows, step = _rows(3), 0.01
    optima = [_Programme(rows, "demographic_parity", 0.05 + s).optimum() for s in (-step, step)]
    price = np.abs(_solve(rows, "demographic_parity", 0.05)).sum() / 2
    assert_allclose(price, (optima[1] - optima[0]) / (2 * step), rtol=0.03)


@every_constraint
def test_smooth_decisions_are_at_the_bound_to_rounding(name):
    """Unlike thresholded ones, which jump from row to row: here exactly, where a multiplier is active."""
    rows, bound = _rows(2), 0.02
    multipliers = _solve(rows, name, bound)
    programme = _Programme(rows, name, bound)
    margin = programme.scores(multipliers) / (rows.weight / rows.weight.sum())
    gaps = np.ptp(programme.slope @ smooth_decision(margin) + programme.fixed, axis=1)
    active = np.abs(multipliers[:, 0]) > 0.05
    assert active.any()
    assert_allclose(gaps[active], bound, atol=1e-3)
    assert np.all(gaps <= bound + 1e-3)


def test_no_multipliers_within_a_wide_bound():
    assert_allclose(_solve(_rows(2), "demographic_parity", 1.0), 0, atol=3e-3)


def test_scored_rows_shares_and_subsets():
    rows = ScoredRows(
        np.full((4, 2, 2), 0.25), np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), np.array([1.0, 2, 3, 4])
    )
    assert_allclose(rows.share, [[0.1, 0.2], [0, 0.7]])
    assert_allclose(rows.take(np.array([False, True, True, False])).share, [[0, 0.4], [0, 0.6]])
    assert rows.take(np.array([3, 0])).weight.tolist() == [4, 1]
