import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from skfairprune.modules import PiecewiseLinearEncoding, TabularNetwork
from skfairprune.pruning.budget import MEASURES, Chain, select_units

#: Measure, and whether inputs are prunable.
KINDS = [*((measure, False) for measure in MEASURES), ("parameters", True), ("macs", True)]


@st.composite
def chains(draw):
    sizes = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)))
    return Chain(draw(st.integers(1, 30)), sizes, draw(st.integers(1, 6)), *draw(st.sampled_from(KINDS)))


@st.composite
def selections(draw):
    chain = draw(chains())
    # few values: many ties
    worth = [np.array(draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)), float) for n in chain.widths]
    return chain, worth, draw(st.integers(_least(chain), _count(chain, chain.widths)))


def _count(chain, widths):
    """Count what a network of these prunable widths costs, unit by unit."""
    sizes = [*(() if chain.prune_inputs else (chain.n_inputs,)), *widths, chain.n_outputs]
    if chain.measure == "units":
        return sum(sizes[1:-1])
    bias = 1 if chain.measure == "parameters" else 0
    return sum(a * b + bias * b for a, b in pairwise(sizes))


def _least(chain):
    return _count(chain, [1] * len(chain.widths))


def _count_masks(chain, masks):
    return _count(chain, [int(mask.sum()) for mask in masks])


@pytest.mark.parametrize("sizes", [(), (1,), (16,), (16, 8), (5, 7, 3)])
def test_chain_counts_the_parameters_of_the_network(sizes):
    network = TabularNetwork(PiecewiseLinearEncoding([np.arange(11.0), np.arange(4.0)]), sizes, 4)
    chain = Chain(13, sizes, 4)
    assert chain.n_parameters() == sum(p.numel() for p in network.parameters())
    linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
    assert chain.layer_parameters() == [sum(p.numel() for p in m.parameters()) for m in linear]


def test_chain_counts_the_macs_of_the_network():
    # 13·5 + 5·3 + 3·4, and one multiplication for each weight
    assert Chain(13, (5, 3), 4).layer_macs() == [65, 15, 12]
    network = TabularNetwork(PiecewiseLinearEncoding([np.arange(11.0), np.arange(4.0)]), (5, 3), 4)
    weights = sum(p.numel() for name, p in network.named_parameters() if name.endswith("weight"))
    assert Chain(13, (5, 3), 4, "macs").cost() == weights


@settings(deadline=None, max_examples=60)
@given(chains())
def test_cost_follows_the_measure(chain):
    assert chain.cost() == _count(chain, chain.widths)
    assert chain.resized([1] * len(chain.widths)).cost() == _least(chain)


@settings(deadline=None, max_examples=60)
@given(chains())
def test_unit_cost_is_what_one_unit_less_saves(chain):
    for layer, size in enumerate(chain.widths):
        smaller = [*chain.widths[:layer], size - 1, *chain.widths[layer + 1 :]]
        expected = _count(chain, chain.widths) - _count(chain, smaller)
        assert chain.unit_cost(layer) == expected
        assert chain.resized(smaller).cost() == _count(chain, chain.widths) - expected


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [(0.0, 992), (0.75, 248), (0.5, 496), (0.1, 892), (0.9, 99), (1 - 100 / 992, 100), (1 - 13 / 992, 13)],
)
def test_budget_is_the_share_that_stays(sparsity, expected):
    assert Chain(7, (99,), 2).budget(sparsity) == expected


@pytest.mark.parametrize(("measure", "expected"), [("parameters", 99), ("units", 9), ("macs", 89)])
def test_budget_is_counted_in_the_measure(measure, expected):
    assert Chain(7, (99,), 2, measure).budget(0.9) == expected


@settings(deadline=None, max_examples=60)
@given(chains(), st.floats(0, 1, exclude_max=True))
def test_budget_reaches_the_sparsity_or_says_which_it_can(chain, sparsity):
    full, least = _count(chain, chain.widths), _least(chain)
    name = {"parameters": "parameters", "units": "hidden units", "macs": "MACs"}[chain.measure]
    kept = "one input and one unit" if chain.prune_inputs else "one unit"
    try:
        budget = chain.budget(sparsity)
    except ValueError as error:
        assert least > (1 - sparsity) * full - 1e-6
        text = str(error)
        assert f"with {kept} left in each hidden layer, {least} of the {full} {name}" in text
        reachable = float(re.search(r"a sparsity of ([\d.]+)\. Ask", text)[1])
        assert chain.budget(reachable) >= least
        if reachable + 2e-6 < 1:
            with pytest.raises(ValueError, match="cannot be reached"):
                chain.budget(reachable + 2e-6)
    else:
        assert least <= budget <= full
        assert abs(budget - (1 - sparsity) * full) < 1
        assert 1 - budget / full >= sparsity - 1e-6


def test_unreachable_sparsity():
    with pytest.raises(
        ValueError,
        match=r"^sparsity=0\.999 cannot be reached.* 18 of the 118 parameters of hidden_layer_sizes=\(6, 6\) "
        r"remain, a sparsity of 0\.847457\..*larger network",
    ):
        Chain(7, (6, 6), 4).budget(0.999)


def test_inputs_free_no_hidden_unit():
    with pytest.raises(ValueError, match="prune_inputs=True needs sparsity_measure"):
        Chain(7, (6, 6), 4, "units", prune_inputs=True)


@settings(deadline=None, max_examples=60)
@given(selections())
def test_selection_keeps_to_the_budget(selection):
    chain, worth, budget = selection
    masks = select_units(chain, worth, budget)
    assert [mask.shape for mask in masks] == [w.shape for w in worth]
    assert all(mask.dtype == bool for mask in masks)
    assert all(mask.any() for mask in masks)
    assert _count_masks(chain, masks) <= budget


@pytest.mark.parametrize(
    ("n_outputs", "prune_inputs", "budget", "expected"),
    [
        (2, False, 1000, [1, 1, 1]),
        (3, False, 1000, [2, 2, 1]),
        (4, False, 1000, [3, 3, 1]),
        (9, False, 1000, [3, 3, 1]),  # 3 at most
        (4, False, 51, [3, 3, 1]),  # 9·3 + 4·3 + 4·1 + 2·4 parameters
        (4, False, 50, [2, 2, 1]),
        (4, False, 20, [1, 1, 1]),
        (4, True, 1000, [1, 3, 3, 1]),
    ],
)
def test_least_widths(n_outputs, prune_inputs, budget, expected):
    chain = Chain(8, (6, 5, 1), n_outputs, prune_inputs=prune_inputs)
    assert chain.least_widths(budget) == expected


@settings(deadline=None, max_examples=60)
@given(selections())
def test_layers_are_as_wide_as_the_outputs_need_where_the_budget_allows(selection):
    chain, worth, budget = selection
    sizes = [int(mask.sum()) for mask in select_units(chain, worth, budget)]
    hidden = [i for i in range(len(sizes)) if i or not chain.prune_inputs]
    for floor in range(1, min(chain.n_outputs, 4)):
        least = [min(n, floor) if i in hidden else 1 for i, n in enumerate(chain.widths)]
        if _count(chain, least) <= budget:
            assert all(size >= n for size, n in zip(sizes, least, strict=True))


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
    best = []
    for layer, least in enumerate(chain.least_widths(budget)):
        best += sorted(unit for unit in units if unit[2] == layer)[-least:]

    def count(kept):
        return _count(chain, [sum(k[2] == i for k in kept) for i in range(len(worth))])

    # the smallest removal from the lower end, but for the best units of each layer ...
    ends = ({u for u in units if u >= least or u in best} for least in [*sorted(units), (np.inf, 0, 0)])
    expected = next(kept for kept in ends if count(kept) <= budget)
    # ... and then what fits in again, the worthiest first
    for unit in sorted(set(units) - expected, reverse=True):
        if count(expected | {unit}) <= budget:
            expected.add(unit)
    assert {u for u in units if masks[u[2]][-u[1]]} == expected


def test_full_budget_removes_nothing():
    chain = Chain(5, (4, 3), 2)
    masks = select_units(chain, [np.zeros(4), np.zeros(3)], chain.cost())
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
@pytest.mark.parametrize(("measure", "prune_inputs"), KINDS)
def test_sparsity_of_a_selected_network_is_reached_and_not_overshot(measure, prune_inputs, sparsity):
    dense = Chain(120, (64, 64), 4, measure, prune_inputs)
    worth = [np.random.default_rng(0).normal(size=n) for n in dense.widths]
    masks = select_units(dense, worth, dense.budget(sparsity))
    reached = 1 - _count_masks(dense, masks) / dense.cost()
    assert reached >= sparsity
    # by less than the cheapest unit that left; by parameters, and with inputs kept, that is .002
    small = dense.resized([int(mask.sum()) for mask in masks])
    cheapest = min(small.unit_cost(layer) + 1 for layer in range(len(masks)))
    assert reached - sparsity <= cheapest / dense.cost()
    assert (measure, prune_inputs) != ("parameters", False) or reached - sparsity <= 0.002
