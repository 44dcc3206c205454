import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skfairprune.modules import PiecewiseLinearEncoding, TabularNetwork
from skfairprune.pruning import reconstruction
from skfairprune.pruning.budget import Chain
from skfairprune.pruning.reconstruction import (
    activation_gram,
    reconstruction_worth,
    refit,
    removal_errors,
    shrink_and_refit,
)
from skfairprune.pruning.units import find_units


def _network(sizes=(8, 6), dtype=torch.float64):
    torch.manual_seed(0)
    encoding = PiecewiseLinearEncoding([np.linspace(-2, 2, 6), np.linspace(-2, 2, 9), np.linspace(-1, 1, 4)])
    return TabularNetwork(encoding, sizes, 4).to(dtype).eval()


def _rows(n_samples=400, dtype=torch.float64, seed=0):
    rng = np.random.default_rng(seed)
    x = torch.tensor(rng.normal(size=(n_samples, 3)), dtype=dtype)
    return x, torch.tensor(rng.uniform(0.2, 3, n_samples), dtype=dtype)


def _sample(x, weight, batch_size=150):
    return list(zip(x.split(batch_size), weight.split(batch_size), strict=True))


def _activations(network, layer, x):
    """Compute the consumer's inputs, and a constant, layer by layer."""
    hidden = network.encoding(x)
    for module in network.layers:
        if module is network.get_submodule(layer.consumers[0].path):
            break
        hidden = module(hidden)
    return np.column_stack([hidden.detach().double().numpy(), np.ones(len(x))])


def _ridge(activations, weight):
    second = np.average(activations**2, axis=0, weights=weight)
    return reconstruction._RIDGE * second.mean()


def _consumer(network, layer):
    consumer = network.get_submodule(layer.consumers[0].path)
    return np.column_stack([consumer.weight.detach().numpy(), consumer.bias.detach().numpy()])


def _problem(position=0, sizes=(8, 6), edit=None):
    """Return activations, weights of the rows, the consumer's weights, and the Gram matrix."""
    network = _network(sizes)
    layer = find_units(network)[position]
    if edit is not None:
        with torch.no_grad():
            network.get_submodule(layer.producers[0].path).weight.mul_(5)  # units of distinct worth
            edit(
                network.get_submodule(layer.producers[0].path), network.get_submodule(layer.consumers[0].path)
            )
    x, weight = _rows()
    gram = activation_gram(network, layer.consumers[0].path, _sample(x, weight))
    return _activations(network, layer, x), weight.numpy(), _consumer(network, layer), gram


def _least_squares(activations, row_weight, weight, mask):
    """Refit by the ridge-augmented least-squares system, the ridge pulling to the old weights."""
    root = np.sqrt(row_weight / row_weight.sum())[:, None]
    ridge = np.sqrt(_ridge(activations, row_weight)) * np.eye(activations.shape[1])
    system = np.vstack([root * activations, ridge])
    kept = np.append(np.flatnonzero(mask), len(mask))
    solution = np.linalg.lstsq(system[:, kept], system @ weight.T)[0]
    return solution.T, ((system[:, kept] @ solution - system @ weight.T) ** 2).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("position", [0, 1])
def test_gram_is_the_weighted_mean_of_products(position, dtype):
    network = _network(dtype=dtype)
    layer = find_units(network)[position]
    x, weight = _rows(dtype=dtype)
    activations, row_weight = _activations(network, layer, x), weight.double().numpy()
    gram = activation_gram(network, layer.consumers[0].path, _sample(x, weight))
    expected = np.einsum("i,ij,ik->jk", row_weight / row_weight.sum(), activations, activations)
    expected += _ridge(activations, row_weight) * np.eye(len(expected))
    assert gram.dtype == np.float64
    assert_allclose(gram, expected, atol=1e-12 if dtype == torch.float64 else 1e-6)
    assert_allclose(gram[-1, -1], 1, rtol=1e-3)
    assert np.linalg.eigvalsh(gram)[0] > 0


def test_gram_weights_are_repeats_and_batches_do_not_matter():
    network, (x, _) = _network(), _rows()
    layer = find_units(network)[1]
    times = torch.tensor(np.random.default_rng(1).integers(1, 4, len(x)))
    weighted = activation_gram(network, layer.consumers[0].path, _sample(x, times.double(), 37))
    repeated = x.repeat_interleave(times, dim=0)
    ones = torch.ones(len(repeated), dtype=torch.float64)
    assert_allclose(
        weighted, activation_gram(network, layer.consumers[0].path, [(repeated, ones)]), atol=1e-12
    )
    assert_allclose(
        weighted, activation_gram(network, layer.consumers[0].path, [(x, 0.1 * times.double())]), atol=1e-12
    )


def test_gram_leaves_no_hook():
    network, rows = _network(), _rows()
    activation_gram(network, find_units(network)[0].consumers[0].path, [rows])
    assert not any(m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize("n_kept", [1, 3, 6])
@pytest.mark.parametrize("position", [0, 1])
def test_refit_is_least_squares(position, n_kept):
    activations, row_weight, weight, gram = _problem(position)
    n_units = activations.shape[1] - 1
    mask = np.zeros(n_units, bool)
    mask[np.random.default_rng(n_kept).permutation(n_units)[:n_kept]] = True
    expected, _ = _least_squares(activations, row_weight, weight, mask)
    found = refit(gram, weight, mask)
    assert found.shape == (len(weight), mask.sum() + 1)
    assert_allclose(found, expected, atol=1e-9)


def test_refit_beats_the_plain_removal():
    activations, row_weight, weight, gram = _problem()
    mask = np.arange(8) % 2 == 0
    kept = np.append(np.flatnonzero(mask), 8)

    def error(weights):
        missing = activations @ weight.T - activations[:, kept] @ weights.T
        return row_weight @ (missing**2).sum(axis=1)

    assert error(refit(gram, weight, mask)) < 0.5 * error(weight[:, kept])
    # no other weights do much better: only the ridge stands between
    plain = np.sqrt(row_weight)[:, None] * activations
    best = np.linalg.lstsq(plain[:, kept], plain @ weight.T)[0].T
    assert error(refit(gram, weight, mask)) <= 1.05 * error(best)


def test_refit_with_all_units_changes_nothing():
    _, _, weight, gram = _problem()
    assert_allclose(refit(gram, weight, np.ones(8, bool)), weight, atol=1e-11)


def test_refit_without_units_keeps_the_mean():
    activations, row_weight, weight, gram = _problem()
    found = refit(gram, weight, np.zeros(8, bool))
    mean = np.average(activations @ weight.T, axis=0, weights=row_weight)
    assert_allclose(found[:, 0], mean, rtol=0.01)


def test_refit_replaces_a_unit_by_its_double():
    def double(producer, consumer):
        producer.weight[3], producer.bias[3] = producer.weight[5], producer.bias[5]

    _, _, weight, gram = _problem(edit=double)
    found = refit(gram, weight, np.arange(8) != 3)
    expected = np.delete(weight, 3, axis=1)
    expected[:, 4] += weight[:, 3]
    assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("sizes", [(8, 6), (5, 9)])
def test_units_leave_in_the_order_of_brute_force(sizes, position):
    """Each in turn is the unit without which the refitted layer loses least."""
    activations, row_weight, weight, gram = _problem(position, sizes)
    n_units = activations.shape[1] - 1
    scale = np.einsum("oi,ij,oj->", weight, gram, weight)
    left, lost, worst, expected = np.ones(n_units, bool), 0.0, 0.0, np.zeros(n_units)
    for _ in range(n_units):
        losses = {}
        for unit in np.flatnonzero(left):
            mask = left.copy()
            mask[unit] = False
            losses[unit] = _least_squares(activations, row_weight, weight, mask)[1]
        unit = min(losses, key=losses.get)
        worst = max(worst, (losses[unit] - lost) / scale)
        expected[unit], lost, left[unit] = worst, losses[unit], False
    assert_allclose(removal_errors(gram, weight), expected, rtol=1e-6, atol=1e-12)


def test_very_many_units_leave_in_shares_about_as_well_as_one_by_one(monkeypatch):
    rng = np.random.default_rng(0)
    activations = np.maximum(rng.normal(size=(1000, 120)) @ rng.normal(size=(120, 120)), 0)
    activations = np.column_stack([activations, np.ones(1000)])
    weight, gram = rng.normal(size=(10, 121)), activations.T @ activations / 1000 + 0.1 * np.eye(121)

    def lost(errors, n_kept):
        kept = np.isin(np.arange(120), np.argsort(-errors)[:n_kept])
        change = weight.copy()
        change[:, np.append(kept, True)] -= refit(gram, weight, kept)
        return np.einsum("oi,ij,oj->", change, gram, change)

    singly = removal_errors(gram, weight)
    monkeypatch.setattr(reconstruction, "_SINGLY", 30)
    in_shares = removal_errors(gram, weight)
    assert not np.allclose(singly, in_shares)
    for n_kept in (60, 30, 10):
        assert lost(in_shares, n_kept) < 1.1 * lost(singly, n_kept)


def test_removal_errors_leave_their_arguments_alone():
    _, _, weight, gram = _problem()
    copies = weight.copy(), gram.copy()
    errors = removal_errors(gram, weight)
    assert_array_equal(weight, copies[0])
    assert_array_equal(gram, copies[1])
    assert_allclose(removal_errors(gram, 7 * weight), errors, rtol=1e-9)  # a share has no scale


@pytest.mark.parametrize("kind", ["dead", "unread", "double"])
def test_useless_units_are_the_cheapest(kind):
    def edit(producer, consumer):
        if kind == "dead":
            producer.weight[2], producer.bias[2] = 0, -1
        elif kind == "unread":
            consumer.weight[:, 2] = 0
        else:
            producer.weight[2], producer.bias[2] = producer.weight[6], producer.bias[6]

    _, _, weight, gram = _problem(edit=edit)
    errors = removal_errors(gram, weight)
    useless = {"dead": {2}, "unread": {2}, "double": {2, 6}}[kind]
    assert int(np.argmin(errors)) in useless
    assert errors.min() < {"dead": 1e-3, "unread": 1e-15, "double": 1e-3}[kind]
    assert np.sort(errors)[1] > 5 * errors.min()


@pytest.mark.parametrize("measure", ["parameters", "units", "macs"])
def test_worth_is_the_error_per_cost(measure):
    network, (x, weight) = _network(), _rows()
    layers, chain = find_units(network), Chain(16, (8, 6), 4, measure)
    costs = {"parameters": (16 + 1 + 6, 8 + 1 + 4), "units": (1, 1), "macs": (16 + 6, 8 + 4)}[measure]
    logs = []
    for layer, cost in zip(layers, costs, strict=True):
        gram = activation_gram(network, layer.consumers[0].path, _sample(x, weight))
        logs.append(np.log(removal_errors(gram, _consumer(network, layer)) / cost))
    found = reconstruction_worth(network, layers, chain, _sample(x, weight))
    assert [len(worth) for worth in found] == [8, 6]
    every, expected = np.concatenate(found), np.concatenate(logs)
    assert_allclose(every, (expected - expected.mean()) / expected.std(), atol=1e-9)
    assert_allclose([every.mean(), every.std()], [0, 1], atol=1e-9)


def test_worth_of_inputs_counts_a_hundredfold():
    network, (x, weight) = _network(), _rows()
    layers, sample = find_units(network, inputs=True), _sample(x, weight)
    found = reconstruction_worth(network, layers, Chain(16, (8, 6), 4, prune_inputs=True), sample)
    logs = []
    for layer, cost in zip(layers, (8 / 100, 16 + 1 + 6, 8 + 1 + 4), strict=True):
        gram = activation_gram(network, layer.consumers[0].path, sample)
        logs.append(np.log(removal_errors(gram, _consumer(network, layer)) / cost))
    expected = np.concatenate(logs)
    assert [len(worth) for worth in found] == [16, 8, 6]
    assert_allclose(np.concatenate(found), (expected - expected.mean()) / expected.std(), atol=1e-9)


def test_worth_of_a_network_without_any_use_is_finite():
    network, rows = _network(), _rows()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.layers[-1].bias.fill_(1.0)
        network.layers[2].bias.fill_(-1.0)
    worth = reconstruction_worth(network, find_units(network), Chain(16, (8, 6), 4), [rows])
    assert all(np.isfinite(w).all() for w in worth)


def _refitted(network, masks):
    x, weight = _rows()
    return shrink_and_refit(network, find_units(network), masks, _sample(x, weight))


def test_shrink_and_refit_is_better_than_the_mask_alone():
    network, (x, weight) = _network(), _rows()
    masks = [np.arange(8) % 2 == 0, np.arange(6) < 4]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    small = _refitted(network, masks)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    linear = [m for m in small.layers if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linear] == [(16, 4), (4, 4), (4, 4)]
    assert all(p.requires_grad for p in small.parameters())

    masked = copy.deepcopy(network)
    with torch.no_grad():
        for layer, mask in zip(find_units(masked), masks, strict=True):
            masked.get_submodule(layer.consumers[0].path).weight.mul_(torch.from_numpy(mask))

    @torch.no_grad()
    def error(other):
        return float(weight @ ((other(x) - network(x)) ** 2).sum(dim=1))

    assert error(small) < 0.2 * error(masked)


def test_last_layer_is_refitted_to_its_outputs_on_the_refitted_inputs():
    network, (x, weight) = _network(), _rows()
    first = _refitted(network, [np.arange(8) < 5, np.ones(6, bool)])
    both = _refitted(network, [np.arange(8) < 5, np.arange(6) < 3])
    layer = find_units(first)[1]
    expected, _ = _least_squares(
        _activations(first, layer, x), weight.numpy(), _consumer(first, layer), np.arange(6) < 3
    )
    assert_allclose(_consumer(both, find_units(both)[1]), expected, atol=1e-9)


def test_full_masks_leave_the_network_as_it_is():
    network = _network()
    assert _refitted(network, [np.ones(8, bool), np.ones(6, bool)]) is network


@pytest.mark.parametrize("kept", [[0, 3, 7, 12, 15], list(range(5))])
def test_dropped_inputs_are_made_up_for_by_weights_and_bias(kept):
    """The mean of a dropped input goes into the bias, what others tell of it into their weights."""
    network, (x, weight) = _network(), _rows()
    layers, masks = find_units(network, inputs=True), [np.isin(np.arange(16), kept), np.ones(8, bool)]
    masks.append(np.ones(6, bool))
    small = shrink_and_refit(network, layers, masks, _sample(x, weight))
    activations = _activations(network, layers[0], x)
    expected, _ = _least_squares(activations, weight.numpy(), _consumer(network, layers[0]), masks[0])
    assert_allclose(_consumer(small, layers[0]), expected, atol=1e-9)
    error = activations @ _consumer(network, layers[0]).T
    error -= activations[:, [*kept, 16]] @ _consumer(small, layers[0]).T
    before = np.average((activations @ _consumer(network, layers[0]).T) ** 2, axis=0, weights=weight.numpy())
    assert np.all(np.abs(np.average(error, axis=0, weights=weight.numpy())) < 0.01 * np.sqrt(before.mean()))
