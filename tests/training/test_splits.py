import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skfairprune.training.splits import is_tiny, split_levels

codes = st.lists(st.integers(0, 5), min_size=30, max_size=150).map(np.array)
seeds = st.integers(0, 1000)


def _split(code, fraction=0.5, n_folds=3, seed=0, n_train=None):
    n_train = len(code) if n_train is None else n_train
    return split_levels(code, n_train, fraction, n_folds, np.random.RandomState(seed))


def _per_stratum(code, rows):
    return np.bincount(code[rows], minlength=6)


@settings(deadline=None, max_examples=60)
@given(codes, st.floats(0.1, 0.9), st.integers(2, 5), seeds)
def test_the_upper_part_is_stratified(code, fraction, n_folds, seed):
    split = _split(code, fraction, n_folds, seed)
    assert_array_equal(np.sort(np.concatenate([split.lower, split.upper])), np.arange(len(code)))
    assert split.disjoint
    expected = fraction * np.bincount(code, minlength=6)
    assert np.all(np.abs(_per_stratum(code, split.upper) - expected) <= 1 + 1e-9)
    assert abs(len(split.upper) - fraction * len(code)) <= 0.5 + 1e-9


@settings(deadline=None, max_examples=60)
@given(codes, st.floats(0.1, 0.9), st.integers(2, 5), seeds)
def test_the_folds_are_stratified_parts_of_the_upper_and_of_the_lower_rows(code, fraction, n_folds, seed):
    split = _split(code, fraction, n_folds, seed)
    assert split.n_folds == 2 * n_folds
    assert_array_equal(split.final, np.arange(len(code)))
    # rules are fitted on every row and judged on the upper ones
    assert_array_equal(np.sort(split.rule), np.arange(len(code)))
    assert_array_equal(split.rule[: len(split.upper)], split.upper)
    assert np.all(np.diff(split.fold[split.rule]) >= 0)
    assert_array_equal(split.rule_fold[len(split.upper) :], -1)
    # every blind fold of every stratum is dealt evenly to the folds of the rule
    cell = code[split.upper] * n_folds + split.fold[split.upper]
    judged = split.rule_fold[: len(split.upper)]
    dealt = np.array([np.bincount(judged[cell == c], minlength=n_folds) for c in np.unique(cell)])
    assert np.ptp(dealt, axis=1).max() <= 1
    assert judged.min() >= 0
    assert judged.max() < n_folds
    for first, part in ((0, split.upper), (n_folds, split.lower)):
        sizes = np.array([_per_stratum(code, split.fold == first + k) for k in range(n_folds)])
        assert np.ptp(sizes, axis=0).max() <= 1
        assert np.ptp(sizes.sum(axis=1)) <= 1
        assert_array_equal(sizes.sum(axis=0), _per_stratum(code, part))


@settings(deadline=None, max_examples=60)
@given(codes, st.integers(5, 25), st.integers(2, 5), seeds)
def test_held_out_rows_are_the_upper_part(code, n_train, n_folds, seed):
    split = _split(code, 0.5, n_folds, seed, n_train)
    train, held_out = np.arange(n_train), np.arange(n_train, len(code))
    assert_array_equal(split.lower, train)
    assert_array_equal(split.final, train)
    assert_array_equal(split.upper, held_out)
    assert split.disjoint
    # no copies: no network learns from the held-out rows, and all learn from the others
    assert split.n_folds == 0
    assert_array_equal(split.fold[held_out], -1)
    assert_array_equal(split.fold[train], 0)
    assert_array_equal(split.rule, held_out)
    assert split.rule_fold.shape == held_out.shape
    sizes = [_per_stratum(code[held_out], split.rule_fold == k) for k in range(n_folds)]
    assert np.ptp(sizes, axis=0).max() <= 1


def test_without_a_fraction_both_levels_read_all_rows():
    split = _split(np.arange(50) % 4, fraction=None)
    for rows in (split.lower, split.upper, split.final, split.rule):
        assert_array_equal(rows, np.arange(50))
    assert split.n_folds == 0
    assert not split.disjoint
    assert_array_equal(split.fold, 0)
    assert_array_equal(split.rule_fold, 0)


def test_the_seed_decides():
    code = np.random.default_rng(0).integers(0, 4, 200)
    one, same, other = (_split(code, seed=seed) for seed in (1, 1, 2))
    assert_array_equal(one.upper, same.upper)
    assert_array_equal(one.fold, same.fold)
    assert not np.array_equal(one.upper, other.upper)


def test_rows_of_a_stratum_have_equal_chances():
    """Over many seeds every row is in the upper part, and in each fold, equally often."""
    code = np.repeat([0, 1, 2], [20, 7, 3])
    folds = np.array([_split(code, 0.5, 3, seed).fold for seed in range(600)])
    upper = (folds < 3).mean(axis=0)
    assert np.all(np.abs(upper - 0.5) < 0.18)
    assert np.ptp(upper[:20]) < 0.12
    assert np.ptp((folds == 0).mean(axis=0)[:20]) < 0.12


@pytest.mark.parametrize(
    ("n_distinct", "times", "tiny"),
    [(200, 1, True), (201, 1, False), (200, 5, True), (201, 5, False), (1, 1000, True), (5, 1000, False)],
)
def test_tiny_data_have_few_distinct_rows_and_not_many_rows(n_distinct, times, tiny):
    X = np.column_stack([np.arange(n_distinct) // 10, np.arange(n_distinct) % 10])
    X = np.random.default_rng(0).permutation(np.repeat(X, times, axis=0))
    assert is_tiny(X) == tiny


def test_rows_are_distinct_in_any_column():
    X = np.zeros((201, 3))
    X[:, 2] = np.arange(201)
    assert not is_tiny(X)
    assert is_tiny(X[:, :2])
