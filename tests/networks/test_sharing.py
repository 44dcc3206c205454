"""Copies of a network use tensors of their own."""

from functools import partial

import pytest
import torch
from torch import nn

from skfairprune.networks.template import make_network


class _Called(nn.Module):
    """A network that calls something between its layers, and what may hang on one of them."""

    def __init__(self, n_features, n_outputs, change):
        super().__init__()
        self.first, self.out = nn.Linear(n_features, 16), nn.Linear(16, n_outputs)
        self.register_buffer("scale", torch.full((16,), 2.0))
        self.between = nn.Identity()
        self.called = self.between
        change(self)

    def forward(self, x):
        return self.out(torch.relu(self.called(self.first(x))))


class _Holder:
    def __init__(self, held):
        self.held = held

    def __call__(self, x):
        return self.held(x)


_GLOBAL = nn.Linear(16, 16)


def _inner(network):
    def inner(x):
        return x * network.scale

    return inner


def _changes(**changes):
    """Return what sets attributes of a network, each made of it, or registers hooks where it is a layer."""

    def change(network):
        for name, make in changes.items():
            if name.startswith("register"):
                getattr(network.first, name)(make(network))
            else:
                object.__setattr__(network, name, make(network))

    return change


@pytest.mark.parametrize("is_instance", [False, True])
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (_changes(register_forward_hook=lambda net: lambda m, i, out: out * net.scale), "using scale of the"),
        (_changes(register_forward_pre_hook=lambda net: lambda m, i: (i[0] * net.scale[:7],)), "using scale"),
        (_changes(called=lambda net: partial(lambda k, x: k * x * net.scale, 2)), "using scale of the"),
        (_changes(called=lambda net: _Holder(_inner(net))), "using scale of the"),
        (_changes(called=lambda net: _Holder(net.first.bias.mul)), r"using first.bias of the"),
        (
            _changes(called=lambda net: _Holder(nn.Linear(16, 16))),
            r"weights of the shapes \(16, 16\), \(16,\)",
        ),
        (_changes(called=lambda net: partial(_GLOBAL.forward)), r"weights of the shapes \(16, 16\), \(16,\)"),
        (
            _changes(called=lambda net: partial(torch.mul, torch.ones(16, requires_grad=True))),
            r"weights of the shapes \(16,\) that are trained",
        ),
    ],
)
def test_tensors_of_others_are_refused(change, match, is_instance):
    module = _Called(7, 2, change) if is_instance else lambda n, k: _Called(n, k, change)
    with pytest.raises(ValueError, match=match):
        make_network(module, 7, [0, 0, 1, 1], 2, torch.randn(9, 7))


class _Slope(nn.Module):
    """A layer that takes a slope of its own in the forward pass."""

    def forward(self, x):
        with torch.enable_grad():
            start = torch.zeros_like(x).requires_grad_()
            (slope,) = torch.autograd.grad(((x.detach() + start) ** 2).sum(), start)
            return x + 0.1 * slope


def _with_nothing(_, x):
    return torch.cat([x, torch.zeros(len(x), 0)], dim=1)


@pytest.mark.parametrize(
    "change",
    [
        _changes(register_forward_hook=lambda net: lambda m, i, out: out * 2),
        _changes(register_forward_hook=lambda net: lambda m, i, out: out * m.bias),
        _changes(register_forward_hook=lambda net: lambda m, i, out: out.to(net.scale.dtype)),
        _changes(register_forward_hook=lambda net: lambda m, i, out: out * net.scale.shape[0]),
        _changes(called=lambda net: _Holder(nn.Linear(16, 16).requires_grad_(False))),
        _changes(called=lambda net: partial(torch.mul, torch.ones(16))),
        _changes(called=lambda net: _Slope()),
        # Nothing is where nothing is.
        _changes(called=lambda net: partial(_with_nothing, net.register_buffer("none", torch.zeros(0)))),
    ],
)
def test_what_no_other_network_uses_is_taken(change):
    for module in (_Called(7, 2, change), lambda n, k: _Called(n, k, change)):
        made = make_network(module, 7, [0, 0, 1, 1], 2, torch.randn(9, 7))
        assert made(torch.randn(3, 7)).shape == (3, 4)


def test_a_hook_on_the_module_that_it_is_given_is_the_copys():
    network = _Called(7, 2, _changes(register_forward_hook=lambda net: lambda m, i, out: out * m.factor))
    network.first.register_buffer("factor", torch.tensor(3.0))
    rows = torch.randn(9, 7)
    made = make_network(network, 7, [0, 0, 1, 1], 2, rows)
    before = made(rows)
    network.first.factor.zero_()
    assert torch.equal(made(rows), before)
