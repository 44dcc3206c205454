import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.special import expit, log_softmax
from torch import nn

from skfairprune.training.objective import Objective

N_JOINT = 6


def _batch(n_samples=9, seed=0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    logits = torch.tensor(2 * rng.normal(size=(n_samples, N_JOINT)), dtype=dtype)
    target = torch.tensor(rng.integers(0, N_JOINT, n_samples))
    weight = torch.tensor(rng.uniform(0, 2, n_samples), dtype=dtype)
    return logits, target, weight


def _objective(strength, temperature, dtype=torch.float64):
    objective = Objective(strength, temperature)
    objective.costs = torch.tensor([-1.2, -0.7, -1.0, 1.3, 0.4, 0.9], dtype=dtype)
    return objective


@pytest.mark.parametrize("temperature", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("strength", [0.1, 0.5, 3.0])
def test_objective_equals_its_formula(strength, temperature):
    logits, target, weight = _batch()
    objective = _objective(strength, temperature)
    c, losses = objective.costs.numpy(), []
    for z, joint, w in zip(logits.numpy(), target.tolist(), weight.tolist(), strict=True):
        log_proba = log_softmax(z)
        score = sum(c[k] * np.exp(log_proba[k]) for k in range(N_JOINT))
        losses.append(w * (-log_proba[joint] - strength * c[joint] * expit(score / temperature)))
    assert_allclose(objective(logits, target, weight), np.mean(losses), rtol=1e-12)


@pytest.mark.parametrize("objective", [Objective(0.7), _objective(0.0, 0.1)], ids=["no costs", "no strength"])
def test_without_costs_it_is_the_weighted_cross_entropy(objective):
    logits, target, weight = _batch()
    losses = nn.functional.cross_entropy(logits, target, reduction="none")
    assert_allclose(objective(logits, target, weight), (weight * losses).mean(), rtol=1e-12)
    ones = torch.ones_like(weight)
    assert_allclose(objective(logits, target, ones), nn.functional.cross_entropy(logits, target), rtol=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.3])
@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_gradient(strength, temperature):
    logits, target, weight = _batch(5)
    objective = _objective(strength, temperature)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: objective(z, target, weight), logits)


def test_cold_surrogate_is_the_lagrangian_of_the_decision():
    logits, target, weight = _batch(200)
    cold, none = _objective(1.0, 1e-6), _objective(0.0, 1e-6)
    c = cold.costs.numpy()
    decision = torch.softmax(logits, dim=1).numpy() @ c > 0
    expected = -np.mean(weight.numpy() * c[target.numpy()] * decision)
    assert_allclose(cold(logits, target, weight) - none(logits, target, weight), expected, atol=1e-9)


def test_a_descent_step_moves_the_decision_where_it_pays():
    """With a strong constraint term the score of a row of positive cost rises, of negative falls."""
    logits, target, weight = _batch(50)
    objective = _objective(1e5, 1.0)
    logits.requires_grad_()
    before = torch.softmax(logits, dim=1) @ objective.costs
    (gradient,) = torch.autograd.grad(objective(logits, target, torch.ones_like(weight)), logits)
    after = torch.softmax(logits - 1e-6 * gradient, dim=1) @ objective.costs
    assert torch.equal((after - before).sign(), objective.costs[target].sign())


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
    loss = _objective(0.5, 0.1, torch.float32)(1e4 * logits, target, weight)
    assert torch.isfinite(loss)
    assert loss.dtype == torch.float32


def test_costs_move_and_copy_with_the_objective():
    objective = _objective(0.5, 0.3)
    assert objective.to(torch.float32).costs.dtype == torch.float32
    copied = copy.deepcopy(objective)
    objective.costs = torch.zeros(N_JOINT)
    assert copied.costs.abs().sum() > 0
    assert not list(objective.parameters())
