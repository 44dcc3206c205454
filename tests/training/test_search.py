import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skfairprune.training.search import find_smallest, geometric_budgets


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(-1, 60))
def test_the_smallest_size_within_is_found_in_a_few_trials(n_sizes, last):
    tried = []

    def within(number):
        tried.append(number)
        return number <= last

    expected = min(last, n_sizes - 1)
    assert find_smallest(n_sizes, within) == (expected if expected >= 0 else None)
    assert len(tried) == len(set(tried)) <= np.ceil(np.log2(n_sizes + 1))


@pytest.mark.parametrize(("dense", "least"), [(122_000, 130), (500, 499), (500, 40), (32, 2), (2, 1), (5, 2)])
def test_budgets_fall_by_equal_ratios_to_the_least(dense, least):
    budgets = geometric_budgets(dense, least)
    assert budgets[-1] == least
    assert all(type(b) is int for b in budgets)
    assert np.all(np.diff([dense, *budgets]) < 0)
    expected = dense * 0.7 ** np.arange(1, len(budgets))
    assert_allclose(budgets[:-1], np.floor(expected), atol=1)
    assert least >= 0.7 * expected[-1] - 1 if len(expected) else least >= 0.7 * dense - 1
