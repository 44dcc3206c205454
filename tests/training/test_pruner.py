import copy
from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from skfairprune.modules import PiecewiseLinearEncoding, TabularNetwork
from skfairprune.pruning.budget import Chain
from skfairprune.pruning.criteria import CRITERIA
from skfairprune.pruning.shrink import shrink
from skfairprune.pruning.structure import UnitStructure
from skfairprune.pruning.units import find_units
from skfairprune.pruning.weights import WeightLayout, WeightStructure, find_weights
from skfairprune.training.batches import Rows
from skfairprune.training.lagrangian import Lagrangian
from skfairprune.training.levels import Levels
from skfairprune.training.phases import PhaseRunner
from skfairprune.training.plan import make_plan
from skfairprune.training.pruner import Pruner
from skfairprune.training.schedules import REMOVALS, GateSchedule

CHAIN = Chain(7, (12, 9), 2)


def _network(seed=0):
    torch.manual_seed(seed)
    encoding = PiecewiseLinearEncoding([np.linspace(-2, 2, 5), np.linspace(-1, 1, 4)])
    return TabularNetwork(encoding, CHAIN.sizes, CHAIN.n_outputs).double()


def _pruner(criterion, n_rows=120):
    rng = np.random.default_rng(0)
    x = torch.tensor(rng.normal(size=(n_rows, 2)))
    rows = Rows(x, (x.sum(dim=1) > 0).long(), torch.ones(n_rows).double(), torch.arange(n_rows))
    half = n_rows // 2
    lower, upper = rows.take(torch.arange(half)), rows.take(torch.arange(half, n_rows))
    plan = make_plan(12, criterion, "joint", "both")
    runner = PhaseRunner(30, 0.01, None, False, torch.Generator().manual_seed(0))
    return Pruner(
        levels=Levels(lower, upper, rows, upper, rows, torch.zeros(n_rows).long(), 0),
        runner=runner,
        plan=plan,
        lagrangian=Lagrangian(None, upper, plan.constrained, 0.5, 0.3, "sigmoid"),
        criterion=criterion,
        head_labels=np.arange(2),
        n_groups=1,
        hypergradient="first_order",
        damping=1.0,
        schedule=GateSchedule(REMOVALS["cubic"], (1.0, 0.05)),
    )


def _prune(criterion, budget=60):
    pruner, network = _pruner(criterion), _network()
    initial = copy.deepcopy(network)
    pruner.train_dense(network)
    dense = copy.deepcopy(network)
    return (
        pruner,
        initial,
        dense,
        pruner.prune(network, initial, UnitStructure(find_units(network), CHAIN), budget),
    )


every_criterion = pytest.mark.parametrize("criterion", ["bilevel", "lottery", *CRITERIA])


@every_criterion
def test_the_small_network_has_the_masks_widths_within_the_budget(criterion):
    _, _, _, pruned = _prune(criterion)
    widths = [int(mask.sum()) for mask in pruned.masks]
    assert [layer.n_units for layer in find_units(pruned.network)] == widths
    assert CHAIN.resized(widths).n_parameters() <= 60
    assert sum(p.numel() for p in pruned.network.parameters()) == CHAIN.resized(widths).n_parameters()


@every_criterion
def test_epochs_are_those_of_the_plan(criterion):
    pruner, *_ = _prune(criterion)
    phases = [row["phase"] for row in pruner.runner.history]
    assert phases == ["dense"] * pruner.plan.dense + ["bilevel"] * pruner.plan.bilevel


@pytest.mark.parametrize("criterion", ["lottery", "snip"])
def test_tickets_start_from_the_initial_weights(criterion):
    _, initial, _, pruned = _prune(criterion)
    expected = shrink(initial, find_units(initial), pruned.masks).state_dict()
    for name, value in pruned.network.state_dict().items():
        assert_allclose(value, expected[name], err_msg=name)


@pytest.mark.parametrize("criterion", ["lottery", "snip"])
def test_tickets_of_weights_start_from_the_initial_weights(criterion):
    pruner, network = _pruner(criterion), _network()
    initial = copy.deepcopy(network)
    pruner.train_dense(network)
    layers = find_weights(network, pruner.levels.lower.x)
    sizes = tuple(layer.n_units for layer in layers)
    layout = WeightLayout("TabularNetwork", layers, sizes, CHAIN.n_outputs, "parameters")
    pruned = pruner.prune(network, initial, WeightStructure(layers, layout, None), layout.cost() // 3)
    assert 0 < sum(mask.sum() for mask in pruned.masks) < sum(mask.size for mask in pruned.masks) / 2
    for layer, mask in zip(layers, pruned.masks, strict=True):
        weight = initial.get_submodule(layer.name).weight
        expected = weight * torch.from_numpy(mask.reshape(weight.shape))
        assert_allclose(pruned.network.get_submodule(layer.name).weight.detach(), expected.detach())


def test_criteria_read_the_rows_in_shuffled_batches():
    pruner = _pruner("taylor")
    lower = pruner.levels.lower
    found = pruner.levels.lower_batches(30, torch.Generator().manual_seed(0))
    assert [len(x) for x, _, _ in found] == [30, 30]
    x, target = (torch.cat([batch[part] for batch in found]) for part in (0, 1))
    order = [int((lower.x == row).all(dim=1).nonzero()[0, 0]) for row in x]
    assert sorted(order) == lower.position.tolist()
    assert order != sorted(order)
    assert torch.equal(target, lower.target[order])


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "fpgm", "random", "fairgrape"])
def test_scores_keep_the_trained_weights(criterion):
    _, initial, dense, pruned = _prune(criterion)
    expected = shrink(dense, find_units(dense), pruned.masks).state_dict()
    for name, value in pruned.network.state_dict().items():
        assert_allclose(value, expected[name], err_msg=name)
    assert not torch.equal(initial.layers[0].weight, dense.layers[0].weight)


def test_reconstruction_makes_up_for_the_units_that_leave():
    pruner, _, dense, pruned = _prune("obs", budget=80)
    plain = shrink(dense, find_units(dense), pruned.masks)
    x = pruner.levels.lower.x
    whole = dense(x)
    error, without = ((net(x) - whole).square().mean().item() for net in (pruned.network, plain))
    assert error < 0.5 * without


def test_a_lottery_removes_the_same_share_in_every_round(monkeypatch):
    from skfairprune.pruning import structure as module

    budgets = []
    select = module.select_units

    def spy(layout, worth, budget):
        budgets.append(budget)
        return select(layout, worth, budget)

    monkeypatch.setattr(module, "select_units", spy)
    _prune("lottery", budget=30)
    full = CHAIN.n_parameters()
    assert_allclose(np.array(budgets[1:]) / np.array(budgets[:-1]), (30 / full) ** (1 / 3))
    assert_allclose(budgets[-1], 30)


def test_the_same_seed_prunes_the_same():
    masks = [np.concatenate(_prune(name)[-1].masks) for name in ("bilevel", "bilevel", "random", "random")]
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[2], masks[3])


def test_the_removal_follows_the_schedule():
    pruner, network, seen = _pruner("bilevel"), _network(), []
    schedule = pruner.schedule
    pruner.schedule = lambda progress: seen.append(progress) or schedule(progress)
    pruner.prune(network, copy.deepcopy(network), UnitStructure(find_units(network), CHAIN), 60)
    n_steps = pruner.runner.n_steps(pruner.levels.lower, pruner.plan.bilevel)
    assert_allclose(seen, np.arange(1, n_steps + 1) / n_steps)


def test_it_is_the_worst_units_that_a_score_removes(monkeypatch):
    worth = [np.arange(12.0), np.arange(9.0)]
    monkeypatch.setitem(CRITERIA, "magnitude", partial(lambda given, data: given, worth))
    _, _, _, pruned = _prune("magnitude", budget=100)
    for mask in pruned.masks:
        assert np.all(np.diff(mask.astype(int)) >= 0)
