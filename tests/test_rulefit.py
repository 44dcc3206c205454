from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
    false_positive_rate,
    true_positive_rate,
)
from fairlearn.postprocessing import ThresholdOptimizer
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score, zero_one_loss

from skfairprune import rulefit
from skfairprune.constraints import get_constraint
from skfairprune.datasets import make_biased_classification
from skfairprune.decision import DecisionRule, condition_on_group
from skfairprune.gaps import Gap
from skfairprune.noise import Noise
from skfairprune.rulefit import LEAN, RuleFit, RuleProblem, _select
from skfairprune.scored import ScoredRows
from tests.draws import easier_group

EQUAL = np.ones(2)
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
THREE = {"group_probs": (0.5, 0.3, 0.2), "base_rates": (0.5, 0.35, 0.2)}


@cache
def _draw(n_samples, seed, law):
    """Draw rows with their exact posterior as scores."""
    data = make_biased_classification(n_samples, random_state=seed, **dict(law))
    group = np.unique(data.sensitive_features, return_inverse=True)[1]
    proba = data.distribution.joint_proba(data.X)
    return ScoredRows(proba, data.y.astype(np.intp), group.astype(np.intp), np.ones(n_samples))


def _rows(n_samples=6000, seed=0, **law):
    return _draw(n_samples, seed, tuple(law.items()))


def _problem(rows, name, class_weight=EQUAL, **options):
    constraint = get_constraint(name)
    included = np.ones((constraint.n_events, rows.n_groups), bool)
    return RuleProblem(rows, constraint, included, np.asarray(class_weight), **options)


def _fit(rows, name, bound, class_weight=EQUAL, start=None):
    return _problem(rows, name, class_weight).fit(bound, multipliers=start)


def _difference(metric):
    def gap(y, decision, *, sensitive_features):
        frame = MetricFrame(metrics=metric, y_true=y, y_pred=decision, sensitive_features=sensitive_features)
        return frame.difference()

    return gap


FAIRLEARN = {
    "demographic_parity": demographic_parity_difference,
    "equalized_odds": equalized_odds_difference,
    "true_positive_rate_parity": _difference(true_positive_rate),
    "false_positive_rate_parity": _difference(false_positive_rate),
    "error_rate_parity": _difference(zero_one_loss),
}


class _Identity(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose score is its only column."""

    def fit(self, X, y):
        return self

    def predict(self, X):
        return X[:, 0]

    def __sklearn_is_fitted__(self):
        return True


UNCONSTRAINED = DecisionRule.unconstrained(np.arange(2), 2, 2)


def _gap(rows, name, decision):
    return FAIRLEARN[name](rows.kind, decision.astype(int), sensitive_features=rows.group)


def _linear_rules(rows, multipliers, class_weight=EQUAL):
    """Yield the decisions of all demographic parity rules for two groups, from the definition."""
    share = np.bincount(rows.group) / len(rows.group)
    gain = np.array([-1, 1]) * class_weight / np.mean(class_weight)
    for multiplier in multipliers:
        cost = np.array([multiplier, -multiplier]) / share
        yield np.einsum("iyg,yg->i", rows.proba, gain[:, None] - cost) > 0


@every_constraint
def test_a_bound_that_holds_anyway_changes_nothing(name):
    rows = _rows()
    fit = _fit(rows, name, 0.99)
    assert_array_equal(fit.rule.coefficients, UNCONSTRAINED.coefficients)
    assert not fit.multipliers.any()


@pytest.mark.parametrize("bound", [0.05, 0.1])
@pytest.mark.parametrize("law", [{}, THREE], ids=["2 groups", "3 groups"])
@every_constraint
def test_the_bound_is_met_on_the_rows(name, law, bound):
    rows = _rows(12_000, seed=1, **law)
    fit = _fit(rows, name, bound)
    decision = fit.rule.decide(rows.proba)
    unconstrained = rows.proba.sum(axis=2).argmax(axis=1)
    assert _gap(rows, name, decision) <= bound
    assert 0 < decision.mean() < 1
    assert accuracy_score(rows.kind, decision) <= accuracy_score(rows.kind, unconstrained) + 0.005
    # what it says of itself
    assert_allclose(max(gap.value for gap in fit.event_gaps), _gap(rows, name, decision), atol=1e-12)
    assert_allclose(fit.accuracy, accuracy_score(rows.kind, decision), atol=1e-12)
    assert_allclose(fit.excess(bound), _gap(rows, name, decision) - bound, atol=1e-12)
    assert not fit.constant


def test_the_rule_keeps_a_standard_error_clear_of_the_bound():
    rows = _rows()
    fit = _fit(rows, "demographic_parity", 0.1)
    (gap,) = fit.event_gaps
    rates = [fit.rule.decide(rows.proba)[rows.group == g].mean() for g in (0, 1)]
    error = np.sqrt(sum(r * (1 - r) / n for r, n in zip(rates, np.bincount(rows.group), strict=True)))
    assert_allclose(gap.standard_error, error, rtol=1e-3)
    assert_allclose(0.1 - gap.value, error, rtol=0.25)


@pytest.mark.parametrize("class_weight", [(1.0, 1.0), (0.7, 1.6)])
@pytest.mark.parametrize("bound", [0.02, 0.05, 0.1])
def test_accuracy_is_near_the_best_linear_rules(bound, class_weight):
    rows, class_weight = _rows(12_000, seed=2), np.array(class_weight)
    weight = class_weight[rows.kind]
    best = max(
        np.average(decision == rows.kind, weights=weight)
        for decision in _linear_rules(rows, np.linspace(-0.1, 0.4, 251), class_weight)
        if abs(decision[rows.group == 0].mean() - decision[rows.group == 1].mean()) <= bound
    )
    # a network trained with class weights gives tilted scores
    tilted = rows.proba * class_weight[:, None]
    tilted /= tilted.sum(axis=(1, 2), keepdims=True)
    fit = _fit(
        ScoredRows(tilted, rows.kind, rows.group, rows.weight), "demographic_parity", bound, class_weight
    )
    decision = fit.rule.decide(tilted)
    assert _gap(rows, "demographic_parity", decision) <= bound
    assert_allclose(fit.accuracy, accuracy_score(rows.kind, decision, sample_weight=weight), atol=1e-12)
    assert best - 0.005 <= fit.accuracy <= best + 1e-3


@every_constraint
def test_class_weights_tilt_scores_and_gain_alike(name):
    """On tilted scores the rule decides as the class-weighted Lagrangian does on the true ones."""
    rows, class_weight = _rows(), np.array([0.5, 2.5])
    tilted = rows.proba * class_weight[:, None]
    tilted /= tilted.sum(axis=(1, 2), keepdims=True)
    fit = _fit(ScoredRows(tilted, rows.kind, rows.group, rows.weight), name, 0.04, class_weight)
    constraint = get_constraint(name)
    if name == "error_rate_parity":
        constraint.utilities[:, :, np.bincount(rows.kind).argmin()] += LEAN
    costs = constraint.costs(fit.multipliers, constraint.cell_sums(rows.proba.mean(axis=0)))
    expected = np.einsum("iyg,ygd->id", rows.proba, np.diag(class_weight / 1.5)[:, None] - costs)
    sure = np.abs(expected[:, 1] - expected[:, 0]) > 1e-9
    assert_array_equal(fit.rule.decide(tilted)[sure], expected.argmax(axis=1)[sure])


@pytest.mark.parametrize("rare", [0, 1])
def test_errors_that_a_group_must_be_given_carry_over_to_unseen_rows(rare):
    """One group is hard to decide, the scores all but know it, and the other one has to err as often.

    The network that is deployed is a little surer of the group than the one that the rule is fitted on.
    """
    rng = np.random.RandomState(0)

    def draw(n, doubt):
        group = (rng.rand(n) < 0.1).astype(np.intp)
        score = np.where(group, rng.uniform(0.1, 0.7, n), rng.beta(0.3, 2.7, n))
        label = (rng.rand(n) < score).astype(np.intp)
        noisy = 1 / (1 + np.exp(-np.log(score / (1 - score)) - rng.normal(0, 0.3, n)))
        member = group * 0.98 + doubt * np.exp(rng.normal(0, 1, n))
        label, noisy = (label, noisy) if rare == 1 else (1 - label, 1 - noisy)
        proba = np.stack([1 - noisy, noisy], 1)[:, :, None] * np.stack([1 - member, member], 1)[:, None]
        return ScoredRows(proba.clip(0), label, group, np.ones(n))

    fit = _fit(draw(20_000, 0.002), "error_rate_parity", 0.05)
    unseen = draw(100_000, 0.0015)
    decision = fit.rule.decide(unseen.proba)
    assert _gap(unseen, "error_rate_parity", unseen.proba.sum(axis=2).argmax(axis=1)) > 0.15
    assert _gap(unseen, "error_rate_parity", decision) <= 0.05


def test_odds_move_where_both_kinds_of_errors_of_a_group_would_have_to_rise(monkeypatch):
    """One group is easier to decide, and the scores all but know it: no threshold makes it err as the other.

    The network that is deployed is a little surer of the group than the one that the rule is fitted on.
    """

    def carry_over(fit):
        counts = unseen.counts(get_constraint("equalized_odds"), unseen.decide(fit.rule))
        gaps = counts.event_gaps(get_constraint("equalized_odds"))
        return max(abs(one.value - two.value) for one, two in zip(gaps, fit.event_gaps, strict=True))

    rows, unseen = easier_group(20_000, 0.02, 0), easier_group(100_000, 0.015, 100)
    problem = _problem(rows, "equalized_odds")
    commonest = np.bincount(rows.kind).argmax()
    assert problem.safe == commonest
    by_bound = [problem.fit(bound) for bound in (0.02, 0.05)]
    for fit, bound in zip(by_bound, (0.02, 0.05), strict=True):
        assert fit.odds > 1
        assert not fit.constant
        assert fit.excess(bound) <= 0
        assert _gap(unseen, "equalized_odds", fit.rule.decide(unseen.proba)) <= bound
        assert carry_over(fit) < 0.02
        dual = problem.dual.with_gain(fit.odds ** (np.arange(2) == commonest)[:, None] * problem.dual.gain)
        assert_allclose(fit.rule.coefficients, dual.coefficients(fit.multipliers))
        assert np.mean(dual.stakes(fit.multipliers) < rulefit._STAKE) <= rulefit._MOST_BY_NOISE
    assert by_bound[0].odds > by_bound[1].odds
    assert by_bound[0].accuracy < by_bound[1].accuracy < problem.unconstrained.accuracy
    # Without a label that has no gap the target gives way.
    problem.safe = None
    fit = problem.fit(0.02)
    assert fit.raised
    assert fit.odds == 1
    assert np.mean(problem.dual.stakes(fit.multipliers) < rulefit._STAKE) <= rulefit._MOST_BY_NOISE
    assert 0.05 < fit.excess(0.02) < problem.unconstrained.excess(0.02)
    assert carry_over(fit) < 0.02
    monkeypatch.setattr(rulefit, "_MOST_BY_NOISE", 1.0)
    found = problem.fit(0.02)
    assert not found.raised
    assert found.excess(0.02) <= problem.tolerance
    assert carry_over(found) > 0.04


@pytest.mark.parametrize("constraint", ["equalized_odds", "demographic_parity", "error_rate_parity"])
def test_the_label_that_all_rows_could_get_without_a_gap(constraint):
    rows = _rows(2_000, base_rates=(0.7, 0.6))
    expected = None if constraint == "error_rate_parity" else 1
    assert _problem(rows, constraint).safe == expected


def test_a_part_of_the_rows_leans_and_aims_as_the_whole():
    rows, constraint = _rows(), get_constraint("error_rate_parity")
    problem = RuleProblem(rows, constraint, np.ones((1, 2), bool), EQUAL)
    rare = np.bincount(rows.kind).argmin()
    mostly_rare = (rows.kind == rare) | (np.arange(len(rows.kind)) % 10 == 0)
    assert np.bincount(rows.kind[mostly_rare]).argmin() != rare
    part = problem.part(mostly_rare)
    assert_array_equal(part.priced.utilities, problem.priced.utilities)
    assert_array_equal(part.noise.target(0.05), problem.noise.target(0.05))
    assert part.priced.utilities[0, :, rare].min() == LEAN
    assert part.label.size == mostly_rare.sum()


def test_told_the_group_errors_are_evened_out_by_thresholds():
    rows, unseen = (_rows(12_000, seed=seed, base_rates=(0.5, 0.1)) for seed in (8, 9))
    told = condition_on_group(rows.proba, rows.group)
    fit = _fit(ScoredRows(told, rows.kind, rows.group, rows.weight), "error_rate_parity", 0.03)
    scores = condition_on_group(unseen.proba, unseen.group)
    assert _gap(unseen, "error_rate_parity", scores.sum(axis=2).argmax(axis=1)) > 0.06
    assert _gap(unseen, "error_rate_parity", fit.rule.decide(scores)) <= 0.04
    assert not fit.constant


def test_class_weights_without_a_constraint_move_the_threshold():
    rows, class_weight = _rows(), np.array([1.0, 3.0])
    tilted = rows.proba * class_weight[:, None]
    tilted /= tilted.sum(axis=(1, 2), keepdims=True)
    fit = _fit(
        ScoredRows(tilted, rows.kind, rows.group, rows.weight), "demographic_parity", 1.0, class_weight
    )
    assert_array_equal(fit.rule.decide(tilted), rows.proba[:, 1].sum(axis=1) > 1 / 4)


@every_constraint
def test_weights_count_like_repeated_rows(name):
    rows = _rows(3000)
    times = np.random.default_rng(0).integers(1, 3, 3000)
    weighted = ScoredRows(rows.proba, rows.kind, rows.group, times.astype(float))
    repeated = rows.take(np.repeat(np.arange(3000), times))
    # Sampling errors differ (weights are not rows), and with them the tolerance, but not the targets here.
    n_events = get_constraint(name).n_events
    none = Noise(np.ones((n_events, 2), bool), *np.zeros((4, n_events)))
    problems = [_problem(r, name) for r in (weighted, repeated)]
    for problem in problems:
        problem.noise = none
    fits = [problem.fit(0.0) for problem in problems]
    assert_allclose(fits[0].rule.coefficients, fits[1].rule.coefficients, atol=0.02)
    assert_allclose(fits[0].accuracy, fits[1].accuracy, atol=2e-3)


@pytest.mark.parametrize("name", ["demographic_parity", "equalized_odds"])
def test_a_gap_by_chance_drives_nothing(name):
    """Of draws without a true gap most are left alone; before, rules opened gaps on other rows."""
    fresh = _rows(60_000, seed=99, base_rates=(0.4, 0.4))
    fits = [_fit(_rows(700, seed=seed, base_rates=(0.4, 0.4)), name, 0.02) for seed in range(20)]
    assert np.mean([not fit.multipliers.any() for fit in fits]) >= 0.5
    gaps = [_gap(fresh, name, fit.rule.decide(fresh.proba)) for fit in fits]
    assert np.median(gaps) < 0.01
    assert np.mean(gaps) < 0.025


def test_of_a_gap_beyond_chance_noise_is_left():
    rows = _rows(700, base_rates=(0.5, 0.25))
    problem = _problem(rows, "demographic_parity")
    (free,), fit = problem.unconstrained.event_gaps, problem.fit(0.0)
    assert free.value > 3 * free.standard_error
    assert_allclose(fit.event_gaps[0].value, free.standard_error**2 / free.value, atol=0.01)


@pytest.mark.parametrize("seed", range(4))
def test_scores_that_think_small_groups_too_rare_do_not_cost_the_accuracy(seed):
    """Unscaled, nothing makes up for their rates: multipliers run away, decisions come near a constant."""
    law = {"group_probs": (0.8, 0.1, 0.06, 0.04), "base_rates": (0.5, 0.2, 0.6, 0.3), "proxy_strength": 0.3}
    rows, fresh = _rows(2500, seed, **law), _rows(30_000, 9, **law)

    def skewed(of):
        proba = of.proba * np.array([[1, 1, 0.5, 0.5], [1, 1, 0.15, 0.15]])
        return ScoredRows(proba / proba.sum(axis=(1, 2), keepdims=True), of.kind, of.group, of.weight)

    fit = _fit(skewed(rows), "equalized_odds", 0.05)
    assert np.abs(fit.multipliers).max() < 2
    decision = fit.rule.decide(skewed(fresh).proba)
    assert np.mean(decision == fresh.kind) > 0.83  # with exact scores .855


def test_the_least_accuracy_is_that_of_a_constant_which_keeps_the_bound():
    rows = _rows(base_rates=(0.6, 0.2))
    majority = max(rows.kind.mean(), 1 - rows.kind.mean())
    assert_allclose(_problem(rows, "demographic_parity")._floor(0.0), majority - 0.02)
    # Decided alike, groups of other base rates err at other rates.
    assert _problem(rows, "error_rate_parity")._floor(0.1) == -np.inf
    assert_allclose(_problem(rows, "error_rate_parity")._floor(0.6), majority - 0.02)


@every_constraint
def test_start_changes_little(name):
    rows = _rows()
    cold = _fit(rows, name, 0.05)
    warm = _fit(rows, name, 0.05, start=cold.multipliers)
    assert warm.excess(0.05) <= 0
    assert_allclose(warm.accuracy, cold.accuracy, atol=3e-3)


@pytest.mark.parametrize(("class_sep", "bound"), [(0.35, 0.002), (0.35, 0.05), (0.25, 0.01), (0.6, 0.01)])
def test_a_constant_decision_is_no_way_out(class_sep, bound):
    """With 89 % positives, deciding alike for all has gap 0 and an accuracy hard to beat."""
    rows = _rows(base_rates=(0.97, 0.7), class_sep=class_sep)
    constant = max(rows.kind.mean(), 1 - rows.kind.mean())
    fit = _fit(rows, "demographic_parity", bound)
    decision = fit.rule.decide(rows.proba)
    assert constant > 0.88
    assert 0 < decision.mean() < 1
    assert not fit.constant
    assert _gap(rows, "demographic_parity", decision) <= bound
    if (class_sep, bound) == (0.35, 0.002):
        assert fit.accuracy < constant  # it would have won


def _candidate(value, accuracy, constant=False):
    gap = Gap(value, 0.01, 0, 0, 1)
    return RuleFit(UNCONSTRAINED, np.zeros((1, 2)), np.zeros((1, 2)), [gap], accuracy, constant)


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        pytest.param([(0.02, 0.8), (0.03, 0.85), (0.1, 0.9)], 1, id="most accurate in target"),
        pytest.param([(0.045, 0.85), (0.02, 0.8)], 1, id="target before bound"),
        pytest.param([(0.045, 0.7), (0.049, 0.75), (0.2, 0.9)], 1, id="bound before no bound"),
        pytest.param([(0.0, 0.95, True), (0.03, 0.7)], 1, id="varying before constant"),
        pytest.param([(0.0, 0.95, True), (0.049, 0.7)], 1, id="varying in the bound only"),
        pytest.param([(0.0, 0.6, True), (0.0, 0.7, True), (0.2, 0.9)], 1, id="constant before excess"),
        pytest.param([(0.3, 0.9), (0.2, 0.7), (0.25, 0.8)], 1, id="least excess"),
        pytest.param([(0.05, 0.9)], 0, id="the bound itself is within"),
        pytest.param([(0.0, 0.5), (0.04, 0.6)], 1, id="some excess before much less than a constant"),
        pytest.param([(0.02, 0.54), (0.3, 0.64)], 0, id="a little less than a constant before much excess"),
        pytest.param([(0.0, 0.5), (0.0, 0.52)], 1, id="most accurate of what is worse than a constant"),
    ],
)
def test_selection(candidates, chosen):
    fits = [_candidate(*arguments) for arguments in candidates]
    assert _select(fits, np.array([0.03]), 0.05, 0.55) is fits[chosen]


def test_a_gap_of_groups_without_a_part_may_stay_and_not_grow():
    fit = replace(_candidate(0.02, 0.8), beside=np.array([[0.3], [0.25]]))
    assert_allclose(fit.excess(0.05), 0.05)
    assert_allclose(fit.excess(0.28), 0.02)
    assert_allclose(replace(fit, beside=np.array([[0.2], [0.25]])).excess(0.05), -0.03)
    assert_allclose(replace(fit, beside=np.array([[np.nan], [np.nan]])).excess(0.05), -0.03)


def test_excess_is_of_the_worst_defined_event():
    undefined = Gap(np.nan, np.nan, -1, -1, -1)
    gaps = [Gap(0.2, 0.01, 0, 0, 1), Gap(0.1, 0.01, 1, 0, 1), undefined]
    fit = RuleFit(UNCONSTRAINED, np.zeros((3, 2)), np.zeros((3, 2)), gaps, 0.8, False)
    assert_allclose(fit.excess(0.15), 0.05)
    assert_allclose(fit.excess(np.array([0.3, 0.04, 0.0])), 0.06)
    nothing = RuleFit(UNCONSTRAINED, np.zeros((1, 2)), np.zeros((1, 2)), [undefined], 0.8, False)
    assert nothing.excess(0.0) == -np.inf


@pytest.mark.parametrize("name", ["equalized_odds", "true_positive_rate_parity"])
def test_a_cell_without_rows_leaves_the_constraint(name):
    rows = _rows(**THREE)
    some = rows.take(~((rows.group == 2) & (rows.kind == 1)))
    fit = _fit(some, name, 0.05)
    assert np.isfinite(fit.rule.coefficients).all()
    assert fit.multipliers[-1, 2] == 0
    assert fit.excess(0.05) <= 0
    counts = some.counts(get_constraint(name), some.decide(fit.rule))
    rates = counts.rates(get_constraint(name))[-1]
    assert np.isnan(rates[2])
    assert abs(rates[0] - rates[1]) <= 0.05


@every_constraint
def test_a_group_without_positives_gives_a_finite_rule(name):
    rows = _rows(**THREE)
    fit = _fit(rows.take(~((rows.group == 2) & (rows.kind == 1))), name, 0.05)
    assert np.isfinite(fit.rule.coefficients).all()
    assert np.isfinite(fit.excess(0.05))
    assert not fit.constant


@pytest.mark.parametrize("name", ["demographic_parity", "equalized_odds"])
def test_rows_of_one_group_cannot_be_compared(name):
    rows = _rows()
    fit = _fit(rows.take(rows.group == 0), name, 0.0)
    assert_array_equal(fit.rule.coefficients, UNCONSTRAINED.coefficients)
    assert fit.excess(0.0) == -np.inf


def test_left_out_groups_may_differ():
    rows, constraint = _rows(12_000, **THREE), get_constraint("demographic_parity")
    included = np.array([[True, True, False]])
    fit = RuleProblem(rows, constraint, included, EQUAL).fit(0.03)
    decision = fit.rule.decide(rows.proba)
    rates = [decision[rows.group == g].mean() for g in range(3)]
    assert abs(rates[0] - rates[1]) <= 0.03
    assert fit.multipliers[0, 2] == 0
    assert rates[1] - rates[2] > 0.05


def test_fifty_groups_keep_the_bound():
    name = "demographic_parity"
    n_groups, rng = 50, np.random.default_rng(0)
    law = {"group_probs": (1 / n_groups,) * n_groups, "base_rates": tuple(rng.uniform(0.3, 0.5, n_groups))}
    data = make_biased_classification(20_000, random_state=0, class_sep=0.7, **law)
    names = np.unique(data.sensitive_features)
    group = np.searchsorted(names, data.sensitive_features)
    proba = data.distribution.joint_proba(data.X)
    # the columns are in the order of the law, and the groups' names are sorted as text
    order = [int(name.removeprefix("group_")) for name in names]
    rows = ScoredRows(proba[:, :, order], data.y.astype(np.intp), group, np.ones(20_000))
    fit = _fit(rows, name, 0.2)
    assert fit.excess(0.2) <= 0.01
    assert _fit(rows, name, 1.0).excess(0.2) > 0.03
    assert fit.accuracy > 0.75


@pytest.mark.parametrize("bound", [0.02, 0.1])
@pytest.mark.parametrize(
    "name",
    ["demographic_parity", "equalized_odds", "true_positive_rate_parity", "false_positive_rate_parity"],
)
def test_knowing_the_group_costs_no_accuracy(name, bound):
    rows, fresh = _rows(12_000, seed=5), _rows(30_000, seed=6)
    aware, known = (
        ScoredRows(condition_on_group(r.proba, r.group), r.kind, r.group, r.weight) for r in (rows, fresh)
    )
    fit = _fit(aware, name, bound)
    assert fit.excess(bound) <= 0
    decision = fit.rule.decide(known.proba)
    blind = _fit(rows, name, bound).rule.decide(fresh.proba)
    assert _gap(fresh, name, decision) <= bound + 0.02
    assert accuracy_score(fresh.kind, decision) >= accuracy_score(fresh.kind, blind) - 0.003


@pytest.mark.parametrize("name", ["demographic_parity", "equalized_odds"])
def test_the_aware_rule_is_on_fairlearns_frontier(name):
    """ThresholdOptimizer has exactly equal rates, by random thresholds: here within a small bound."""
    rows, fresh = _rows(12_000, seed=5), _rows(30_000, seed=6)
    aware = ScoredRows(condition_on_group(rows.proba, rows.group), rows.kind, rows.group, rows.weight)
    decision = _fit(aware, name, 0.03).rule.decide(condition_on_group(fresh.proba, fresh.group))
    own = [r.proba[np.arange(len(r.group)), :, r.group] for r in (rows, fresh)]
    scores = [(p[:, 1] / p.sum(axis=1))[:, None] for p in own]
    optimizer = ThresholdOptimizer(
        estimator=_Identity(), constraints=name, prefit=True, predict_method="predict", grid_size=2000
    )
    optimizer.fit(scores[0], rows.kind, sensitive_features=rows.group)
    theirs = optimizer._pmf_predict(scores[1], sensitive_features=fresh.group)[:, 1]
    their_accuracy = np.mean(np.where(fresh.kind == 1, theirs, 1 - theirs))
    assert _gap(fresh, name, decision) <= 0.05
    assert accuracy_score(fresh.kind, decision) >= their_accuracy - 0.002


def test_degradation_compares_groups_with_what_the_dense_network_did():
    rows, constraint = _rows(12_000, seed=7), get_constraint("degradation_parity")
    # A dense network that errs in one group only, and scores that err elsewhere.
    rng = np.random.default_rng(0)
    dense = np.where((rows.group == 1) & (rng.uniform(size=12_000) < 0.15), 1 - rows.kind, rows.kind)
    kind = constraint.with_dense_decisions(constraint.kinds(rows.kind), dense)
    told = ScoredRows(rows.proba, kind, rows.group, rows.weight)
    included = np.ones((1, 2), bool)
    free, fit = (RuleProblem(told, constraint, included, EQUAL).fit(bound) for bound in (1.0, 0.04))
    lost = (dense == rows.kind).astype(float) - (fit.rule.decide(rows.proba) == rows.kind)
    gap = abs(lost[rows.group == 0].mean() - lost[rows.group == 1].mean())
    assert_allclose(fit.event_gaps[0].value, gap, atol=1e-12)
    assert gap <= 0.04
    assert free.event_gaps[0].value > 0.06


def test_a_gap_within_its_noise_of_the_bound_changes_little():
    """On few rows, unconstrained gaps near the bound: accuracy is paid for at most half of it."""
    for seed in range(12):
        rows = _rows(300, seed=20 + seed, base_rates=(0.45, 0.4))
        free, fit = (_fit(rows, "demographic_parity", bound) for bound in (1.0, 0.08))
        if free.excess(0.08) <= 0.06:
            assert fit.accuracy > free.accuracy - 0.05
            assert not fit.constant
            assert np.abs(fit.multipliers).max() < 0.3


def test_scores_that_do_not_tell_rows_apart():
    """With the same scores everywhere every rule is constant, and the better one is kept."""
    n_samples = 400
    rng = np.random.default_rng(0)
    y, group = (rng.uniform(size=n_samples) < 0.8).astype(np.intp), rng.integers(0, 2, n_samples)
    proba = np.broadcast_to(np.array([[0.1, 0.1], [0.4, 0.4]]), (n_samples, 2, 2))
    fit = _fit(ScoredRows(proba, y, group, np.ones(n_samples)), "demographic_parity", 0.0)
    assert fit.constant
    assert fit.event_gaps[0].value == 0
    assert_allclose(fit.accuracy, y.mean())
