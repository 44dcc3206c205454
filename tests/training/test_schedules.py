import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from skfairprune.training.schedules import Epochs, anneal, one_cycle, share_epochs

PROGRESS = np.linspace(0, 1, 101)[1:]


@pytest.mark.parametrize("max_epochs", range(3, 201))
def test_every_phase_gets_epochs_and_none_is_lost(max_epochs):
    epochs = share_epochs(max_epochs)
    assert all(type(n) is int for n in epochs)
    assert min(epochs) >= 1
    assert sum(epochs) == epochs.total == max_epochs


def test_shares_are_a_quarter_a_tenth_and_the_rest():
    for max_epochs in range(20, 201):
        epochs = share_epochs(max_epochs)
        assert abs(epochs.dense - 0.25 * max_epochs) <= 1
        assert abs(epochs.bilevel - 0.1 * max_epochs) <= 0.5 + 1e-9
    assert share_epochs(100) == Epochs(25, 10, 65)


def test_no_phase_shrinks_with_more_epochs():
    shares = np.array([share_epochs(n) for n in range(3, 201)])
    assert np.all(np.diff(shares[:, :2], axis=0) >= 0)


@pytest.mark.parametrize(("full", "budget"), [(1000.0, 100.0), (500.0, 499.0), (300.0, 300.0)])
def test_annealing_ends_at_the_budget_and_falls_all_the_way(full, budget):
    budgets, temperatures = np.array([anneal(p, full, budget) for p in PROGRESS]).T
    assert np.all(np.diff(budgets) <= 0)
    assert np.all(np.diff(temperatures) < 0)
    assert_allclose(anneal(1.0, full, budget), (budget, 0.05), rtol=1e-12)
    assert_allclose(anneal(0.0, full, budget), (full, 1.0), rtol=1e-12)
    assert budgets.min() >= budget
    assert budgets.max() <= full


def test_budget_falls_along_a_cubic_and_temperature_geometrically():
    assert_allclose(anneal(0.5, 1000, 200), (200 + 800 / 8, np.sqrt(1.0 * 0.05)))
    temperatures = np.array([anneal(p, 10, 1)[1] for p in PROGRESS])
    ratio = temperatures[1:] / temperatures[:-1]
    assert_allclose(ratio, ratio[0])


@pytest.mark.parametrize("n_steps", [1, 2, 3, 7, 100, 1000])
def test_learning_rate_rises_for_a_fifth_of_the_steps_and_falls_to_almost_nothing(n_steps):
    rates = np.array([one_cycle(step, n_steps) for step in range(n_steps + 1)])
    assert np.all((rates > 0) & (rates <= 1))
    warm_up = n_steps / 5
    steps = np.arange(n_steps + 1)
    assert np.all(np.diff(rates[steps <= warm_up]) > 0)
    assert np.all(np.diff(rates[steps >= warm_up]) < 0)
    assert_allclose(rates[0], 0.04)
    assert_allclose(rates[-1], 1e-4)
    # the scheduler asks for one step more than there are
    assert one_cycle(n_steps + 1, n_steps) == rates[-1]


def test_learning_rate_is_torchs_one_cycle():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        *(optimizer, 1.0, 101), pct_start=21 / 101, div_factor=25, final_div_factor=400, cycle_momentum=False
    )
    for step in range(100):
        assert_allclose(one_cycle(step, 100), schedule.get_last_lr()[0], rtol=1e-9)
        optimizer.step()
        schedule.step()
