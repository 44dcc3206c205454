from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skfairprune.constraints import get_constraint
from skfairprune.datasets import make_biased_classification
from skfairprune.gaps import largest_gap
from skfairprune.training import lagrangian as module
from skfairprune.training.batches import Rows
from skfairprune.training.fairtask import FairTask
from skfairprune.training.lagrangian import Lagrangian, MultiplierUpdate

N_ROWS = 4000


def _problem(name, bound, with_rule):
    """Draw rows with their exact posterior, and the task of a constraint on them."""
    data = make_biased_classification(N_ROWS, base_rates=(0.6, 0.3), random_state=0)
    group = np.unique(data.sensitive_features, return_inverse=True)[1]
    joint = data.distribution.joint_proba(data.X).reshape(N_ROWS, -1)
    constraint = get_constraint(name)
    included = np.ones((constraint.n_events, 2), bool)
    task = FairTask(
        *(constraint, included, bound, data.y.astype(np.intp), group, np.ones(N_ROWS), np.ones(2), with_rule)
    )
    target = torch.from_numpy(task.joint)
    rows = Rows(torch.zeros(N_ROWS, 1), target, torch.ones(N_ROWS), torch.arange(N_ROWS))
    return joint, Lagrangian(task, rows, frozenset({"weights"}), 0.5, 0.3, "sigmoid")


@pytest.mark.parametrize("name", ["demographic_parity", "equalized_odds"])
def test_ascent_ends_at_the_multipliers_of_the_convex_problem(name, monkeypatch):
    monkeypatch.setattr(module, "_STEP", 0.3)
    joint, lagrangian = _problem(name, 0.05, with_rule=False)
    task = lagrangian.task
    index = np.arange(N_ROWS)
    # The lower level solved: of all networks the best under the multipliers decides by their values.
    scores, path = joint, []
    for _ in range(600):
        _, values = lagrangian.tables(scores)
        best = (joint @ values).argmax(axis=1)
        scores = np.zeros_like(joint)
        scores[np.arange(N_ROWS), 2 * best] = 1.0  # joint classes are label * n_groups + group
        path.append(lagrangian._ascended)
    found = np.mean(path[300:], axis=0)
    expected = replace(task, with_rule=True).fit_rule(joint, index)
    rows = task.scored([joint], index, None)
    assert largest_gap(task.cell_rates(rows, np.eye(2)[best]).event_gaps()).value <= 0.05
    assert np.mean(best == task.labels) >= expected.accuracy - 0.005
    # The two events of equalized odds are nearly exchangeable here: their sum is what is determined.
    assert_allclose(found.sum(axis=0), expected.multipliers.sum(axis=0), atol=0.01)


def test_a_gap_within_its_sampling_error_moves_nothing():
    joint, lagrangian = _problem("demographic_parity", 0.9, with_rule=False)
    values = [lagrangian.tables(joint)[1] for _ in range(3)]
    assert_allclose(values[-1], np.repeat(np.eye(2), 2, axis=0))


def test_multipliers_of_the_ascent_are_bounded():
    joint, lagrangian = _problem("demographic_parity", 0.0, with_rule=False)
    for _ in range(100):
        lagrangian.tables(joint)
    prices = lagrangian._ascended / lagrangian.task.cell_weights(np.arange(N_ROWS))
    assert_allclose(np.abs(prices).max(), 5.0)


def test_violations_are_what_lies_outside_the_nearest_band():
    joint, lagrangian = _problem("demographic_parity", 0.1, with_rule=False)
    task, index = lagrangian.task, np.arange(N_ROWS)
    found, driven = task.violation(joint, index)
    assert driven.all()
    rows = task.scored([joint], index, None)
    gap = largest_gap(task.cell_rates(rows, rows.decide(task.unconstrained)).event_gaps())
    outside = (gap.value - (0.1 - gap.standard_error)) / 2
    assert outside > 0.01
    assert_allclose(found[0, [gap.highest, gap.lowest]], [outside, -outside], rtol=1e-9)


def test_an_event_that_left_the_constraint_moves_nothing():
    joint, lagrangian = _problem("equalized_odds", 0.0, with_rule=False)
    whole, index = lagrangian.task, np.arange(N_ROWS)
    lagrangian.task = replace(whole, included=np.array([[True, True], [False, False]]))
    for _ in range(3):
        _, values = lagrangian.tables(joint)
    assert np.all(lagrangian._ascended[0] != 0)
    assert np.all(lagrangian._ascended[1] == 0)
    assert_allclose(lagrangian.task.violation(joint, index)[0][0], whole.violation(joint, index)[0][0])
    assert_allclose(values[2:], [[0, 1], [0, 1]])  # y=1: a right decision is worth 1, whatever the group


def test_a_group_that_takes_no_part_makes_no_step_smaller():
    """Ten rows of a third group, of which nothing is known beside the gap of the others."""
    joint, lagrangian = _problem("demographic_parity", 0.0, with_rule=False)
    whole = lagrangian.task
    lagrangian.tables(joint)
    alone = lagrangian._ascended
    lagrangian.restart()
    group = np.where(np.arange(N_ROWS) < 10, 2, whole.group)
    lagrangian.task = replace(whole, group=group, included=np.ones((1, 3), bool))
    wider = np.insert(joint.reshape(N_ROWS, 2, 2), 2, 1e-3, axis=2)
    lagrangian.tables(wider.reshape(N_ROWS, 6) / wider.sum(axis=(1, 2))[:, None])
    assert_allclose(lagrangian._ascended[:, :2], alone, rtol=0.05)
    assert lagrangian._ascended[0, 2] == 0


def test_a_price_of_a_group_that_takes_part_no_more_may_only_fall():
    joint, lagrangian = _problem("demographic_parity", 0.0, with_rule=False)
    whole = lagrangian.task
    group = np.where(np.arange(N_ROWS) < 10, 2, whole.group)
    lagrangian.task = replace(whole, group=group, included=np.ones((1, 3), bool))
    wider = np.insert(joint.reshape(N_ROWS, 2, 2), 2, 1e-3, axis=2)
    wider = wider.reshape(N_ROWS, 6) / wider.sum(axis=(1, 2))[:, None]
    violation, driven = lagrangian.task.violation(wider, np.arange(N_ROWS))
    assert_array_equal(driven, [[True, True, False]])
    assert violation[0, 2] != 0
    for sign in (1.0, -1.0):  # towards 0, and away from it
        start = np.array([[0.0, 0.0, -1e-3 * sign * np.sign(violation[0, 2])]])
        lagrangian._ascended = start
        path = [start[0, 2]]
        for _ in range(1000 if sign > 0 else 10):
            lagrangian.tables(wider)
            path.append(lagrangian._ascended[0, 2])
        assert np.all(np.diff(np.abs(path)) <= 0)
        assert (path[-1] == 0) == (sign > 0)


def test_values_of_degradation_are_those_of_errors_on_every_label():
    _, lagrangian = _problem("degradation_parity", 0.1, with_rule=False)
    price = np.array([0.3, -0.2])  # of an error in each group
    values = lagrangian.task.values(price[None] * 0.5, np.full((1, 2), 0.5)).reshape(2, 2, 2)
    wrong = 1 - np.eye(2)[:, None, :]
    expected = np.eye(2)[:, None, :] - price[None, :, None] * wrong
    # up to what every decision on a row costs alike
    assert_allclose(values - values[..., :1], expected - expected[..., :1], atol=1e-12)


def test_class_weights_do_not_count_in_the_price_of_a_rate():
    """The loss of a row is multiplied by its class weight: what is left is the price of its decision."""
    task = _problem("demographic_parity", 0.1, with_rule=False)[1].task
    weights = np.array([0.6, 3.0])
    tilted = replace(task, class_weight=weights)
    price, cells = np.array([[0.2, -0.2]]), np.full((1, 2), 0.5)
    gain = np.eye(2)[:, None]
    plain, own = (t.values(price, cells).reshape(2, 2, 2) - gain for t in (task, tilted))
    assert_allclose(own * (weights / weights.mean())[:, None, None], plain)
    equal = replace(task, class_weight=np.full(2, 3.0))
    assert_array_equal(equal.values(price, cells), task.values(price, cells))


def test_a_rules_tables_are_its_last_layer():
    joint, lagrangian = _problem("equalized_odds", 0.05, with_rule=True)
    coefficients, values = lagrangian.tables(joint)
    weights = lagrangian.task.fit_rule(joint, np.arange(N_ROWS)).rule.output_weights()
    assert_allclose(coefficients, weights.T)
    assert_allclose(values, weights.T)


def test_prices_of_errors_train_the_groups_with_more_of_them_only():
    joint, lagrangian = _problem("error_rate_parity", 0.02, with_rule=True)
    task, index = lagrangian.task, np.arange(N_ROWS)
    weights, values = lagrangian.tables(joint)
    rule = task.fit_rule(joint, index).rule
    assert_allclose(weights, rule.output_weights().T)
    wrong = joint.reshape(N_ROWS, 2, 2).sum(axis=2).argmax(axis=1) != task.labels
    more = int(wrong[task.group == 1].mean() > wrong[task.group == 0].mean())
    gain = rule.coefficients[[0, 1], :, [0, 1]] - rule.coefficients[[0, 1], :, [1, 0]]
    assert np.all(gain[:, 1 - more] < 1 - 0.05)  # by the rule errors of this group are cheaper
    expected = np.zeros((2, 2, 2))
    expected[[0, 1], more, [0, 1]] = gain[:, more]
    expected[[0, 1], 1 - more, [0, 1]] = 1
    assert np.all(gain[:, more] > 1 + 0.05)
    assert_allclose(values.reshape(2, 2, 2), expected)


def test_a_right_decision_of_three_classes_is_worth_what_it_is_above_the_best_wrong_one():
    coefficients = np.tile(np.eye(3)[:, None], (1, 2, 1))
    coefficients[0, 0] = [1.0, 0.2, -0.4]  # worth .8 more than the next: no less than without a price
    coefficients[1, 0] = [-1.0, 2.0, 0.5]
    coefficients[2, 1] = [0.0, -9.0, 8.0]
    task = SimpleNamespace(constraint=get_constraint("error_rate_parity", 3), n_joint=6)
    values = Lagrangian._level_up(SimpleNamespace(task=task), SimpleNamespace(coefficients=coefficients))
    worth = [[1, 1], [1.5, 1], [1, 5]]
    assert_allclose(values, (np.array(worth)[..., None] * np.eye(3)[:, None]).reshape(6, 3))


@pytest.mark.parametrize(
    ("every", "updates"), [(None, [1, 1, 1]), (2, [1, 1, 2, 2, 3, 3, 4]), (1, [1, 2, 3])]
)
def test_multipliers_move_before_the_phase_and_every_so_many_batches(every, updates, monkeypatch):
    joint, lagrangian = _problem("demographic_parity", 0.05, with_rule=True)
    objective = lagrangian.objective()
    assert objective.values is None
    net = SimpleNamespace(
        module_=torch.nn.Identity(), held_out_logits=lambda b: torch.log(torch.from_numpy(joint[b.position]))
    )
    calls = []
    monkeypatch.setattr(lagrangian, "tables", lambda scores: (calls.append(scores), np.ones((4, 2)))[1:] * 2)
    callback = MultiplierUpdate(lagrangian, objective, every)
    callback.on_train_begin(net)
    found = []
    for _ in updates:
        callback.on_batch_begin(net, training=True)
        callback.on_batch_begin(net, training=False)
        found.append(len(calls))
    assert found == updates
    assert_allclose(calls[0], joint, rtol=1e-6)
    assert objective.values.shape == (4, 2)


@pytest.mark.parametrize("phase", ["dense", "fine-tune"])
def test_phases_outside_the_plan_carry_no_constraint(phase):
    _, lagrangian = _problem("demographic_parity", 0.05, with_rule=True)
    assert lagrangian.constrain(lagrangian.objective(), phase, 10) is None
    assert lagrangian.constrain(lagrangian.objective(), "weights", 10).every == 10
