"""Single weights: gates, criteria by hand, the choice under a budget and a pattern, zeros that stay."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from skfairprune.pruning.criteria import ScoringData
from skfairprune.pruning.gates import BudgetedGates
from skfairprune.pruning.report import weight_report
from skfairprune.pruning.weight_criteria import WEIGHT_CRITERIA
from skfairprune.pruning.weights import WeightLayer, WeightLayout, WeightStructure, find_weights
from tests.networks import zoo


def _rows(n_samples=20, n_features=6):
    return torch.randn(n_samples, n_features, generator=torch.Generator().manual_seed(1)).double()


def _network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()


def _structure(network, measure="parameters", pattern=None, x=None):
    layers = find_weights(network, _rows() if x is None else x)
    sizes = tuple(layer.n_units for layer in layers)
    return WeightStructure(layers, WeightLayout("Net", layers, sizes, 4, measure), pattern)


def _data(network, structure, initial=None):
    x = _rows()
    target = torch.arange(len(x)) % 4
    weight = torch.rand(len(x), generator=torch.Generator().manual_seed(2)).double()

    def objective(logits, target, weight):
        return (weight * nn.functional.cross_entropy(logits, target, reduction="none")).mean()

    return ScoringData(
        network=network,
        initial=network if initial is None else initial,
        layers=structure.layers,
        layout=structure.layout,
        batches=[(x[:12], target[:12], weight[:12]), (x[12:], target[12:], weight[12:])],
        head_labels=np.arange(4),
        n_groups=1,
        objective=objective,
        generator=torch.Generator().manual_seed(0),
    )


def test_weights_are_found_with_what_stays_beside_them():
    layers = find_weights(_network(), _rows())
    assert layers == (WeightLayer("0", (5, 6), 1, 5), WeightLayer("2", (4, 5), 1, 4))
    conv = zoo.Conv2dNetwork(64, 4)
    found = {layer.name: layer.n_places for layer in find_weights(conv, torch.rand(3, 64))}
    assert found["1"] == 64  # pixels


def test_layers_that_are_called_twice_are_left_out():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x):
            return self.b(self.a(self.a(x)))

    network = Twice().double()
    structure = _structure(network)
    assert [layer.name for layer in structure.layers] == ["b"]
    report = weight_report(network, structure.layout, structure.layout)
    assert report.loc["a", "note"].startswith("keeps all weights: called more than once")
    assert report.loc["b", "note"] == ""
    assert report.loc["network", "parameters_before"] == 42 + 28
    with pytest.raises(ValueError, match="no linear layer or convolution with weights of its own"):
        find_weights(nn.Sequential(nn.BatchNorm1d(6)).double(), _rows())


def test_layers_are_in_the_order_of_the_modules_whatever_calls_them_first():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(6, 4), nn.Linear(6, 6)

        def forward(self, x):
            return self.last(self.first(x))

    assert [layer.name for layer in find_weights(Backwards().double(), _rows())] == ["last", "first"]


def test_gates_multiply_the_weights():
    network, x = _network(), _rows()
    gated = _structure(network).gated(network)
    gates = torch.rand(50, dtype=torch.float64, requires_grad=True)
    by_hand = copy.deepcopy(network)
    with torch.no_grad():
        by_hand[0].weight.mul_(gates[:30].view(5, 6))
        by_hand[2].weight.mul_(gates[30:].view(4, 5))
    assert_allclose(gated(x, gates).detach(), by_hand(x).detach(), atol=1e-12)
    assert torch.autograd.gradcheck(lambda g: gated(x, g), gates)
    gated.fold(gates.detach())
    assert_allclose(gated.release()(x).detach(), by_hand(x).detach(), atol=1e-12)


def test_gates_are_at_the_budget():
    structure = _structure(_network())
    gates = BudgetedGates(structure.layout, [torch.randn(30).double(), torch.randn(20).double()])
    gates.budget = 29.0
    assert_allclose(float(gates().detach().sum()) + 9, 29.0, rtol=1e-5)


def test_criteria_by_hand():
    network, initial = _network(), _network()
    with torch.no_grad():
        network[0].weight.mul_(2)
    structure = _structure(network)
    data = _data(network, structure, initial)
    found = {name: WEIGHT_CRITERIA[name](data) for name in ("magnitude", "snip", "taylor")}
    assert_allclose(found["magnitude"][0], network[0].weight.detach().abs().flatten())

    def slopes(net, batch):
        x, target, weight = batch
        loss = data.objective(net(x), target, weight)
        return torch.autograd.grad(loss, [net[0].weight, net[2].weight])

    first, second = (slopes(initial, batch) for batch in data.batches)
    total = first[1] * 12 + second[1] * 8
    assert_allclose(found["snip"][1], (total * initial[2].weight).detach().abs().flatten())
    first, second = (slopes(network, batch) for batch in data.batches)
    squares = (first[0] ** 2 + second[0] ** 2) * network[0].weight ** 2
    assert_allclose(found["taylor"][0], squares.detach().flatten())


@pytest.mark.parametrize("weighted", [False, True])
def test_the_start_is_the_error_of_each_weight_alone(weighted):
    network, x = _network(), _rows()
    structure = _structure(network)
    weight = torch.rand(len(x), generator=torch.Generator().manual_seed(1)).double() ** 4
    weight = weight if weighted else torch.ones(len(x)).double()
    sample = [(x[:7], weight[:7]), (x[7:], weight[7:])]
    worth = structure.start(network, sample, lambda: None)
    outputs = network[0](x)
    errors = []
    for unit, column in np.ndindex(5, 6):
        without = copy.deepcopy(network[0])
        with torch.no_grad():
            without.weight[unit, column] = 0
        errors.append(float(weight @ (without(x) - outputs).detach().square().sum(1)))
    assert np.corrcoef(worth[0], np.log(errors))[0, 1] > 1 - 1e-9


@pytest.mark.parametrize("budget", [12, 13, 30, 59])
def test_the_weights_of_most_worth_stay_exactly_at_the_budget(budget):
    structure, rng = _structure(_network()), np.random.default_rng(0)
    worth = [rng.normal(size=30), rng.normal(size=20)]
    masks = structure.select(worth, budget)
    assert sum(int(mask.sum()) for mask in masks) + 9 == budget
    assert [mask.shape for mask in masks] == [(5, 6), (4, 5)]
    kept = np.concatenate([mask.ravel() for mask in masks])
    every = np.concatenate(worth)
    # All but the best of a layer, which stays in any case, are above all that leave.
    assert (every[kept] < every[~kept].max(initial=-np.inf)).sum() <= 1
    assert all(mask.any() for mask in masks)


def test_what_a_dear_weight_leaves_of_the_budget_goes_to_cheaper_ones():
    """A convolution at 64 places beside linear layers, by multiplications: less than one of it is left."""
    network, x = zoo.Conv2dNetwork(64, 4), torch.rand(3, 64)
    structure, rng = _structure(network, "macs", x=x), np.random.default_rng(0)
    budget = structure.layout.cost() // 5 + 3
    masks = structure.select([rng.normal(size=layer.n_units) for layer in structure.layers], budget)
    left = budget - structure.layout.resized([int(mask.sum()) for mask in masks]).cost()
    gone = [layer.n_places for layer, mask in zip(structure.layers, masks, strict=True) if not mask.all()]
    assert {1, 64} <= set(gone)
    assert 0 <= left < 1


@pytest.mark.parametrize("pattern", [(2, 4), (1, 2), (3, 4)])
def test_every_block_keeps_the_pattern(pattern):
    n, m = pattern
    structure, rng = _structure(_network(), pattern=pattern), np.random.default_rng(0)
    worth = [rng.normal(size=30), rng.normal(size=20)]
    masks = structure.select(worth, 59)
    for mask, scores in zip(masks, worth, strict=True):
        scores = scores.reshape(mask.shape)
        for row, values in zip(mask, scores, strict=True):
            for start in range(0, len(row), m):
                block = row[start : start + m]
                best = np.argsort(-values[start : start + m])[:n]
                assert block.sum() == min(n, len(block))
                assert block[best].all()


def test_a_pattern_runs_along_the_channels_of_a_convolution():
    network, x = zoo.Conv2dNetwork(64, 4), torch.rand(3, 64)
    structure = _structure(network, pattern=(1, 4), x=x)
    rng = np.random.default_rng(0)
    masks = structure.select([rng.normal(size=layer.n_units) for layer in structure.layers], 10_000)
    mask = next(m for m in masks if m.ndim == 4 and m.shape[1] == 8)
    assert (mask[:, :4].sum(axis=1) == 1).all()
    assert (mask[:, 4:].sum(axis=1) == 1).all()


@pytest.mark.parametrize("made", [zoo.PlainMLP, zoo.Conv2dNetwork, zoo.GroupedConvolutions])
def test_masked_equals_removed(made):
    torch.manual_seed(0)
    network, x = made(64, 4).eval(), torch.rand(9, 64)
    structure = _structure(network, x=x)
    rng = np.random.default_rng(0)
    masks = structure.select([rng.normal(size=layer.n_units) for layer in structure.layers], 300)
    gates = torch.from_numpy(np.concatenate([mask.ravel() for mask in masks])).float()
    expected = structure.gated(network)(x, gates).detach()
    small = structure.remove(network, masks)
    assert_allclose(small(x).detach(), expected, atol=1e-6)
    for layer, mask in zip(structure.layers, masks, strict=True):
        assert np.array_equal(small.get_submodule(layer.name).weight.detach().numpy() != 0, mask)


def test_zeros_stay_in_a_training():
    network = _network()
    structure = _structure(network)
    masks = [np.arange(30).reshape(5, 6) % 3 == 0, np.arange(20).reshape(4, 5) % 2 == 0]
    small = structure.remove(network, masks)
    with torch.no_grad():
        small[0].weight[0, 0] = 0  # a weight that stays, and starts at 0
    structure.hold(masks, lambda name: [small.get_parameter(name)])
    optimizer = torch.optim.AdamW(small.parameters(), lr=0.1, weight_decay=0.1)
    before = small[0].weight.detach().clone()
    for _ in range(5):
        optimizer.zero_grad()
        small(_rows()).square().sum().backward()
        optimizer.step()
    for number, mask in zip((0, 2), masks, strict=True):
        assert np.array_equal(small[number].weight.detach().numpy() != 0, mask)
    assert not torch.equal(before, small[0].weight)
