import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from skfairprune.modules import PiecewiseLinearEncoding, TabularNetwork
from skfairprune.pruning.budget import MEASURES, Chain
from skfairprune.pruning.report import pruning_report
from skfairprune.pruning.shrink import shrink
from skfairprune.pruning.units import find_units

CASES = [
    pytest.param((10, 6), (3, 2), id="two layers"),
    pytest.param((9,), (1,), id="one layer"),
    pytest.param((4, 5, 6), (4, 5, 6), id="nothing removed"),
    pytest.param((), (), id="no hidden layer"),
]


def _networks(dense, small):
    network = TabularNetwork(PiecewiseLinearEncoding([np.arange(8.0), np.arange(3.0)]), dense, 4)
    masks = [np.arange(n) < kept for n, kept in zip(dense, small, strict=True)]
    return network, shrink(network, find_units(network), masks)


def _measure(network):
    """Count units, parameters and the multiplications of one row, layer by layer, on the network."""
    rows = []

    def add(module, inputs, output):
        macs = sum(inputs[0].shape[1] for _ in range(output.shape[1]))
        rows.append((output.shape[1], sum(p.numel() for p in module.parameters()), macs))

    handles = [m.register_forward_hook(add) for m in network.modules() if isinstance(m, nn.Linear)]
    network(torch.zeros(1, 2))
    for handle in handles:
        handle.remove()
    return np.array(rows)


@pytest.mark.parametrize(("dense", "small"), CASES)
def test_report_counts_the_networks(dense, small):
    network, pruned = _networks(dense, small)
    report = pruning_report(Chain(9, dense, 4), Chain(9, small, 4))
    hidden = [f"hidden {i + 1}" for i in range(len(dense))]
    assert report.index.tolist() == [*hidden, "output", "total"]
    assert report.index.name == "layer"
    for when, measured in (("before", _measure(network)), ("after", _measure(pruned))):
        found = report[[f"units_{when}", f"parameters_{when}", f"macs_{when}"]]
        assert found.iloc[:-1].to_numpy().tolist() == measured.tolist()
        total = [measured[:-1, 0].sum(), *measured[:, 1:].sum(axis=0)]
        assert found.iloc[-1].tolist() == total
    parameters = [sum(p.numel() for p in n.parameters()) for n in (network, pruned)]
    assert_allclose(report.loc["total", "sparsity"], 1 - parameters[1] / parameters[0])


def test_sparsity_of_each_layer():
    report = pruning_report(Chain(9, (10, 6), 4), Chain(9, (3, 2), 4))
    # (9 + 1)·10 → (9 + 1)·3, (10 + 1)·6 → (3 + 1)·2, (6 + 1)·4 → (2 + 1)·4
    expected = [1 - 30 / 100, 1 - 8 / 66, 1 - 12 / 28, 1 - 50 / 194]
    assert_allclose(report["sparsity"], expected)


@pytest.mark.parametrize("measure", MEASURES)
def test_sparsity_follows_the_measure(measure):
    dense, small = Chain(9, (10, 6), 4, measure), Chain(9, (3, 2), 4, measure)
    report = pruning_report(dense, small)
    removed = 1 - report[f"{measure}_after"] / report[f"{measure}_before"]
    assert_allclose(report["sparsity"], removed)
    assert_allclose(report.loc["total", "sparsity"], 1 - small.cost() / dense.cost())


@pytest.mark.parametrize("measure", MEASURES)
def test_totals_are_the_sums_of_the_layers(measure):
    report = pruning_report(Chain(9, (10, 6), 4, measure), Chain(9, (3, 2), 4, measure))
    expected = report.iloc[:-1].sum().drop("sparsity")
    expected[["units_before", "units_after"]] -= 4  # the outputs are no hidden units
    assert report.loc["total"].drop("sparsity").equals(expected)


def test_prunable_inputs_have_a_row():
    report = pruning_report(Chain(9, (10, 6), 4, prune_inputs=True), Chain(5, (3, 2), 4, prune_inputs=True))
    assert report.index.tolist() == ["input", "hidden 1", "hidden 2", "output", "total"]
    assert report.loc["input", ["units_before", "units_after"]].tolist() == [9, 5]
    assert report.loc["input", "parameters_before":"macs_after"].tolist() == [0] * 4
    assert np.isnan(report.loc["input", "sparsity"])
    assert report.loc["total", ["units_before", "units_after"]].tolist() == [16, 5]
    assert report.loc["hidden 1", ["macs_before", "macs_after"]].tolist() == [90, 15]
    assert_allclose(report.loc["total", "sparsity"], 1 - (6 * 3 + 4 * 2 + 3 * 4) / 194)


def test_columns_are_in_reading_order():
    report = pruning_report(Chain(9, (10,), 4), Chain(9, (3,), 4))
    assert report.columns.tolist() == [
        *("units_before", "units_after", "parameters_before", "parameters_after"),
        *("macs_before", "macs_after", "sparsity"),
    ]
