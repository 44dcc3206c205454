import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import nn

from skfairprune.modules import PiecewiseLinearEncoding, TabularNetwork
from skfairprune.pruning.budget import Chain, parameter_budget, select_units

chains = st.builds(
    Chain,
    st.integers(1, 60),
    st.lists(st.integers(1, 12), min_size=1, max_size=3).map(tuple),
    st.integers(1, 6),
)


@st.composite
def selections(draw):
    chain = draw(chains)
    # few values: many ties
    worth = [np.array(draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)), float) for n in chain.sizes]
    least, full = _count(chain.n_inputs, [1] * len(chain.sizes), chain.n_outputs), _count_chain(chain)
    return chain, worth, draw(st.integers(least, full))


def _count(n_inputs, sizes, n_outputs):
    widths = [n_inputs, *sizes, n_outputs]
    return sum(a * b + b for a, b in pairwise(widths))


def _count_chain(chain):
    return _count(chain.n_inputs, chain.sizes, chain.n_outputs)


def _count_masks(chain, masks):
    return _count(chain.n_inputs, [int(mask.sum()) for mask in masks], chain.n_outputs)


@pytest.mark.parametrize("sizes", [(), (1,), (16,), (16, 8), (5, 7, 3)])
def test_chain_counts_the_parameters_of_the_network(sizes):
    network = TabularNetwork(PiecewiseLinearEncoding([np.arange(11.0), np.arange(4.0)]), sizes, 4)
    chain = Chain(13, sizes, 4)
    assert chain.n_parameters() == sum(p.numel() for p in network.parameters())
    linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
    assert chain.layer_parameters() == [sum(p.numel() for p in m.parameters()) for m in linear]


@settings(deadline=None, max_examples=60)
@given(chains)
def test_unit_cost_is_what_one_unit_less_saves(chain):
    for layer, size in enumerate(chain.sizes):
        smaller = [*chain.sizes[:layer], size - 1, *chain.sizes[layer + 1 :]]
        expected = _count_chain(chain) - _count(chain.n_inputs, smaller, chain.n_outputs)
        assert chain.unit_cost(layer) == expected
        assert chain.resized(smaller).n_parameters() == _count_chain(chain) - expected


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [(0.0, 992), (0.75, 248), (0.5, 496), (0.1, 892), (0.9, 99), (1 - 100 / 992, 100), (1 - 13 / 992, 13)],
)
def test_budget_is_the_share_that_stays(sparsity, expected):
    assert parameter_budget(Chain(7, (99,), 2), sparsity) == expected


@settings(deadline=None, max_examples=60)
@given(chains, st.floats(0, 1, exclude_max=True))
def test_budget_reaches_the_sparsity_or_says_which_it_can(chain, sparsity):
    full, least = _count_chain(chain), _count(chain.n_inputs, [1] * len(chain.sizes), chain.n_outputs)
    try:
        budget = parameter_budget(chain, sparsity)
    except ValueError as error:
        assert least > (1 - sparsity) * full - 1e-6
        text = str(error)
        assert f"with one unit left in each hidden layer, {least} of the {full} parameters" in text
        reachable = float(re.search(r"a sparsity of ([\d.]+)\. Ask", text)[1])
        assert parameter_budget(chain, reachable) >= least
        if reachable + 2e-6 < 1:
            with pytest.raises(ValueError, match="cannot be reached"):
                parameter_budget(chain, reachable + 2e-6)
    else:
        assert least <= budget <= full
        assert abs(budget - (1 - sparsity) * full) < 1
        assert 1 - budget / full >= sparsity - 1e-6


def test_unreachable_sparsity():
    with pytest.raises(
        ValueError,
        match=r"^sparsity=0\.999 cannot be reached.* 18 of the 118 parameters of hidden_layer_sizes=\(6, 6\) "
        r"remain, a sparsity of 0\.847457\..*larger hidden_layer_sizes",
    ):
        parameter_budget(Chain(7, (6, 6), 4), 0.999)


@settings(deadline=None, max_examples=60)
@given(selections())
def test_selection_keeps_to_the_budget(selection):
    chain, worth, budget = selection
    masks = select_units(chain, worth, budget)
    assert [mask.shape for mask in masks] == [w.shape for w in worth]
    assert all(mask.dtype == bool for mask in masks)
    assert all(mask.any() for mask in masks)
    assert _count_masks(chain, masks) <= budget


@settings(deadline=None, max_examples=60)
@given(selections())
def test_no_unit_can_come_back(selection):
    chain, worth, budget = selection
    masks = select_units(chain, worth, budget)
    for layer, mask in enumerate(masks):
        for unit in np.flatnonzero(~mask):
            more = [m.copy() for m in masks]
            more[layer][unit] = True
            assert _count_masks(chain, more) > budget


@settings(deadline=None, max_examples=60)
@given(selections())
def test_the_worthiest_units_of_each_layer_stay(selection):
    chain, worth, budget = selection
    for mask, w in zip(select_units(chain, worth, budget), worth, strict=True):
        order = np.lexsort((np.arange(len(w)), -w))  # of equals the earlier stays
        expected = np.zeros(len(w), bool)
        expected[order[: mask.sum()]] = True
        assert mask.tolist() == expected.tolist()


@settings(deadline=None, max_examples=60)
@given(selections())
def test_the_order_of_worth_runs_across_layers(selection):
    chain, worth, budget = selection
    masks = select_units(chain, worth, budget)
    units = [(w, -u, layer) for layer, ws in enumerate(worth) for u, w in enumerate(ws)]
    best = [max(unit for unit in units if unit[2] == layer) for layer in range(len(worth))]

    def count(kept):
        return _count(
            chain.n_inputs, [sum(k[2] == i for k in kept) for i in range(len(worth))], chain.n_outputs
        )

    # the smallest removal from the lower end, but for the best unit of each layer ...
    ends = ({u for u in units if u >= least or u in best} for least in [*sorted(units), (np.inf, 0, 0)])
    expected = next(kept for kept in ends if count(kept) <= budget)
    # ... and then what fits in again, the worthiest first
    for unit in sorted(set(units) - expected, reverse=True):
        if count(expected | {unit}) <= budget:
            expected.add(unit)
    assert {u for u in units if masks[u[2]][-u[1]]} == expected


def test_full_budget_removes_nothing():
    chain = Chain(5, (4, 3), 2)
    masks = select_units(chain, [np.zeros(4), np.zeros(3)], chain.n_parameters())
    assert all(mask.all() for mask in masks)


def test_least_budget_keeps_the_best_unit_of_each_layer():
    masks = select_units(Chain(5, (4, 3), 2), [np.array([1, 9, 2, 3]), np.array([5, 4, 6])], 6 + 2 + 4)
    assert [np.flatnonzero(mask).tolist() for mask in masks] == [[1], [2]]


def test_a_cheap_unit_comes_back_where_a_dear_one_does_not_fit():
    # a unit of layer 0 costs 22 at two units in layer 1, a unit of layer 1 costs 4 at two in layer 0
    chain = Chain(19, (3, 3), 1)
    worth = [np.array([9.0, 8.0, 1.0]), np.array([9.0, 8.0, 0.0])]
    assert chain.n_parameters() == 60 + 12 + 4
    # 76 → without the unit worth 0: 60 + 8 + 3 = 71 → without that worth 1: 40 + 6 + 3 = 49
    masks = select_units(chain, worth, 53)
    assert [mask.tolist() for mask in masks] == [[True, True, False], [True, True, True]]
    masks = select_units(chain, worth, 52)
    assert [mask.tolist() for mask in masks] == [[True, True, False], [True, True, False]]


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.9, 0.95])
def test_sparsity_of_a_selected_network_is_reached_and_not_overshot(sparsity):
    dense = Chain(120, (64, 64), 4)
    worth = [np.random.default_rng(0).normal(size=64) for _ in range(2)]
    masks = select_units(dense, worth, parameter_budget(dense, sparsity))
    reached = 1 - _count_masks(dense, masks) / dense.n_parameters()
    assert reached >= sparsity
    assert_allclose(reached, sparsity, atol=0.002)
