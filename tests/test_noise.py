import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skfairprune.noise import Noise, compare_groups, extremeness


def _noise(rates, errors, included=None):
    rates, errors = np.atleast_2d(rates), np.atleast_2d(errors)
    n_rows = 0.25 / np.maximum(errors, 1e-9) ** 2  # of one variance
    return Noise.of(rates, errors, n_rows, np.ones(rates.shape, bool) if included is None else included)


def test_of_two_groups_the_margin_is_the_standard_error_and_of_more_cells_more():
    two, four = _noise([0.2, 0.5], [0.03, 0.04]), _noise([[0.2, 0.5]] * 2, [[0.03, 0.04]] * 2)
    assert_allclose((two.gap[0], two.error[0], two.margin[0]), (0.3, 0.05, 0.05))
    assert_allclose(four.margin, 0.05 * np.sqrt(2))


@pytest.mark.parametrize(
    ("n_groups", "mean_range"),
    # The constant d2 of control charts (ASTM MNL 7, "Manual on Presentation of Data", table 16).
    [(2, 1.128), (3, 1.693), (4, 2.059), (5, 2.326), (10, 3.078), (25, 3.931)],
)
def test_the_extremes_of_groups_are_apart_as_the_ranges_of_normal_samples(n_groups, mean_range):
    assert_allclose(extremeness((n_groups,)), mean_range / 1.128, rtol=1e-3)


@pytest.mark.parametrize("n_groups", [(2, 2), (6, 6), (3, 5, 1), (50, 50), (0, 2)])
def test_of_several_events_the_widest_counts(n_groups):
    rng = np.random.default_rng(0)
    ranges = [np.ptp(rng.normal(size=(40_000, n)), axis=1) for n in n_groups if n > 1]
    assert_allclose(extremeness(n_groups), np.max(ranges, axis=0).mean() / np.sqrt(4 / np.pi), rtol=0.01)


def test_groups_that_do_not_count_are_no_extremes():
    assert extremeness((1,)) == extremeness(()) == 1.0


@pytest.mark.parametrize("n_groups", [2, 10, 50])
def test_rates_that_differ_by_chance_are_left_alone_in_most_draws(n_groups):
    rng = np.random.default_rng(1)
    left = [
        _noise(rng.normal(0.4, 0.02, n_groups), np.full(n_groups, 0.02)).least_bound == 0 for _ in range(200)
    ]
    assert np.mean(left) > 0.65


@pytest.mark.parametrize(
    ("gap", "floor"), [(0.01, 0.05), (0.05, 0.05), (0.051, 0.05**2 / 0.051), (0.5, 0.005)]
)
def test_what_is_left_of_a_gap_is_what_chance_may_have_given_it(gap, floor):
    assert_allclose(_noise([0.2, 0.2 + gap], [0.03, 0.04]).floor, floor)


def test_a_small_group_hides_no_gap_between_large_ones():
    large, small = 0.01, 0.13
    noise = _noise([0.3, 0.4, 0.25], [large, large, small])
    alone = _noise([0.3, 0.4], [large, large])
    assert_array_equal(noise.driven, [[True, True, False]])
    assert_array_equal(noise[1:], alone[1:])


def test_many_small_groups_hide_no_gap_either():
    rng = np.random.default_rng(0)
    rates = np.r_[0.3, 0.4, rng.normal(0.35, 0.13, 40)]
    noise = _noise(rates, [0.01, 0.01] + [0.13] * 40)
    assert_array_equal(np.flatnonzero(noise.driven), [0, 1])
    assert_allclose(noise.margin, 0.01 * np.sqrt(2))


def test_a_small_group_with_a_gap_that_is_clearly_its_own_stays():
    assert _noise([0.3, 0.4, 0.9], [0.01, 0.01, 0.13]).driven.all()  # three times its margin
    assert_array_equal(_noise([0.3, 0.4, 0.55], [0.01, 0.01, 0.13]).driven, [[True, True, False]])


def test_groups_as_little_known_are_all_in_or_out():
    """One of forty is beyond its margin by chance; the others are not, and none of them drives a rule."""
    rates = np.r_[0.3, 0.4, np.full(39, 0.35), 0.97]
    errors = np.r_[0.01, 0.01, np.full(40, 0.13)]
    pairs = compare_groups(rates, errors, np.array([42]))
    assert np.sum(pairs.gaps > pairs.margins) == 3  # it against the two large ones, and these
    assert_array_equal(np.flatnonzero(_noise(rates, errors).driven), [0, 1])


def test_a_group_that_is_not_known_in_one_event_takes_part_in_the_others():
    noise = _noise([[0.3, 0.4, 0.25], [0.3, 0.4, 0.35]], [[0.01, 0.01, 0.13], [0.01, 0.01, 0.01]])
    assert_array_equal(noise.driven, [[True, True, False], [True] * 3])
    assert_allclose(noise.gap, 0.1)
    widths = [extremeness((2, 2)), extremeness((2, 3))]
    assert_allclose(noise.margin, 0.01 * np.sqrt(2) * np.array(widths))


def test_events_without_a_group_in_common_both_count():
    noise = _noise(
        [[0.3, 0.4, 0.35, 0.3], [0.35, 0.3, 0.3, 0.4]], [[0.01] * 2 + [0.13] * 2, [0.13] * 2 + [0.01] * 2]
    )
    assert_array_equal(noise.driven, [[True, True, False, False], [False, False, True, True]])
    assert_allclose(noise.gap, 0.1)


def test_a_group_of_few_rows_is_known_no_better_for_a_rate_of_none():
    rates, n_rows = np.array([[0.1, 0.2, 0.0]]), np.array([[4000.0, 4000.0, 10.0]])
    errors = np.array([[0.005, 0.006, 0.023]])  # by its own variance the third is known
    noise = Noise.of(rates, errors, n_rows, np.ones((1, 3), bool))
    assert_array_equal(noise.driven, [[True, True, False]])


def test_groups_about_as_well_known_all_stay():
    noise = _noise([0.3, 0.34, 0.42, 0.37], [0.01, 0.02, 0.018, 0.015])
    assert noise.driven.all()
    assert_allclose(noise.margin, extremeness((4,)) * np.hypot(0.01, 0.018))


def test_where_no_pair_is_beyond_chance_the_gap_may_stay():
    noise = _noise([0.3, 0.31, 0.42], [0.02, 0.02, 0.2])
    assert_allclose(noise.floor, 0.12)
    assert noise.least_bound == 0
    assert not np.any(noise.gap > noise.target(0.0))


def test_what_is_not_there_has_no_noise():
    included = np.array([[True, True, False], [True, False, False], [True, True, True]])
    rates = np.array([[0.2, 0.3, 0.9], [0.2, 0.3, 0.9], [0.2, np.nan, np.nan]])
    noise = _noise(rates, np.full((3, 3), 0.01), included)
    assert_allclose(noise.gap, [0.1, 0, 0])
    assert_allclose(noise.floor[1:], 0)
    assert_allclose(noise.target(0.1)[1:], 0.1)


def test_targets_are_clear_of_the_bound_but_for_noise():
    noise = _noise([0.2, 0.6], [0.03, 0.04])  # margin .05, floor .05 ** 2 / .4
    assert_allclose(noise.clear(0.2), 0.15)
    assert_allclose(noise.clear(0.06), 0.03)
    assert_allclose(noise.target(0.06), 0.03)
    assert_allclose(noise.target(0.01), 0.00625)
    assert_allclose(noise.least_bound, 0.45)


@pytest.mark.parametrize(
    ("gap", "error", "bound", "short"),
    [
        (0.08, 0.035, 0.01, True),  # .015 is left to chance
        (0.08, 0.035, 0.02, False),
        (0.08, 0.035, 0.1, False),
        (0.03, 0.035, 0.02, True),  # all of it is left to chance
        (0.03, 0.035, 0.031, False),  # a gap that is within the bound
        (0.08, 0.01, 0.0, False),  # eight standard errors: nearly nothing is left to chance
    ],
)
def test_noise_stops_short_where_more_is_left_to_chance_than_the_bound(gap, error, bound, short):
    assert _noise([0.5, 0.5 + gap], [error, 0.0]).stops_short(bound) == short
