import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import erf, expit, softmax
from torch import nn

from skfairprune.modules import (
    ACTIVATIONS,
    DecisionNetwork,
    PiecewiseLinearEncoding,
    TabularNetwork,
    find_knots,
)

KNOTS = [np.array([-1.0, 0.5, 2.0, 7.0]), np.array([0.0, 1.0]), np.array([3.0])]
N_BINS = 3 + 1 + 0

weighted_columns = st.lists(
    st.tuples(st.floats(-1e6, 1e6, width=32), st.integers(1, 5)), min_size=1, max_size=60
).map(lambda rows: (np.array([v for v, _ in rows]), np.array([w for _, w in rows])))


def _rows(n_samples=40, seed=0):
    rng = np.random.default_rng(seed)
    return np.column_stack(
        [rng.uniform(-4, 10, n_samples), rng.integers(0, 2, n_samples), rng.normal(3, 2, n_samples)]
    )


def _encode(x, knots):
    """Encode rows by the definition, column by column and bin by bin."""
    return np.column_stack(
        [
            np.clip((x[:, j] - left) / (right - left), 0, 1)
            for j, k in enumerate(knots)
            for left, right in pairwise(k)
        ]
    )


def _network(sizes=(7, 5), activation="relu", dropout=0.0, n_outputs=4, dtype=torch.float64):
    torch.manual_seed(0)
    return TabularNetwork(PiecewiseLinearEncoding(KNOTS), sizes, n_outputs, activation, dropout).to(dtype)


@settings(deadline=None)
@given(weighted_columns, st.integers(1, 12))
def test_knots_increase_and_cover_the_range(rows, n_bins):
    column, weight = rows
    knots = find_knots(column, weight.astype(float), n_bins)
    assert knots.dtype == np.float64
    assert 1 <= len(knots) <= n_bins + 1
    assert np.all(np.diff(knots) > 0)
    assert (knots[0], knots[-1]) == (column.min(), column.max())
    assert set(knots) <= set(column)


@settings(deadline=None)
@given(weighted_columns, st.integers(1, 12))
def test_weights_count_like_repeated_rows(rows, n_bins):
    column, weight = rows
    repeated = np.repeat(column, weight)
    assert_array_equal(
        find_knots(column, weight.astype(float), n_bins),
        find_knots(repeated, np.ones(len(repeated)), n_bins),
    )


@settings(deadline=None, max_examples=30)
@given(weighted_columns, st.integers(1, 12), st.randoms())
def test_knots_do_not_depend_on_the_order_of_the_rows(rows, n_bins, random):
    column, weight = rows
    order = random.sample(range(len(column)), len(column))
    assert_array_equal(
        find_knots(column, weight.astype(float), n_bins),
        find_knots(column[order], weight[order].astype(float), n_bins),
    )


@pytest.mark.parametrize("n_bins", [1, 5, 48])
@pytest.mark.parametrize("weighted", [False, True])
def test_inner_knots_are_weighted_quantiles(n_bins, weighted):
    rng = np.random.default_rng(0)
    column = rng.normal(size=1000)
    weight = rng.uniform(0.1, 3, 1000) if weighted else np.ones(1000)
    inner = np.argsort(column)[1:-1]
    expected = np.quantile(
        column[inner],
        np.arange(1, n_bins) / n_bins,
        weights=weight[inner],
        method="inverted_cdf",
    )
    knots = find_knots(column, weight, n_bins)
    assert_array_equal(knots, [column.min(), *expected, column.max()])


def test_spikes_cost_one_knot_each():
    rng = np.random.default_rng(0)
    column = np.concatenate([np.zeros(6000), np.full(2000, 5.0), rng.uniform(-10, 10, 2000)])
    knots = find_knots(column, np.ones(len(column)), n_bins=10)
    assert len(knots) == 11
    assert {0.0, 5.0} <= set(knots)
    # the other 7 inner knots share the rest evenly: plain quantiles would all be 0, 5 or near them
    others = np.setdiff1d(knots[1:-1], [0.0, 5.0])
    assert_allclose(others, np.linspace(-10, 10, 9)[1:-1], atol=0.6)


def test_the_weight_makes_the_spike():
    column = np.arange(100.0)
    weight = np.where(column == 37.0, 50.0, 1.0)
    assert 37.0 in find_knots(column, weight, n_bins=4)
    assert 37.0 not in find_knots(column, np.ones(100), n_bins=4)


@pytest.mark.parametrize("n_values", [1, 2, 9])
def test_few_values_are_all_knots(n_values):
    values = np.linspace(-3, 4, n_values)
    column = np.tile(values[::-1], 50)
    assert_array_equal(find_knots(column, np.ones(len(column)), n_bins=8), values)


def test_constant_column_has_no_bin():
    assert_array_equal(find_knots(np.full(5, 2.5), np.ones(5), 48), [2.5])
    encoding = PiecewiseLinearEncoding([np.array([2.5]), np.array([0.0, 1.0])])
    assert encoding.n_outputs == 1
    assert_array_equal(encoding(torch.tensor([[2.5, 0.25]])), [[0.25]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("values", [(0.0, 1.0), (-7.0, 12.5), (1.0, 2.0)])
def test_binary_column_becomes_0_and_1(values, dtype):
    column = np.random.default_rng(0).choice(values, 30)
    encoding = PiecewiseLinearEncoding([find_knots(column, np.ones(30), 48)]).to(dtype)
    encoded = encoding(torch.tensor(column[:, None], dtype=dtype))
    assert encoded.dtype == dtype
    assert_array_equal(encoded[:, 0], column == values[1])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_encoding_equals_its_definition(dtype, tolerance):
    encoding = PiecewiseLinearEncoding(KNOTS).to(dtype)
    x = torch.tensor(_rows(), dtype=dtype)
    before = x.clone()
    encoded = encoding(x)
    assert encoding.n_outputs == N_BINS
    assert encoded.shape == (len(x), N_BINS)
    assert encoded.dtype == dtype
    assert_allclose(encoded, _encode(_rows(), KNOTS), atol=tolerance)
    assert torch.equal(x, before)


def test_encoding_of_random_columns_equals_its_definition():
    rng = np.random.default_rng(1)
    columns = [rng.normal(size=300), rng.exponential(size=300) ** 3, rng.integers(0, 6, 300) / 3]
    knots = [find_knots(c, np.ones(300), 7) for c in columns]
    x = 3 * rng.normal(size=(200, 3))
    encoded = PiecewiseLinearEncoding(knots)(torch.tensor(x)).numpy()
    assert_allclose(encoded, _encode(x, knots), atol=1e-13)
    assert encoded.min() == 0
    assert encoded.max() == 1


@pytest.mark.parametrize("kept", [[0, 1, 2, 3], [2], [0, 3], [1, 2]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_selected_encoding_is_a_part_of_the_encoding(dtype, kept):
    encoding, x = PiecewiseLinearEncoding(KNOTS).to(dtype), torch.tensor(_rows(), dtype=dtype)
    expected = encoding(x)
    part = encoding.select(torch.tensor(kept))
    assert torch.equal(part(x), expected[:, kept])
    assert part.n_outputs == len(kept)
    assert torch.equal(encoding(x), expected)  # the encoding itself is unchanged


def test_kept_columns_are_those_with_a_bin():
    encoding = PiecewiseLinearEncoding(KNOTS)  # the third column is constant
    assert encoding.kept_columns.tolist() == [0, 1]
    assert encoding.select(torch.tensor([3])).kept_columns.tolist() == [1]


def test_encoding_is_constant_outside_the_knots():
    encoding = PiecewiseLinearEncoding(KNOTS)
    inside = torch.tensor([[-1.0, 0.0, 3.0], [7.0, 1.0, 3.0]], dtype=torch.float64)
    outside = torch.tensor([[-1e9, -0.1, -50.0], [1e9, 40.0, 50.0]], dtype=torch.float64)
    assert_array_equal(encoding(outside), encoding(inside))
    assert_array_equal(encoding(inside), [[0] * N_BINS, [1] * N_BINS])


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_linear_layer_on_the_encoding_is_any_piecewise_linear_function(data):
    draw = data.draw
    floats = st.floats(-10, 10)
    x = np.array(draw(st.lists(st.tuples(floats, floats), min_size=1, max_size=20)))
    knots, weight, expected = [], [], np.zeros(len(x))
    for column in x.T:
        gaps = draw(st.lists(st.floats(0.01, 5), min_size=1, max_size=6))
        k = draw(floats) + np.cumsum([0, *gaps])
        height = np.array(draw(st.lists(floats, min_size=len(k), max_size=len(k))))
        knots.append(k)
        weight.append(np.diff(height))
        expected += np.interp(column, k, height) - height[0]
    encoded = PiecewiseLinearEncoding(knots)(torch.tensor(x)).numpy()
    assert_allclose(encoded @ np.concatenate(weight), expected, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(), (1,), (6,), (7, 5), (3, 1, 4)])
def test_network_shapes(sizes, dtype):
    network = _network(sizes, dtype=dtype)
    widths = [N_BINS, *sizes, 4]
    linear = [m for m in network.modules() if isinstance(m, nn.Linear)]
    assert [m.weight.shape for m in linear] == list(zip(widths[1:], widths[:-1], strict=True))
    for n_samples in (1, 9):
        logits = network(torch.tensor(_rows(n_samples), dtype=dtype))
        assert logits.shape == (n_samples, 4)
        assert logits.dtype == dtype
        assert torch.isfinite(logits).all()


ACTIVATION_FORMULAS = {
    "relu": lambda z: np.maximum(z, 0),
    "gelu": lambda z: z * (1 + erf(z / np.sqrt(2))) / 2,
    "silu": lambda z: z * expit(z),
    "tanh": np.tanh,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_network_equals_the_explicit_computation(activation):
    network = _network(activation=activation, dropout=0.4).eval()
    hidden = _encode(_rows(), KNOTS)
    state = {name: value.numpy() for name, value in network.layers.state_dict().items()}
    layers = sorted({name.split(".")[0] for name in state}, key=int)
    for layer in layers:
        hidden = hidden @ state[f"{layer}.weight"].T + state[f"{layer}.bias"]
        if layer != layers[-1]:
            hidden = ACTIVATION_FORMULAS[activation](hidden)
    assert_allclose(network(torch.tensor(_rows())).detach(), hidden, atol=1e-12)


def test_dropout_acts_in_training_only():
    x = torch.tensor(_rows())
    network = _network(dropout=0.5)
    assert not torch.equal(network.train()(x), network(x))
    assert torch.equal(network.eval()(x), network(x))
    assert not any(isinstance(m, nn.Dropout) for m in _network(dropout=0.0).modules())


def test_only_weights_and_biases_are_trained():
    names = [name for name, _ in _network().named_parameters()]
    assert all(name.startswith("layers.") for name in names)
    assert {name.split(".")[-1] for name in names} == {"weight", "bias"}


@pytest.fixture
def decision_network():
    positive = np.random.default_rng(3).uniform(size=4)
    weights = torch.tensor(np.stack([1 - positive, positive]))
    return DecisionNetwork(_network(), weights)


def test_decision_network_gives_probabilities(decision_network):
    x = torch.tensor(_rows())
    joint = softmax(decision_network.network(x).detach().numpy(), axis=1)
    proba = decision_network(x).detach().numpy()
    assert_allclose(decision_network.joint_proba(x).detach(), joint, atol=1e-14)
    assert_allclose(proba, joint @ decision_network.output_weights.numpy().T, atol=1e-14)
    assert_allclose(proba.sum(axis=1), 1, atol=1e-14)
    assert proba.min() >= 0


def test_decision_network_stays_in_range_at_extreme_logits(decision_network):
    with torch.no_grad():
        decision_network.network.layers[-1].weight.mul_(1e6)
    proba = decision_network(torch.tensor(_rows())).detach().numpy()
    assert_allclose(proba.sum(axis=1), 1, atol=1e-14)
    assert np.all((proba >= 0) & (proba <= 1))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_equal_and_independent(decision_network, duplicate):
    x = torch.tensor(_rows())
    before = decision_network(x)
    other = duplicate(decision_network)
    assert torch.equal(other(x), before)
    with torch.no_grad():
        for value in [*other.parameters(), *other.buffers()]:
            value.add_(1)
    assert torch.equal(decision_network(x), before)


def test_state_dict_carries_knots_and_rule(decision_network):
    state = decision_network.state_dict()
    blank = DecisionNetwork(_network(), torch.zeros(2, 4, dtype=torch.float64))
    with torch.no_grad():
        for value in [*blank.parameters(), *blank.network.encoding.buffers()]:
            value.zero_()
    blank.load_state_dict(state)
    x = torch.tensor(_rows())
    assert torch.equal(blank(x), decision_network(x))
