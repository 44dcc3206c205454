import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import log_softmax, softmax
from torch import nn

from skfairprune.training.objective import SURROGATES, Objective

N_JOINT = 6


def _batch(n_samples=9, seed=0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    logits = torch.tensor(2 * rng.normal(size=(n_samples, N_JOINT)), dtype=dtype)
    target = torch.tensor(rng.integers(0, N_JOINT, n_samples))
    weight = torch.tensor(rng.uniform(0, 2, n_samples), dtype=dtype)
    return logits, target, weight


def _objective(strength, temperature, surrogate="sigmoid", n_decisions=2, dtype=torch.float64):
    objective = Objective(strength, temperature, surrogate)
    worth = np.random.default_rng(1).dirichlet(np.ones(n_decisions), N_JOINT)
    table = torch.tensor(worth, dtype=dtype)
    objective.set_tables(table, table)
    return objective


def _sparsemax(score):
    """Project on the simplex by bisection for the threshold."""
    low, high = score.min() - 1, score.max()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(score - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(score - middle, 0)


SOFT = {"sigmoid": softmax, "ramp": _sparsemax, "linear": np.asarray}
every_surrogate = pytest.mark.parametrize("surrogate", SURROGATES)
some_decisions = pytest.mark.parametrize("n_decisions", [2, 3])


@pytest.mark.parametrize("temperature", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("strength", [0.1, 3.0])
@some_decisions
@every_surrogate
def test_objective_equals_its_formula(surrogate, n_decisions, strength, temperature):
    logits, target, weight = _batch()
    objective = _objective(strength, temperature, surrogate, n_decisions)
    worth, losses = objective.values.numpy(), []
    for z, joint, w in zip(logits.numpy(), target.tolist(), weight.tolist(), strict=True):
        log_proba = log_softmax(z)
        soft = SOFT[surrogate](np.exp(log_proba) @ worth / temperature)
        losses.append(w * (-log_proba[joint] - strength * worth[joint] @ soft))
    assert_allclose(objective(logits, target, weight), np.mean(losses), rtol=1e-10)


@pytest.mark.parametrize("temperature", [0.1, 0.3])
def test_two_decisions_are_a_sigmoid_or_ramp_of_the_difference(temperature):
    """With c what the second decision gains: -c u(s / T) and a constant."""
    logits, target, weight = _batch(200)
    objectives = [_objective(1.0, temperature, name) for name in ("sigmoid", "ramp")]
    worth = objectives[0].values
    gain = worth[:, 1] - worth[:, 0]
    score = torch.softmax(logits, dim=1) @ gain / temperature
    entropy = nn.functional.cross_entropy(logits, target, reduction="none")
    for objective, soft in zip(objectives, [torch.sigmoid(score), (score / 2 + 0.5).clip(0, 1)], strict=True):
        expected = (weight * (entropy - gain[target] * soft - worth[target, 0])).mean()
        assert_allclose(objective(logits, target, weight), expected, rtol=1e-10)


@pytest.mark.parametrize("objective", [Objective(0.7), _objective(0.0, 0.1)], ids=["no costs", "no strength"])
def test_without_costs_it_is_the_weighted_cross_entropy(objective):
    logits, target, weight = _batch()
    losses = nn.functional.cross_entropy(logits, target, reduction="none")
    assert_allclose(objective(logits, target, weight), (weight * losses).mean(), rtol=1e-12)
    ones = torch.ones_like(weight)
    assert_allclose(objective(logits, target, ones), nn.functional.cross_entropy(logits, target), rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.3])
@some_decisions
@every_surrogate
def test_gradient(surrogate, n_decisions, temperature):
    logits, target, weight = _batch(5)
    objective = _objective(0.5, temperature, surrogate, n_decisions)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: objective(z, target, weight), logits)


@some_decisions
@pytest.mark.parametrize("surrogate", ["sigmoid", "ramp"])
def test_cold_surrogate_is_the_lagrangian_of_the_decision(surrogate, n_decisions):
    logits, target, weight = _batch(200)
    cold, none = (_objective(s, 1e-6, surrogate, n_decisions) for s in (1.0, 0.0))
    worth = cold.values.numpy()
    decision = (torch.softmax(logits, dim=1).numpy() @ worth).argmax(axis=1)
    expected = -np.mean(weight.numpy() * worth[target.numpy(), decision])
    assert_allclose(cold(logits, target, weight) - none(logits, target, weight), expected, atol=1e-9)


@every_surrogate
def test_a_descent_step_moves_the_decision_where_it_pays(surrogate):
    """With a strong constraint term the score of a row that gains by it rises, and else falls."""
    logits, target, weight = _batch(50)
    objective = _objective(1e5, 10.0, surrogate)
    gain = objective.values[:, 1] - objective.values[:, 0]
    logits.requires_grad_()
    before = torch.softmax(logits, dim=1) @ gain
    (gradient,) = torch.autograd.grad(objective(logits, target, torch.ones_like(weight)), logits)
    after = torch.softmax(logits - 1e-6 * gradient, dim=1) @ gain
    assert torch.equal((after - before).sign(), gain[target].sign())


def test_weights_are_repeated_rows():
    logits, target, _ = _batch()
    objective, times = _objective(0.5, 0.3), torch.tensor([0, 1, 2, 3, 1, 1, 0, 2, 2])
    repeated = objective(
        logits.repeat_interleave(times, dim=0),
        target.repeat_interleave(times),
        torch.ones(int(times.sum()), dtype=torch.float64),
    )
    weight = times.double() / times.double().mean()
    assert_allclose(objective(logits, target, weight), repeated, rtol=1e-12)


def test_extreme_logits_stay_finite():
    logits, target, weight = _batch(dtype=torch.float32)
    loss = _objective(0.5, 0.1, dtype=torch.float32)(1e4 * logits, target, weight)
    assert torch.isfinite(loss)


def test_the_coldest_ramp_is_the_indicator():
    score = torch.tensor([[0.2, 0.9, -1.0], [3.0, 2.9, 2.8]]) / 1e-9
    assert SURROGATES["ramp"](score).tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]


def test_single_precision_stays():
    logits, target, weight = _batch(dtype=torch.float32)
    loss = _objective(0.5, 0.1, dtype=torch.float32)(logits, target, weight)
    assert loss.dtype == torch.float32


def test_values_move_and_copy_with_the_objective():
    objective = _objective(0.5, 0.3)
    assert objective.to(torch.float32).values.dtype == torch.float32
    copied = copy.deepcopy(objective)
    objective.values = torch.zeros(N_JOINT, 2)
    assert copied.values.abs().sum() > 0
    assert not list(objective.parameters())


def test_later_tables_take_the_place_of_the_first():
    """A recorded step goes on to read there; what was given stays the caller's."""
    objective, table = Objective(0.5), torch.eye(N_JOINT, 2)
    objective.set_tables(table, table)
    places = objective.coefficients.data_ptr(), objective.values.data_ptr()
    objective.set_tables(table + 1, table + 2)
    assert (objective.coefficients.data_ptr(), objective.values.data_ptr()) == places
    assert torch.equal(objective.coefficients, torch.eye(N_JOINT, 2) + 1)
    assert torch.equal(objective.values, torch.eye(N_JOINT, 2) + 2)
    assert torch.equal(table, torch.eye(N_JOINT, 2))
