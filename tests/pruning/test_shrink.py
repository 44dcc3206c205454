import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import nn

from skfairprune.modules import ACTIVATIONS, PiecewiseLinearEncoding, TabularNetwork
from skfairprune.pruning.budget import Chain
from skfairprune.pruning.gates import GatedNetwork
from skfairprune.pruning.shrink import shrink
from skfairprune.pruning.units import find_units

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def _network(sizes, activation="relu", dropout=0.0, dtype=torch.float64, n_columns=2, n_outputs=4):
    encoding = PiecewiseLinearEncoding([np.linspace(-2, 2, 4 + j) for j in range(n_columns)])
    return TabularNetwork(encoding, sizes, n_outputs, activation, dropout).to(dtype)


@st.composite
def cases(draw):
    sizes = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    n_columns = draw(st.integers(1, 4))
    torch.manual_seed(draw(st.integers(0, 1000)))
    network = _network(
        sizes,
        draw(st.sampled_from(list(ACTIVATIONS))),
        draw(st.sampled_from([0.0, 0.3])),
        draw(st.sampled_from(list(TOLERANCE))),
        n_columns,
        draw(st.integers(1, 5)),
    ).eval()
    layers = find_units(network, inputs=draw(st.booleans()))
    masks = []
    for size in [layer.n_units for layer in layers]:
        mask = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
        mask[draw(st.integers(0, size - 1))] = True
        masks.append(mask)
    x = 2 * torch.randn(draw(st.integers(1, 40)), n_columns)
    return network, layers, masks, x.to(network.layers[0].weight.dtype)


@settings(deadline=None, max_examples=120)
@given(cases())
def test_masked_equals_shrunk(case):
    network, layers, masks, x = case
    small = shrink(network, layers, masks)
    gated = GatedNetwork(network, layers)
    gates = torch.from_numpy(np.concatenate(masks)).to(x)
    expected = gated(x, gates).detach()
    gated.release()
    found = small(x).detach()
    assert found.dtype == x.dtype
    assert_allclose(found, expected, rtol=TOLERANCE[x.dtype], atol=TOLERANCE[x.dtype])
    sizes, inputs = [layer.n_units for layer in find_units(network)], len(masks) > len(find_units(network))
    dense = Chain(network.encoding.n_outputs, tuple(sizes), expected.shape[1], prune_inputs=inputs)
    chain = dense.resized([int(m.sum()) for m in masks])
    assert sum(p.numel() for p in small.parameters()) == chain.n_parameters()


@settings(deadline=None, max_examples=30)
@given(cases())
def test_the_network_itself_is_unchanged(case):
    network, layers, masks, x = case
    before = {name: value.clone() for name, value in network.state_dict().items()}
    expected = network(x)
    small = shrink(network, layers, masks)
    with torch.no_grad():
        for value in [*small.parameters(), *small.buffers()]:
            value.zero_()
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(network(x), expected)


@settings(deadline=None, max_examples=30)
@given(cases())
def test_shrinking_in_steps_is_shrinking_at_once(case):
    network, layers, masks, x = case
    small = network
    for position, mask in enumerate(masks):
        inputs = len(layers) > len(find_units(network))
        small = shrink(small, [find_units(small, inputs)[position]], [mask])
    assert torch.equal(small(x), shrink(network, layers, masks)(x))


def test_full_masks_copy_the_network():
    network = _network((5, 4))
    small = shrink(network, find_units(network), [np.ones(5, bool), np.ones(4, bool)])
    assert small is not network
    for (name, value), other in zip(network.named_parameters(), small.parameters(), strict=True):
        assert torch.equal(value, other), name
        assert value.data_ptr() != other.data_ptr()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_mode_type_and_gradients_are_kept(dtype, training):
    network = _network((5, 4), dropout=0.2, dtype=dtype).train(training)
    small = shrink(network, find_units(network), [np.arange(5) < 2, np.arange(4) % 2 == 0])
    assert small.training == training
    assert all(m.training == training for m in small.modules() if isinstance(m, nn.Dropout))
    assert all(p.dtype == dtype and p.requires_grad and p.is_leaf for p in small.parameters())
    small(torch.zeros(3, 2, dtype=dtype)).sum().backward()
    assert all(p.grad is not None for p in small.parameters())
    assert all(p.grad is None for p in network.parameters())


def test_weights_are_the_kept_rows_and_columns():
    network = _network((5, 4))
    masks = [np.array([1, 0, 1, 1, 0], bool), np.array([0, 1, 1, 0], bool)]
    small = shrink(network, find_units(network), masks)
    old, new = ([m for m in n.layers if isinstance(m, nn.Linear)] for n in (network, small))
    assert torch.equal(new[0].weight, old[0].weight[[0, 2, 3]])
    assert torch.equal(new[0].bias, old[0].bias[[0, 2, 3]])
    assert torch.equal(new[1].weight, old[1].weight[[1, 2]][:, [0, 2, 3]])
    assert torch.equal(new[1].bias, old[1].bias[[1, 2]])
    assert torch.equal(new[2].weight, old[2].weight[:, [1, 2]])
    assert torch.equal(new[2].bias, old[2].bias)


def test_layers_without_bias():
    network = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    small = shrink(network, find_units(network), [np.array([False, True, True, False])])
    assert [m.bias for m in small if isinstance(m, nn.Linear)] == [None, None]
    x = torch.randn(6, 3)
    hidden = torch.relu(x @ network[0].weight.T) * torch.tensor([0.0, 1, 1, 0])
    assert_allclose(small(x).detach(), (hidden @ network[2].weight.T).detach(), atol=1e-6)


def test_the_global_generator_is_not_used():
    network = _network((5, 4))
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    shrink(network, find_units(network), [np.arange(5) < 2, np.arange(4) < 2])
    assert torch.equal(torch.rand(1), expected)


def test_a_column_without_inputs_is_not_read():
    network = _network((5, 4), n_columns=3).eval()  # 3, 4 and 5 bins
    columns = network.encoding.columns.numpy()
    assert network.encoding.kept_columns.tolist() == [0, 1, 2]
    small = shrink(network, find_units(network, inputs=True)[:1], [(columns == 2) | (np.arange(12) == 1)])
    assert small.encoding.kept_columns.tolist() == [0, 2]
    assert small.encoding.n_outputs == small.layers[0].in_features == 6
    assert torch.equal(small.layers[0].weight, network.layers[0].weight[:, [1, 7, 8, 9, 10, 11]])
    x = torch.randn(9, 3, dtype=torch.float64)
    expected = small(x)
    x[:, 1] = torch.nan
    assert torch.equal(small(x), expected)
    assert network.encoding.n_outputs == 12


def test_inputs_need_an_encoding():
    with pytest.raises(ValueError, match="this Sequential has 0 encodings"):
        find_units(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), inputs=True)
