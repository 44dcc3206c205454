import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skfairprune.constraints import get_constraint
from skfairprune.datasets import make_biased_classification
from skfairprune.frontier import RuleFrontier, fit_frontier
from skfairprune.multipliers import ScoredRows
from skfairprune.rulefit import RuleProblem, fit_rule

EQUAL = np.ones(2)


def _rows(n_samples=6000, seed=0):
    data = make_biased_classification(n_samples, base_rates=(0.6, 0.2), random_state=seed)
    group = np.unique(data.sensitive_features, return_inverse=True)[1].astype(np.intp)
    proba = data.distribution.joint_proba(data.X)
    return ScoredRows(proba, data.y.astype(np.intp), group, np.ones(n_samples))


def _frontier(rows, name="demographic_parity", bound=0.05):
    constraint = get_constraint(name)
    included = np.ones((constraint.n_events, 2), bool)
    return fit_frontier(rows, np.arange(len(rows.kind)) % 2, constraint, included, bound, EQUAL)


@pytest.mark.parametrize("name", ["demographic_parity", "equalized_odds", "error_rate_parity"])
def test_gaps_on_the_rows_keep_to_their_bounds_and_accuracy_grows(name):
    rows = _rows()
    frontier = _frontier(rows, name)
    gaps = np.array([max(gap.value for gap in fit.event_gaps) for fit in frontier.fits])
    accuracies = np.array([fit.accuracy for fit in frontier.fits])
    assert np.all(np.diff(frontier.bounds) > 0)
    assert frontier.bounds[0] == 0
    assert 0.05 in frontier.bounds
    # below a few rows no gap can be told from 0
    assert np.all(gaps <= np.maximum(frontier.bounds, 0.01))
    # more is allowed, more is reached, but for the noise of single rows
    assert np.all(np.diff(accuracies) > -0.004)
    assert accuracies[-1] - accuracies[0] > (0.002 if name == "error_rate_parity" else 0.008)
    assert len(frontier.fits) == len(frontier.gaps) == len(frontier.accuracies) == len(frontier.bounds) <= 20


def test_the_last_rule_is_the_unconstrained_one():
    frontier = _frontier(_rows())
    assert not frontier.fits[-1].multipliers.any()
    assert np.all([fit.multipliers.any() for fit in frontier.fits[:-1]])


def test_the_rule_of_a_bound_is_about_that_of_a_single_fit():
    rows, constraint = _rows(), get_constraint("demographic_parity")
    frontier = _frontier(rows)
    found = frontier.fits[frontier.position(0.05)]
    single = fit_rule(rows, constraint, np.ones((1, 2), bool), 0.05, EQUAL)
    assert_allclose(found.multipliers, single.multipliers, atol=0.01)
    assert_allclose(found.accuracy, single.accuracy, atol=0.002)


def test_held_out_figures_are_those_of_unseen_rows():
    rows, fresh, constraint = _rows(), _rows(60_000, 1), get_constraint("demographic_parity")
    frontier = _frontier(rows)
    for fit, gap, accuracy in zip(frontier.fits, frontier.gaps, frontier.accuracies, strict=True):
        decision = fit.rule.decide(fresh.proba)
        theirs = fresh.counts(constraint, decision).gap(constraint)
        assert abs(gap.value - theirs.value) < 3 * gap.standard_error
        assert abs(accuracy - np.mean(decision == fresh.kind)) < 0.02


def test_each_fold_is_decided_by_rules_of_the_other():
    rows, constraint, included = _rows(2000), get_constraint("demographic_parity"), np.ones((1, 2), bool)
    frontier = _frontier(rows)
    decision = np.empty(2000, np.intp)
    for k in (0, 1):
        inside = np.arange(2000) % 2 == k
        problem = RuleProblem(rows.take(~inside), constraint, included, EQUAL)
        decision[inside] = problem.fit(frontier.bounds[-1]).rule.decide(rows.proba[inside])
    gap = rows.counts(constraint, decision).gap(constraint)
    assert_allclose(frontier.gaps[-1].value, gap.value, atol=0.01)
    assert_allclose(frontier.accuracies[-1], np.mean(decision == rows.kind), atol=0.005)


@pytest.mark.parametrize(
    ("bound", "position"), [(0.0, 0), (0.01, 0), (0.02, 1), (0.049, 1), (0.05, 2), (1, 3)]
)
def test_a_bound_takes_the_rule_of_the_largest_bound_below_it(bound, position):
    frontier = RuleFrontier(np.array([0.0, 0.02, 0.05, 0.1]), [], [], np.zeros(4))
    assert frontier.position(bound) == position


def test_rows_that_cannot_be_compared_have_one_rule():
    rows = _rows(500)
    rows = rows.take(rows.group == 0)
    frontier = _frontier(rows)
    assert_array_equal(frontier.bounds, [0, 0.05])
    assert not any(fit.multipliers.any() for fit in frontier.fits)
    assert np.isnan(frontier.gaps[0].value)
