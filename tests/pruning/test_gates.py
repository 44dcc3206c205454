from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skfairprune.modules import PiecewiseLinearEncoding, TabularNetwork
from skfairprune.pruning.budget import MEASURES, Chain, select_units
from skfairprune.pruning.gates import BudgetedGates, GatedNetwork
from skfairprune.pruning.units import find_units

CHAIN = Chain(20, (12, 9, 7), 4)


def _gates(chain=CHAIN, *, budget, temperature, seed=0, spread=1.0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    scores = [torch.tensor(spread * rng.normal(size=n), dtype=dtype) for n in chain.widths]
    gates = BudgetedGates(chain, scores)
    gates.budget, gates.temperature = float(budget), temperature
    return gates


def _count(chain, gates):
    """Count the cost at the soft widths, in numpy."""
    soft = [part.sum() for part in np.split(gates, np.cumsum(chain.widths)[:-1])]
    widths = [*(() if chain.prune_inputs else (chain.n_inputs,)), *soft, chain.n_outputs]
    if chain.measure == "units":
        return sum(widths[1:-1])
    bias = 1 if chain.measure == "parameters" else 0
    return sum((a + bias) * b for a, b in pairwise(widths))


def _least(chain):
    return chain.resized([1] * len(chain.widths)).cost()


@st.composite
def settings_of_gates(draw):
    sizes = tuple(draw(st.lists(st.integers(1, 30), min_size=1, max_size=3)))
    kind = draw(st.sampled_from([*((m, False) for m in MEASURES), ("parameters", True), ("macs", True)]))
    chain = Chain(draw(st.integers(1, 60)), sizes, draw(st.integers(1, 6)), *kind)
    share = draw(st.floats(0, 1))
    budget = _least(chain) + share * (chain.cost() - _least(chain))
    return _gates(
        chain,
        budget=budget,
        temperature=draw(st.floats(0.05, 1)),
        seed=draw(st.integers(0, 1000)),
        spread=draw(st.floats(0.1, 3)),
    )


@settings(deadline=None, max_examples=150)
@given(settings_of_gates())
def test_soft_widths_meet_the_budget(gates):
    found = gates().detach().numpy()
    assert np.all((found >= 0) & (found <= 1))
    assert_allclose(_count(gates.layout, found), gates.budget, rtol=1e-6)


@settings(deadline=None, max_examples=30)
@given(settings_of_gates())
def test_better_scores_have_larger_gates(gates):
    order = np.argsort(gates.scores.detach().numpy())
    assert np.all(np.diff(gates().detach().numpy()[order]) >= 0)


@settings(deadline=None, max_examples=30)
@given(settings_of_gates(), st.floats(-5, 5))
def test_only_differences_of_scores_count(gates, shift):
    before = gates().detach().numpy()
    with torch.no_grad():
        gates.scores.add_(shift)
    assert_allclose(gates().detach().numpy(), before, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.05, 0.3, 1.0])
def test_full_budget_opens_every_gate(temperature):
    gates = _gates(budget=CHAIN.n_parameters(), temperature=temperature)
    assert_allclose(gates().detach(), 1, atol=1e-9)


def test_gates_start_at_the_full_budget():
    gates = BudgetedGates(CHAIN, [torch.linspace(-2, 2, n, dtype=torch.float64) for n in CHAIN.sizes])
    assert_allclose(gates().detach(), 1, atol=1e-9)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_equal_scores_share_the_budget(temperature):
    gates = BudgetedGates(CHAIN, [torch.zeros(n, dtype=torch.float64) for n in CHAIN.sizes])
    gates.budget, gates.temperature = 150.0, temperature
    found = gates().detach().numpy()
    assert_allclose(found, found[0], atol=1e-12)
    assert_allclose(_count(CHAIN, found), 150, rtol=1e-9)


@pytest.mark.parametrize("sizes", [(4, 4), (16, 16)])
@pytest.mark.parametrize("temperature", [0.01, 1e-3, 1e-4])
def test_gates_that_are_nearly_a_mask_meet_the_budget(sizes, temperature):
    chain = Chain(20, sizes, 4)
    for seed in range(5):
        budget = 0.37 * chain.cost()
        gates = _gates(chain, budget=budget, temperature=temperature, seed=seed, spread=3.0)
        assert_allclose(_count(chain, gates().detach().numpy()), budget, rtol=1e-6)


def test_many_gates_are_tried_at_one_threshold_after_the_other(monkeypatch):
    gates = _gates(budget=150, temperature=0.1)
    together = gates().detach()
    monkeypatch.setattr("skfairprune.pruning.gates._GATES_AT_ONCE", 1)
    assert_allclose(gates().detach(), together, rtol=1e-12)


def test_single_precision():
    gates = _gates(budget=150, temperature=0.1, dtype=torch.float32)
    found = gates().detach()
    assert found.dtype == torch.float32
    assert_allclose(_count(CHAIN, found.double().numpy()), 150, rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
@pytest.mark.parametrize("kind", [("parameters", False), ("units", False), ("macs", True)])
def test_gradient_equals_finite_differences(kind, share, temperature):
    chain = replace(CHAIN, measure=kind[0], prune_inputs=kind[1])
    gates = _gates(chain, budget=share * chain.cost(), temperature=temperature)
    direction = torch.tensor(np.random.default_rng(1).normal(size=sum(chain.widths)))
    (found,) = torch.autograd.grad(direction @ gates(), gates.scores)
    step, expected = 1e-6, []
    for unit in range(len(gates.scores)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                gates.scores[unit] += sign * step
                values.append(float(direction @ gates()))
                gates.scores[unit] -= sign * step
        expected.append((values[0] - values[1]) / (2 * step))
    assert_allclose(found, expected, atol=2e-7 * max(1, np.abs(expected).max()))


def test_no_gradient_along_the_budget():
    """The count is constant: its gradient by the scores is 0, and so is that of a common shift."""
    gates = _gates(budget=150, temperature=0.5)
    found = gates()
    (count_gradient,) = torch.autograd.grad(gates._count(found), gates.scores, retain_graph=True)
    assert_allclose(count_gradient, 0, atol=1e-10)
    weights = torch.linspace(-1, 2, len(found), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(weights @ found, gates.scores)
    assert gradient.abs().max() > 0.01
    assert_allclose(gradient.sum(), 0, atol=1e-12)


@pytest.mark.parametrize("budget", [60, 150, 300])
@pytest.mark.parametrize("sizes", [(30,), (12, 9), (12, 9, 7)])
def test_cold_gates_are_the_selected_units(sizes, budget):
    chain = Chain(8, sizes, 2)  # with more outputs layers have a least width, which gates do not know
    rng = np.random.default_rng(budget)
    scores = np.split(rng.permutation(sum(sizes)) / 5.0, np.cumsum(sizes)[:-1])  # 0.2 apart
    gates = BudgetedGates(chain, [torch.tensor(s) for s in scores])
    gates.budget, gates.temperature = float(budget), 0.01
    found = np.split(gates().detach().numpy(), np.cumsum(sizes)[:-1])
    between = [(f > 1e-3) & (f < 1 - 1e-3) for f in found]
    assert sum(b.sum() for b in between) <= 1  # the boundary unit
    masks = select_units(chain, scores, budget)
    for f, mask in zip(found, masks, strict=True):
        # open gates stay; closed ones leave, but for cheaper units that fit in beside the boundary unit
        assert mask[f >= 1 - 1e-3].all()
        if len(sizes) == 1:
            assert not mask[f <= 1e-3].any()
    extra = sum(int((mask & (f <= 1e-3)).sum()) for f, mask in zip(found, masks, strict=True))
    assert extra <= (len(sizes) > 1) * 3


def _network(sizes=(6, 5), activation="relu", dropout=0.0, dtype=torch.float64):
    torch.manual_seed(0)
    encoding = PiecewiseLinearEncoding([np.linspace(-2, 2, 6), np.linspace(-1, 1, 4)])
    return TabularNetwork(encoding, sizes, 4, activation, dropout).to(dtype).eval()


def _rows(n_samples=17, dtype=torch.float64):
    return torch.tensor(np.random.default_rng(0).normal(size=(n_samples, 2)), dtype=dtype)


def _explicit(network, x, gates):
    """Gate the units' outputs in numpy."""
    hidden = network.encoding(x).numpy()
    gates = iter(np.split(gates, np.cumsum([layer.n_units for layer in find_units(network)])[:-1]))
    linear = [m for m in network.layers if isinstance(m, torch.nn.Linear)]
    for layer in linear:
        if layer is not linear[0]:
            hidden = np.tanh(hidden) * next(gates)
        hidden = hidden @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    return hidden


def test_units_are_the_hidden_layers():
    network = _network((6, 5, 3), dropout=0.1)
    layers = find_units(network)
    assert [layer.n_units for layer in layers] == [6, 5, 3]
    with_inputs = find_units(network, inputs=True)
    assert [layer.name for layer in with_inputs[1:]] == [layer.name for layer in layers]
    for layer, following in pairwise(with_inputs):
        assert layer.consumers[0].path == following.producers[0].path
    for layer in layers:
        assert network.get_submodule(layer.producers[0].path).out_features == layer.n_units
        assert network.get_submodule(layer.consumers[0].path).in_features == layer.n_units
    assert find_units(_network(())) == ()


@pytest.mark.parametrize("sizes", [(6,), (6, 5), (6, 1, 4)])
def test_gates_multiply_the_units_outputs(sizes):
    network, x = _network(sizes, "tanh"), _rows()
    gates = np.random.default_rng(2).uniform(size=sum(sizes))
    expected = _explicit(network, x, gates)
    gated = GatedNetwork(network, find_units(network))
    assert_allclose(gated(x, torch.tensor(gates)).detach(), expected, atol=1e-12)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_open_gates_are_the_network(dropout):
    network, x = _network(dropout=dropout), _rows()
    expected = network(x)
    gated = GatedNetwork(network, find_units(network))
    assert torch.equal(gated(x, torch.ones(11, dtype=torch.float64)), expected)
    assert torch.equal(network(x), expected)  # no gates outside the gated forward


def test_gates_get_gradients():
    network, x = _network((6, 5), "tanh"), _rows(5)
    gated = GatedNetwork(network, find_units(network))
    gates = torch.rand(11, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g: gated(x, g), gates)


def test_a_failing_forward_leaves_no_gates_behind():
    network, x = _network(), _rows()
    expected = network(x)
    gated = GatedNetwork(network, find_units(network))
    with pytest.raises(RuntimeError):
        gated(torch.ones(3, 1, dtype=torch.float64), torch.zeros(11, dtype=torch.float64))
    assert torch.equal(network(x), expected)


def test_release_removes_the_hooks():
    network, x = _network(), _rows()
    expected = network(x)
    gated = GatedNetwork(network, find_units(network))
    assert sum(len(m._forward_pre_hooks) for m in network.modules()) == 2
    assert gated.release() is network
    assert not any(m._forward_pre_hooks for m in network.modules())
    assert torch.equal(gated(x, torch.zeros(11, dtype=torch.float64)), expected)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh"])
def test_fold_equals_gating(activation):
    network, x = _network(activation=activation), _rows()
    gated = GatedNetwork(network, find_units(network))
    gates = torch.rand(11, dtype=torch.float64)
    gates[3] = 0
    expected = gated(x, gates).detach()
    gated.fold(gates)
    ones = torch.ones(11, dtype=torch.float64)
    assert_allclose(gated(x, ones).detach(), expected, atol=1e-12)
    assert_allclose(gated.release()(x).detach(), expected, atol=1e-12)
    assert all(p.requires_grad for p in network.parameters())
