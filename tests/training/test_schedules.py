import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from skfairprune.training.schedules import REMOVALS, GateSchedule, one_cycle

PROGRESS = np.linspace(0, 1, 101)[1:]


@pytest.mark.parametrize("name", REMOVALS)
def test_removals_rise_to_all(name):
    shares = np.array([REMOVALS[name](p) for p in PROGRESS])
    assert np.all(np.diff(shares) >= 0)
    assert np.all((shares > 0) & (shares <= 1))
    assert shares[-1] == 1


def test_the_cubic_removal_is_fast_at_first():
    assert_allclose(REMOVALS["cubic"](0.5), 0.875)
    assert REMOVALS["one_shot"](1e-6) == 1


def test_the_temperature_falls_geometrically_between_its_ends():
    schedule = GateSchedule(REMOVALS["cubic"], (2.0, 0.02))
    temperatures = [schedule(p)[1] for p in PROGRESS]
    assert np.all(np.diff(temperatures) < 0)
    assert_allclose([schedule(0.0)[1], schedule(0.5)[1], schedule(1.0)[1]], [2.0, 0.2, 0.02])


@pytest.mark.parametrize("share", [-0.1, 1.1, np.nan, None, "half", [0.5], 1j])
def test_what_is_no_share_is_refused(share):
    with pytest.raises(
        ValueError, match=r"sparsity_schedule must return .* at the progress 0\.500 it returned"
    ):
        GateSchedule(lambda progress: share, (1.0, 0.1))(0.5)


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
