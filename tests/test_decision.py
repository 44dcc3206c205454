import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax

from skfairprune.decision import DecisionRule, condition_on_group


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 4), st.integers(1, 3), st.integers(0, 2**32 - 1), st.floats(0.01, 8))
def test_output_weights_are_the_rule(n_decisions, n_groups, seed, size):
    rng = np.random.default_rng(seed)
    coefficients = size * rng.normal(size=(n_decisions, n_groups, n_decisions))
    rule = DecisionRule(coefficients)
    weights = rule.output_weights()
    assert weights.shape == (n_decisions, n_decisions * n_groups)
    assert np.all((weights >= -1e-15) & (weights <= 1))
    assert_allclose(weights.sum(axis=0), 1, atol=1e-14)
    proba = softmax(rng.normal(size=(50, n_decisions * n_groups)) * 4, axis=1)
    shaped = proba.reshape(50, n_decisions, n_groups)
    scores = np.einsum("nkg,kgd->nd", shaped, coefficients)
    assert_allclose(rule.margins(shaped), scores[:, 1:] - scores[:, :1], atol=1e-11)
    two = np.sort(scores, axis=1)[:, -2:]
    sure = two[:, 1] - two[:, 0] > 1e-9
    assert_array_equal(rule.decide(shaped)[sure], scores.argmax(axis=1)[sure])
    assert_array_equal((proba @ weights.T).argmax(axis=1)[sure], scores.argmax(axis=1)[sure])


@pytest.mark.parametrize("size", [0.5, 3.0])
def test_output_weights_of_two_decisions(size):
    """With c what the second decision gains on the first, its probability is 1/2 + s / (2 max(1, |c|))."""
    gain = size * np.random.default_rng(0).uniform(-1, 1, (2, 3))
    rule = DecisionRule(np.stack([np.ones((2, 3)), 1 + gain], axis=2))
    positive = 1 / 2 + gain.ravel() / (2 * max(1, np.abs(gain).max()))
    assert_allclose(rule.output_weights(), [1 - positive, positive], atol=1e-15)


def test_equal_scores_give_the_first_decision():
    proba = np.full((1, 3, 1), 1 / 3)
    for worth, decision in [([1, 1, 1], 0), ([0, 1, 1], 1), ([0, 1, 2], 2), ([1, 0, 1], 0)]:
        assert DecisionRule(np.broadcast_to(np.array(worth, float), (3, 1, 3))).decide(proba) == [decision]


def test_unconstrained_rule_is_the_network():
    """Also where a label has several head classes, its strata."""
    proba = np.random.default_rng(0).dirichlet(np.ones(18), 200).reshape(200, 6, 3)
    rule = DecisionRule.unconstrained(np.array([0, 1, 2, 0, 1, 2]), 3, 3)
    by_label = proba.reshape(200, 2, 3, 3).sum(axis=(1, 3))
    assert_array_equal(rule.decide(proba), by_label.argmax(axis=1))
    assert_allclose(proba.reshape(200, 18) @ rule.output_weights().T, by_label, atol=1e-14)


def test_conditioned_scores_are_those_of_the_own_group():
    proba = np.random.default_rng(0).dirichlet(np.ones(6), 30).reshape(30, 2, 3)
    group = np.arange(30) % 3
    conditioned = condition_on_group(proba, group)
    for i, g in enumerate(group):
        assert_allclose(conditioned[i, :, g], proba[i, :, g] / proba[i, :, g].sum())
    assert_allclose(conditioned.sum(axis=(1, 2)), 1)
    assert np.count_nonzero(conditioned) == 60
