import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from tests.networks import zoo


@pytest.mark.parametrize("network", zoo.NETWORKS)
def test_it_maps_rows_to_logits_and_learns_with_every_parameter(network):
    torch.manual_seed(0)
    x = torch.rand(30, 64)
    x[:, :2] = torch.randint(0, 3, (30, 2))
    net = network(64, 3)
    logits = net(x)
    assert logits.shape == (30, 3)
    torch.nn.functional.cross_entropy(logits, torch.arange(30) % 3).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        # the biases before a normalisation or of a key have no effect
        assert parameter.dim() < 2 or parameter.grad.abs().max() > 1e-7, name


@pytest.mark.parametrize("network", zoo.NETWORKS)
def test_a_network_is_small_and_grows_with_its_width(network):
    sizes = [sum(p.numel() for p in net.parameters()) for net in (network(64, 3), network(64, 3, width=32))]
    assert sizes[0] < 25_000
    assert sizes[0] < sizes[1]


def test_the_grouped_convolution_is_not_depthwise():
    (conv,) = [m for m in zoo.GroupedConvolutions(64, 2) if getattr(m, "groups", 1) > 1]
    assert 1 < conv.groups < conv.in_channels


def test_digits_are_drawn_by_the_seed():
    X, y, group = zoo.make_biased_digits(0)
    assert X.shape == (1797, 64)
    assert X.dtype == np.float32
    assert set(y) == {0, 1}
    assert set(group) == {"a", "b"}
    assert y[group == "b"].mean() - y[group == "a"].mean() > 0.3
    assert (X.reshape(-1, 8, 8)[group == "b", -1] == 1).all()
    for again, before in zip(zoo.make_biased_digits(0), (X, y, group), strict=True):
        assert_array_equal(again, before)
    assert (zoo.make_biased_digits(1)[0] != X).any()


def test_a_plain_network_errs_more_often_in_group_b():
    X, y, group = zoo.make_biased_digits(0)
    X, y = torch.tensor(X), torch.tensor(y)
    torch.manual_seed(0)
    net = zoo.PlainMLP(64, 2, width=32)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(15):
        for rows in torch.randperm(1200).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(X[rows]), y[rows]).backward()
            optimizer.step()
    net.eval()
    with torch.no_grad():
        wrong = (net(X[1200:]).argmax(1) != y[1200:]).numpy()
    rate = {g: wrong[group[1200:] == g].mean() for g in "ab"}
    assert rate["a"] < 0.06
    assert 0.03 < rate["b"] - rate["a"] < 0.2
