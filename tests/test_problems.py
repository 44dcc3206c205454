import re
from dataclasses import replace

import numpy as np
import pytest

from skfairprune._problems import aware_problem, rule_problems
from skfairprune.decision import DecisionRule
from skfairprune.frontier import FrontierRule, RuleFrontier
from skfairprune.gaps import Gap
from skfairprune.rulefit import RuleFit

RULE = DecisionRule.unconstrained(np.arange(2), 2, 2)


def _rule(gap, accuracy, agreement=1.0, constant=False):
    gaps = [Gap(gap, 0.005, 0, 0, 1)]
    fit = RuleFit(RULE, np.ones((1, 2)), np.zeros((1, 2)), gaps, accuracy, constant)
    return FrontierRule(fit, gaps, accuracy, 0.005, agreement)


def _frontier(rule, majority=0.7):
    return RuleFrontier(np.array([0.0, 0.2]), [rule, _rule(0.2, 0.8)], majority)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (_rule(0.05, 0.75), []),
        (_rule(0.054, 0.75), []),
        (_rule(0.07, 0.75), ["does not keep it on held-out rows: its gap there is 0.070"]),
        (_rule(0.0, 0.7, constant=True), ["only a constant one keeps demographic_parity within .*=0.05"]),
        (_rule(0.05, 0.715), ["accuracy on held-out rows is 0.715, .* would have 0.700, .* bound 0.800"]),
        (_rule(0.05, 0.65), ["accuracy on held-out rows is 0.650"]),
        (_rule(0.05, 0.75, agreement=0.85), ["decide 15% of them otherwise than the rule for .*=0.05"]),
        (_rule(0.07, 0.6, agreement=0.8), ["gap there is 0.070", "accuracy on", "decide 20% of them"]),
    ],
)
def test_what_is_wrong_with_a_rule_is_told(rule, expected):
    found = rule_problems(_frontier(rule), "demographic_parity", 0.05, fitted=False)
    assert len(found) == len(expected)
    for problem, words in zip(found, expected, strict=True):
        assert re.search(words, problem)


def test_without_a_majority_little_accuracy_is_not_told():
    frontier = _frontier(_rule(0.05, 0.65), majority=np.nan)
    assert rule_problems(frontier, "demographic_parity", 0.05, fitted=False) == []


def test_the_unconstrained_rule_is_not_told_to_have_little():
    free = _rule(0.2, 0.695)
    frontier = replace(_frontier(free), rules=[free, free])
    assert rule_problems(frontier, "demographic_parity", 0.2, fitted=False) == []


@pytest.mark.parametrize("bound", [0.05, 0.2])
def test_a_network_behind_one_class_is_told_whatever_the_bound(bound):
    free = _rule(0.2, 0.6)
    frontier = replace(_frontier(free), rules=[_rule(0.05, 0.59), free])
    (problem,) = rule_problems(frontier, "demographic_parity", bound, fitted=False)
    assert re.search("network is right on a share of 0.600 without a bound, .* have 0.700", problem)


def test_a_rule_that_is_told_the_group_and_misses_the_bound_is_told_of():
    assert aware_problem(None, 0.05) is None
    assert aware_problem(_frontier(_rule(0.054, 0.75)), 0.05) is None
    assert "does not keep difference_bound=0.05" in aware_problem(_frontier(_rule(0.07, 0.75)), 0.05)


@pytest.mark.parametrize("fitted", [False, True])
def test_the_bound_of_the_fit_is_not_to_be_fitted_again(fitted):
    (problem,) = rule_problems(_frontier(_rule(0.07, 0.75)), "demographic_parity", 0.05, fitted)
    assert ("fit with this bound" in problem) is not fitted
