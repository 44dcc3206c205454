import copy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skfairprune.pruning.budget import Chain, select_units
from skfairprune.pruning.criteria import CRITERIA, ScoringData, _label_accuracy, fairgrape, fairprune
from skfairprune.pruning.shrink import shrink
from skfairprune.pruning.units import find_units
from skfairprune.training.objective import Objective

FROM_GATES = ["snip", "taylor", "fairgrape", "fairprune"]
FROM_ROWS = [*FROM_GATES, "obs"]


def _network(widths=(5, 6, 4, 4), seed=0, activation=nn.Tanh):
    torch.manual_seed(seed)
    layers = []
    for a, b in pairwise(widths[:-1]):
        layers += [nn.Linear(a, b), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1])).double().eval()


def _rows(n_samples=60, n_columns=5, n_joint=4, seed=0):
    rng = np.random.default_rng(seed)
    x, target = rng.normal(size=(n_samples, n_columns)), rng.integers(0, n_joint, n_samples)
    weight = rng.uniform(0.2, 2, n_samples)
    return torch.tensor(x), torch.tensor(target), torch.tensor(weight / weight.mean())


def _data(network, rows, n_groups=2, batch_size=25, objective=None, initial=None, head_labels=None):
    linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
    widths = [linear[0].in_features, *(m.out_features for m in linear)]
    return ScoringData(
        network=network,
        initial=network if initial is None else initial,
        layers=find_units(network),
        layout=Chain(widths[0], tuple(widths[1:-1]), widths[-1]),
        batches=list(zip(*(part.split(batch_size) for part in rows), strict=True)),
        head_labels=np.arange(widths[-1] // n_groups) if head_labels is None else head_labels,
        n_groups=n_groups,
        objective=Objective() if objective is None else objective,
        generator=torch.Generator().manual_seed(0),
    )


def _gated(network, unit, gate):
    """Copy a network, the outgoing weights of a unit (counted over the layers) multiplied by its gate."""
    network = copy.deepcopy(network)
    for layer in find_units(network):
        if unit < layer.n_units:
            with torch.no_grad():
                network.get_submodule(layer.consumers[0].path).weight[:, unit] *= gate
            break
        unit -= layer.n_units
    return network


@torch.no_grad()
def _slopes(network, x, target, weight, n_summed=1):
    """Differentiate each row's weighted loss by each gate, by central differences.

    The loss is that of the class; with n_summed groups, of its label, whose classes are next to each other.
    """
    n_units = sum(layer.n_units for layer in find_units(network))

    def losses(unit, gate):
        proba = torch.softmax(_gated(network, unit, gate)(x), dim=1)
        proba = torch.stack([part.sum(dim=1) for part in proba.split(n_summed, dim=1)], dim=1)
        return -weight * torch.log(proba[torch.arange(len(x)), target // n_summed])

    step = 1e-4
    columns = [(losses(u, 1 + step) - losses(u, 1 - step)) / (2 * step) for u in range(n_units)]
    return torch.stack(columns, dim=1).numpy()


def _group_means(data, slopes, power):
    """Average a power of the rows' own slopes over each group, of shape (n_groups, n_units_total)."""
    target = torch.cat([batch[1] for batch in data.batches]).numpy()
    weight = torch.cat([batch[2] for batch in data.batches]).numpy()
    own = slopes / weight[:, None]
    groups = [target % data.n_groups == g for g in range(data.n_groups)]
    return np.array([np.average(own[g] ** power, axis=0, weights=weight[g]) for g in groups])


def _per_parameter(data, cost):
    """Divide by the parameters that the shrunk network has less."""
    freed = [
        data.layout.n_parameters()
        - sum(p.numel() for p in shrink(data.network, [layer], [mask]).parameters())
        for layer in data.layers
        for mask in ~np.eye(layer.n_units, dtype=bool)
    ]
    return np.asarray(cost) / freed


def _set(linear, weight, bias=None):
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(weight, dtype=linear.weight.dtype))
        linear.bias.copy_(torch.zeros_like(linear.bias) if bias is None else torch.tensor(bias))


@pytest.mark.parametrize("n_groups", [1, 2, 4])
@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_scores_every_unit_and_leaves_the_network_alone(name, n_groups):
    network = _network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    worth = CRITERIA[name](_data(network, _rows(), n_groups))
    assert [(w.shape, w.dtype) for w in worth] == [((6,), np.float64), ((4,), np.float64)]
    assert all(np.isfinite(w).all() for w in worth)
    assert len(np.unique(np.concatenate(worth))) > 4
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(m._forward_pre_hooks for m in network.modules())
    assert all(p.grad is None for p in network.parameters())


@pytest.mark.parametrize("name", CRITERIA)
def test_the_generator_decides(name):
    data, other = (_data(_network(), _rows()) for _ in range(2))
    first, second = CRITERIA[name](data), CRITERIA[name](other)
    torch.manual_seed(99)
    third = CRITERIA[name](replace(data, generator=torch.Generator().manual_seed(1)))
    assert_array_equal(np.concatenate(first), np.concatenate(second))
    assert (name == "random") != np.array_equal(np.concatenate(first), np.concatenate(third))


@pytest.mark.parametrize("name", FROM_GATES)
def test_dropout_is_off_while_scoring_and_the_mode_comes_back(name):
    network = _network()
    dropping = nn.Sequential(*network[:2], nn.Dropout(0.5), *network[2:]).train()
    expected, found = (CRITERIA[name](_data(n, _rows())) for n in (network, dropping))
    assert_allclose(np.concatenate(found), np.concatenate(expected))
    assert dropping.training


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "random"])
def test_permuted_units_have_permuted_worths(name):
    network, order = _network(), torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = copy.deepcopy(network)
    with torch.no_grad():
        permuted[0].weight.copy_(network[0].weight[order])
        permuted[0].bias.copy_(network[0].bias[order])
        permuted[2].weight.copy_(network[2].weight[:, order])
    first, second = CRITERIA[name](_data(network, _rows()))
    found_first, found_second = CRITERIA[name](_data(permuted, _rows()))
    assert_allclose(found_first, first[order.numpy()], rtol=1e-9)
    assert_allclose(found_second, second, rtol=1e-9)


@pytest.mark.parametrize("name", FROM_ROWS)
def test_weights_are_repeats(name):
    network, (x, target, _) = _network(), _rows()
    times = torch.tensor(np.random.default_rng(1).integers(0, 4, len(x)))
    weight = times / times.double().mean()
    repeated = tuple(part.repeat_interleave(times, dim=0) for part in (x, target))
    ones = torch.ones(len(repeated[0]), dtype=torch.float64)
    weighted = CRITERIA[name](_data(network, (x, target, weight), batch_size=1000))
    plain = CRITERIA[name](_data(network, (*repeated, ones), batch_size=1000))
    assert_allclose(np.concatenate(weighted), np.concatenate(plain), rtol=1e-7)


@pytest.mark.parametrize("name", FROM_ROWS)
def test_single_precision_gives_the_same_worths(name):
    network, rows = _network(), _rows()
    single = copy.deepcopy(network).float()
    expected = CRITERIA[name](_data(network, rows))
    found = CRITERIA[name](_data(single, (rows[0].float(), rows[1], rows[2].float())))
    assert_allclose(np.concatenate(found), np.concatenate(expected), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", FROM_ROWS)
def test_a_unit_that_nothing_reads_is_worth_least(name):
    network = _network()
    with torch.no_grad():
        network[0].weight[2] *= 10  # large, and active
        network[2].weight[:, 2] = 0
    # The difference of two groups' saliencies may be negative for a unit that is read.
    first, _ = CRITERIA[name](_data(network, _rows(), n_groups=1))
    assert np.argmin(first) == 2


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "random"])
def test_selection_keeps_the_units_that_do_something(name):
    """Dead units without weights leave before all others, whatever the rule."""
    network, chain = _network((5, 9, 8, 4), seed=3, activation=nn.ReLU), Chain(5, (9, 8), 4)
    dead = [np.array([1, 4, 5, 8]), np.array([0, 2, 7])]
    with torch.no_grad():
        for linear, consumer, units in zip(network[:3:2], network[2::2], dead, strict=True):
            linear.weight.mul_(3)
            linear.weight[units] = linear.bias[units] = 0
            consumer.weight[:, units] = 0
    worth = CRITERIA[name](_data(network, _rows(), n_groups=1))
    masks = select_units(chain, worth, chain.resized((5, 5)).n_parameters())
    assert [np.flatnonzero(~mask).tolist() for mask in masks] == [units.tolist() for units in dead]


def test_magnitude_goes_by_the_incoming_weights_within_a_layer():
    network = _network((2, 3, 2, 2))
    _set(network[0], [[3, 4], [0, 6], [1, 1]], [0, 0, 99])
    _set(network[2], [[0.02, 0, 0], [0, 0.01, 0]])
    _set(network[4], [[1, 50], [1, 50]])
    first, second = CRITERIA["magnitude"](_data(network, _rows(n_columns=2, n_joint=2)))
    assert_allclose(first, [2 / 3, 1, 1 / 3])  # norms 5, 6 and 1.4; biases do not count
    assert_allclose(second, [1, 1 / 2])


def test_fpgm_lets_the_median_go_where_magnitude_lets_the_smallest_go():
    network = _network((1, 5, 2))
    _set(network[0], [[0], [1], [3], [7], [20]])  # summed distances 31, 28, 26, 30, 69
    data = _data(network, _rows(n_columns=1, n_joint=2))
    assert_allclose(CRITERIA["fpgm"](data)[0], np.array([4, 2, 1, 3, 5]) / 5)
    assert_allclose(CRITERIA["magnitude"](data)[0], np.array([1, 2, 3, 4, 5]) / 5)


def test_fpgm_lets_one_of_two_equal_units_go_first():
    """All pairs are as far apart but the twins 1 and 4, until a bias tells them apart."""
    network, weight = _network((4, 5, 2)), np.eye(5, 4)
    weight[4] = weight[1]
    data = _data(network, _rows(n_columns=4, n_joint=2))
    _set(network[0], weight)
    assert_allclose(CRITERIA["fpgm"](data)[0], np.array([5, 2, 4, 3, 1]) / 5)  # of equals the later first
    _set(network[0], weight, [0.0, 0, 0, 0, 30])
    assert CRITERIA["fpgm"](data)[0][4] == 1


@pytest.mark.parametrize("n_groups", [1, 4])
def test_snip_is_the_slope_of_the_initial_loss(n_groups):
    initial, rows = _network(seed=1), _rows()
    slope = np.abs(_slopes(initial, *rows).sum(axis=0))
    data = _data(_network(), rows, n_groups, initial=initial)
    assert_allclose(
        np.concatenate(CRITERIA["snip"](data)), _per_parameter(data, slope / slope.sum()), rtol=1e-5
    )


def test_snip_takes_all_rows_together():
    data = _data(_network(), _rows(), batch_size=7)
    whole = _data(_network(), _rows(), batch_size=1000)
    assert_allclose(*(np.concatenate(CRITERIA["snip"](d)) for d in (data, whole)))


def test_taylor_is_the_exact_change_of_a_loss_linear_in_the_gates():
    network = _network(activation=nn.Identity)

    def objective(logits, target, weight):
        return (weight * logits.gather(1, target[:, None]).squeeze(1)).mean()

    data = _data(network, _rows(), batch_size=20, objective=objective)
    expected = []
    with torch.no_grad():
        losses = np.array([objective(network(x), t, w) for x, t, w in data.batches])
        for layer in data.layers:
            for unit in range(layer.n_units):
                small = shrink(network, [layer], [np.arange(layer.n_units) != unit])
                without = np.array([objective(small(x), t, w) for x, t, w in data.batches])
                expected.append(np.mean((losses - without) ** 2))
    assert_allclose(np.concatenate(CRITERIA["taylor"](data)), _per_parameter(data, expected), rtol=1e-9)


def test_taylor_follows_the_objective():
    """The constraint's prices in the objective count."""
    objective = Objective(strength=2.0, temperature=0.5)
    positive = torch.tensor([0.0, 0.4, 0.65, 1.0], dtype=torch.float64)
    table = torch.stack([1 - positive, positive], dim=1)
    objective.set_tables(table, table)
    plain = CRITERIA["taylor"](_data(_network(), _rows()))
    priced = CRITERIA["taylor"](_data(_network(), _rows(), objective=objective))
    assert np.abs(np.concatenate(priced) / np.concatenate(plain) - 1).min() > 0.01


def _greedy(importance):
    """Choose by FairGRAPE's rule, written out; return the units in the order in which they are chosen."""
    left, kept = list(range(len(importance))), np.zeros(importance.shape[1])
    share, order = kept, []
    while left:
        group = np.argmin(share - importance.sum(axis=0) / importance.sum())
        order.append(max(left, key=lambda u: importance[u, group]))
        left.remove(order[-1])
        kept += importance[order[-1]]
        share = kept / kept.sum()
    return order


@pytest.mark.parametrize("batch_size", [20, 60])
@pytest.mark.parametrize("n_groups", [1, 2, 4])
def test_fairgrape_is_the_greedy_rule_on_the_groups_label_losses(n_groups, batch_size):
    network, rows = _network((5, 12, 9, 8)), _rows(n_joint=8)
    data = _data(network, rows, n_groups, batch_size)
    importance = np.zeros((n_groups, 21))
    for batch in zip(*(part.split(batch_size) for part in rows), strict=True):
        part = replace(data, batches=[batch])
        importance += _group_means(part, _slopes(network, *batch, n_groups), 1) ** 2
    found = fairgrape(data)
    for worth, part in zip(found, np.split(importance, [12], axis=1), strict=True):
        order = _greedy(part.T)
        assert np.argsort(-worth).tolist() == order
        assert_allclose(np.sort(worth), np.arange(1, len(worth) + 1) / len(worth))


def test_strata_are_no_part_of_the_label():
    """Joint classes (stratum, label, group), against the same ones ordered by label."""
    network, rows = _network((5, 12, 9, 8)), _rows(200, n_joint=8)
    by_label = np.arange(8).reshape(2, 2, 2).transpose(1, 0, 2).ravel()
    ordered = copy.deepcopy(network)
    with torch.no_grad():
        ordered[-1].weight.copy_(network[-1].weight[by_label])
        ordered[-1].bias.copy_(network[-1].bias[by_label])
    x, target, weight = rows[0], torch.from_numpy(np.argsort(by_label))[rows[1]], rows[2]
    data = _data(network, rows, n_groups=2, batch_size=200, head_labels=np.array([0, 1, 0, 1]))
    slopes = _slopes(ordered, x, target, weight, 4)
    importance = _group_means(data, slopes, 1) ** 2
    for worth, part in zip(fairgrape(data), np.split(importance, [12], axis=1), strict=True):
        assert np.argsort(-worth).tolist() == _greedy(part.T)
    with torch.no_grad():
        label = torch.softmax(ordered(x), dim=1).reshape(200, 2, 4).sum(dim=2).argmax(dim=1)
    hit, group = (label == target // 4).double().numpy(), target.numpy() % 2
    expected = [np.average(hit[group == g], weights=weight.numpy()[group == g]) for g in range(2)]
    assert_allclose(_label_accuracy(data), expected)


def test_fairgrape_with_one_group_has_the_order_of_taylor():
    x, target, _ = _rows()
    rows = x, target, torch.ones(len(x), dtype=torch.float64)
    data = _data(_network((5, 12, 9, 4)), rows, n_groups=1, batch_size=20)
    for worth, plain in zip(fairgrape(data), CRITERIA["taylor"](data), strict=True):
        assert_array_equal(np.argsort(worth), np.argsort(plain))


def test_fairgrape_keeps_the_unit_of_the_small_group_that_taylor_drops():
    """Group 0 alone uses units 0 to 2, group 1 alone unit 3; each raises the logits of label 1."""
    network = _network((2, 4, 4), activation=nn.ReLU)
    _set(network[0], [[1, 0], [1, 0], [1, 0], [0, 1]])
    _set(network[2], np.array([[-1], [-1], [1], [1]]) * [1.0, 0.9, 0.8, 0.7])
    label, group = np.tile([0, 1], 40), np.repeat([0, 1], [60, 20])
    x, target = torch.eye(2, dtype=torch.float64)[group], torch.tensor(2 * label + group)
    data = _data(network, (x, target, torch.ones(80, dtype=torch.float64)), batch_size=80)
    budget = Chain(2, (2,), 4).n_parameters()
    (plain,) = select_units(data.layout, CRITERIA["taylor"](data), budget)
    (fair,) = select_units(data.layout, fairgrape(data), budget)
    assert plain.tolist() == [True, True, False, False]
    assert fair.tolist() == [True, False, False, True]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_groups", [2, 4])
def test_fairprune_is_the_difference_of_fisher_informations(n_groups, seed):
    network, rows = _network((5, 6, 4, 8), seed), _rows(200, n_joint=8)
    data = _data(network, rows, n_groups, batch_size=60)
    fisher = _group_means(data, _slopes(network, *rows), 2)
    x, target, weight = (part.numpy() for part in rows)
    with torch.no_grad():
        joint = torch.softmax(network(rows[0]), dim=1).numpy().reshape(len(x), -1, n_groups)
    hit = joint.sum(axis=2).argmax(axis=1) == target // n_groups
    group = target % n_groups
    size = np.bincount(group, weight)
    worst = np.argmin(np.bincount(group, weight * hit) / size)
    others = np.arange(n_groups) != worst
    privileged = np.average(fisher[others], axis=0, weights=size[others])
    expected = (fisher[worst] - privileged / 3) / 2
    assert_allclose(np.concatenate(fairprune(data)), _per_parameter(data, expected), rtol=1e-5, atol=1e-9)


def test_fairprune_with_one_group_is_half_the_fisher_information():
    network, rows = _network(), _rows()
    data = _data(network, rows, n_groups=1)
    (fisher,) = _group_means(data, _slopes(network, *rows), 2)
    assert_allclose(np.concatenate(fairprune(data)), _per_parameter(data, fisher / 2), rtol=1e-5)


@pytest.mark.parametrize("worse", [0, 1])
def test_fairprune_keeps_the_unit_of_the_worse_off(worse):
    """Group 0 alone uses unit 0, group 1 alone unit 1; whose labels are wrong decides which stays."""
    network = _network((2, 2, 4), activation=nn.ReLU)
    _set(network[0], np.eye(2))
    _set(network[2], [[-1, -1], [-1, -1], [1, 1], [1, 1]])
    group = np.repeat([0, 1], 50)
    label = np.tile([1, 1, 1, 1, 0], 20)
    label[group == worse] = np.tile([1, 0, 0, 0, 0], 10)
    x, target = torch.eye(2, dtype=torch.float64)[group], torch.tensor(2 * label + group)
    data = _data(network, (x, target, torch.ones(100, dtype=torch.float64)), batch_size=100)
    (worth,) = fairprune(data)
    assert worth[worse] > 0 > worth[1 - worse]
    (mask,) = select_units(data.layout, [worth], Chain(2, (1,), 4).n_parameters())
    assert mask.tolist() == [worse == 0, worse == 1]


def test_random_is_uniform_and_apart_from_the_global_generator():
    data = _data(_network((5, 400, 300, 4)), _rows())
    state = torch.get_rng_state()
    worth = np.concatenate(CRITERIA["random"](data))
    assert torch.equal(state, torch.get_rng_state())
    assert_allclose(np.quantile(worth, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.06)
    assert_allclose(np.corrcoef(worth[1:], worth[:-1])[0, 1], 0, atol=0.1)
