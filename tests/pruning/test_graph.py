"""Units of any network: what is found, that masked equals shrunk, what it costs, what is left out."""

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from skfairprune.networks.attention import replace_attention
from skfairprune.pruning.gates import BudgetedGates, GatedNetwork
from skfairprune.pruning.graph import find_coupled_units
from skfairprune.pruning.layout import measure_layout
from skfairprune.pruning.shrink import shrink
from skfairprune.pruning.units import remaining_units
from skfairprune.training.hypergradient import closed_form, first_order
from tests.networks import zoo

every_network = pytest.mark.parametrize("made", zoo.NETWORKS)


def _rows(n_samples=9):
    x = torch.rand(n_samples, 64, generator=torch.Generator().manual_seed(1))
    x[:, :2] = torch.arange(n_samples)[:, None] % 3
    return x


def _network(made, **params):
    """Return a network in eval mode whose norms have statistics of their own."""
    torch.manual_seed(0)
    network = replace_attention(made(64, 4, **params))
    for _ in range(3):
        network(_rows(50) + 0.1 * torch.rand(50, 64) * (torch.arange(64) > 1))
    return network.eval()


def _masks(layers, share, seed):
    rng = np.random.default_rng(seed)
    masks = []
    for layer in layers:
        mask = rng.uniform(size=layer.n_units) < share
        mask[rng.integers(layer.n_units)] = True
        masks.append(mask)
    return masks


@every_network
@pytest.mark.parametrize("share", [0.5, 0.1])
@pytest.mark.parametrize("seed", [0, 1])
def test_masked_equals_shrunk(made, share, seed):
    network, x = _network(made), _rows()
    layers, _ = find_coupled_units(network, x)
    masks = _masks(layers, share, seed)
    gated = GatedNetwork(network, layers)
    masked = gated(x, torch.from_numpy(np.concatenate(masks)).float()).detach()
    gated.release()
    small = shrink(network, layers, masks)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network.parameters())
    assert (masked - network(x)).abs().max() > 1e-4  # the gates do something
    assert_allclose(small(x).detach(), masked, atol=1e-5 * float(masked.abs().max()))


@every_network
def test_the_network_is_left_alone(made):
    network, x = _network(made), _rows()
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    layers, _ = find_coupled_units(network, x)
    measure_layout(network, layers, x, 4, "parameters")
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


@every_network
def test_fold_and_gates_for_each_row_equal_gating(made):
    network, x = _network(made), _rows()
    layers, _ = find_coupled_units(network, x)
    gates = torch.rand(sum(layer.n_units for layer in layers))
    gated = GatedNetwork(network, layers)
    expected = gated(x, gates).detach()
    assert_allclose(gated(x, gates.expand(len(x), -1)).detach(), expected, atol=1e-6)
    alone = torch.stack([gates, 1 - gates, gates])
    assert_allclose(gated(x[:3], alone).detach()[1:2], gated(x[1:2], 1 - gates).detach(), atol=1e-6)
    gated.fold(gates)
    assert_allclose(gated.release()(x).detach(), expected, atol=1e-5)


@every_network
def test_shrinking_in_steps_is_shrinking_at_once(made):
    network, x = _network(made), _rows()
    layers, _ = find_coupled_units(network, x)
    first = _masks(layers, 0.7, 0)
    left = remaining_units(layers, first)
    second = _masks(left, 0.5, 1)
    once = [mask.copy() for mask in first]
    for mask, kept in zip(once, second, strict=True):
        mask[mask] = kept
    steps = shrink(shrink(network, layers, first), left, second)
    assert torch.equal(steps(x), shrink(network, layers, once)(x))


@every_network
def test_costs_are_those_of_the_shrunk_network(made):
    network, x = _network(made), _rows(1)
    layers, _ = find_coupled_units(network, _rows())
    masks = _masks(layers, 0.6, 2)
    small = shrink(network, layers, masks)

    def counted(net):
        with FlopCounterMode(display=False) as counter:
            net(x)
        return sum(p.numel() for p in net.parameters()), counter.get_total_flops() // 2

    for measure, dense, left in zip(("parameters", "macs"), counted(network), counted(small), strict=True):
        if made is zoo.FTTransformer and measure == "macs":
            continue  # the products of queries and keys are no layer's
        layout = measure_layout(network, layers, x, 4, measure)
        removed = layout.cost() - layout.resized([int(mask.sum()) for mask in masks]).cost()
        assert removed == dense - left > 0


@every_network
@pytest.mark.parametrize("measure", ["parameters", "macs", "units"])
def test_the_cost_of_a_unit_is_the_slope_of_the_cost(made, measure):
    network, x = _network(made), _rows()
    layers, _ = find_coupled_units(network, x)
    layout = measure_layout(network, layers, x, 4, measure)
    widths = [torch.tensor(0.7 * width, dtype=torch.float64, requires_grad=True) for width in layout.widths]
    soft = layout.resized(widths)
    slopes = torch.autograd.grad(soft.cost() + 0 * sum(widths), widths)
    for number, slope in enumerate(slopes):
        assert_allclose(float(torch.as_tensor(soft.unit_cost(number)).detach()), float(slope))


@every_network
def test_gates_are_at_the_budget(made):
    network, x = _network(made), _rows()
    layers, _ = find_coupled_units(network, x)
    layout = measure_layout(network, layers, x, 4, "parameters")
    gates = BudgetedGates(layout, [torch.randn(width) for width in layout.widths])
    gates.budget = 0.4 * layout.cost()
    found = gates().detach()
    soft = layout.resized([part.sum() for part in found.split(gates.sizes)])
    assert_allclose(float(soft.cost()), gates.budget, rtol=1e-4)


def test_what_is_coupled():
    layers, left_out = find_coupled_units(_network(zoo.ResNetTabular), _rows())
    stream = max(layers, key=lambda layer: len(layer.consumers))
    assert {side.path for side in stream.producers} == {"first", "blocks.0.second", "blocks.1.second"}
    assert {side.path for side in stream.carriers} == {"blocks.0.norm", "blocks.1.norm", "norm"}
    assert set(left_out) == {"head"}
    layers, _ = find_coupled_units(_network(zoo.Conv2dNetwork), _rows())
    # A channel is several inputs of the linear layer behind the flattening.
    assert layers[-1].consumers[0].positions.shape[1] > 1
    layers, _ = find_coupled_units(_network(zoo.GroupedConvolutions), _rows())
    assert [layer.producers[0].positions.shape for layer in layers][:2] == [(4, 2), (8, 2)]
    layers, left_out = find_coupled_units(_network(zoo.FTTransformer), _rows())
    assert [layer.n_units for layer in layers if "attention" in layer.name] == [4, 4]
    assert "LayerNorm" in " ".join(left_out.values())


class _Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.d = nn.Linear(8, 4)
        self.c.weight = self.b.weight

    def forward(self, x):
        return self.d(torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x)))))))


class _Twice(_Tied):
    def forward(self, x):
        return self.d(torch.relu(self.b(torch.relu(self.b(torch.relu(self.a(x)))))))


class _FixedShape(_Tied):
    def forward(self, x):
        return self.d(torch.relu(self.a(x)).reshape(len(x), 2, 4).mean(dim=1).repeat(1, 2))


class _Softmax(_Tied):
    def __init__(self):
        super().__init__()
        self.c = nn.Identity()

    def forward(self, x):
        return self.d(torch.relu(self.b(torch.softmax(self.a(x), dim=1))))


class _Free(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.d = nn.Linear(64, 8), nn.Linear(8, 4)
        self.scale = nn.Parameter(torch.rand(8))

    def forward(self, x):
        return self.d(self.scale * torch.relu(self.a(x)))


class _Computed(_Tied):
    def __init__(self):
        super().__init__()
        nn.utils.parametrizations.weight_norm(self.a)

    def forward(self, x):
        return self.d(torch.relu(self.b(torch.relu(self.a(x)))))


class _Asserts(_FixedShape):
    def forward(self, x):
        hidden = torch.relu(self.a(x))
        assert x.dtype == torch.float32
        assert hidden.shape[1] == 8
        return self.d(hidden)


class _OwnDropout(_FixedShape):
    def forward(self, x):
        hidden = torch.relu(self.a(x))
        if self.training:
            hidden = hidden * (torch.rand(len(x), 8) > 0.2)
        return self.d(hidden)


class _Glu(_FixedShape):
    def __init__(self):
        super().__init__()
        self.d = nn.Linear(4, 4)

    def forward(self, x):
        return self.d(nn.functional.glu(self.a(x), dim=1))


@pytest.mark.parametrize(
    ("made", "names", "reason"),
    [
        (_OwnDropout, {"a"}, "fails in training: RuntimeError: The size of tensor"),
        (_Glu, {"a"}, "its places in network.d cannot be told"),
        (_Asserts, {"a"}, "without some of its outputs the network fails: AssertionError"),
        (_Tied, {"a", "b", "c"}, "shared with another layer"),
        (_Twice, {"b"}, "called 2 times"),
        (_FixedShape, {"a"}, "without some of its outputs the network fails"),
        (_Softmax, {"a"}, "is not the one where they are 0"),
        (_Free, {"a"}, "a parameter that is no layer's"),
        (_Computed, {"a"}, "computed from other parameters"),
    ],
)
def test_what_is_left_out_is_told(made, names, reason):
    torch.manual_seed(0)
    network = made()
    network.extra = nn.Sequential(nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 4))
    both = _Sum(network)
    layers, left_out = find_coupled_units(both, _rows())
    told = {f"network.{name}" for name in names}
    assert told <= set(left_out)
    assert not told & {side.path for layer in layers for side in layer.producers}
    assert any(layer.name == "network.extra.0" for layer in layers)
    assert any(reason in left_out[name] for name in told)


class _Sum(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) + self.network.extra(x)


class _OneAtATime(nn.Module):
    """Doubles what it says if both of two layers have lost units."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(64, 8), nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, x):
        scale = 2.0 if self.first.out_features < 8 and self.second.out_features < 6 else 1.0
        return scale * self.last(self.second(self.first(x).tanh()).tanh())


def test_units_that_can_leave_alone_and_not_together_stay_in_one_layer():
    layers, left_out = find_coupled_units(_OneAtATime(), _rows())
    assert [layer.name for layer in layers] == ["first"]
    assert left_out["second"].startswith("beside the units of other layers: without some of its outputs")


def test_a_network_without_units_is_refused():
    with pytest.raises(ValueError, match=r"Sequential has no unit that can be removed: 0: .*sparsity=0"):
        find_coupled_units(nn.Sequential(nn.Linear(64, 4)), _rows())


def test_a_network_without_a_graph_is_refused():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(64, 4)

        def forward(self, x):
            return torch.from_numpy(self.a(x).detach().numpy())

    with pytest.raises(ValueError, match=r"Cut has no unit.*: a: no differentiable operation"):
        find_coupled_units(Cut(), _rows())


class _Chunks(nn.Module):
    """The features of tokens are split and concatenated, where torch-pruning fails."""

    def __init__(self):
        super().__init__()
        self.first, self.wide = nn.Linear(4, 8), nn.Linear(8, 16)
        self.mid, self.head = nn.Linear(16, 12), nn.Linear(12, 4)

    def forward(self, x):
        a, b = self.wide(torch.relu(self.first(x.unflatten(1, (16, 4))))).chunk(2, dim=-1)
        return self.head(torch.relu(self.mid(torch.cat([a, torch.relu(b)], dim=-1))).mean(dim=1))


class _Recurrent(nn.Module):
    def __init__(self, kind, **params):
        super().__init__()
        self.before, self.first = nn.Linear(4, 8), nn.Linear(8, 6)
        self.recurrent = kind(6, 5, batch_first=True, **params)
        self.mid, self.head = nn.Linear(10 if params.get("bidirectional") else 5, 12), nn.Linear(12, 4)

    def forward(self, x):
        outputs, _ = self.recurrent(self.first(torch.relu(self.before(x.unflatten(1, (16, 4))))))
        return self.head(torch.relu(self.mid(outputs[:, -1])))


class _Cells(nn.Module):
    """One cell for two steps, on which torch-pruning does not end."""

    def __init__(self):
        super().__init__()
        self.before, self.first, self.cell = nn.Linear(64, 8), nn.Linear(8, 6), nn.LSTMCell(6, 6)
        self.mid, self.head = nn.Linear(6, 12), nn.Linear(12, 4)

    def forward(self, x):
        state = self.cell(self.first(torch.relu(self.before(x))))
        state = self.cell(state[0], state)
        return self.head(torch.relu(self.mid(state[0])))


class _Normalised(nn.Module):
    """A normalisation over neighbouring channels, on which torch-pruning does not end."""

    def __init__(self, normalise):
        super().__init__()
        self.normalise = normalise
        self.before, self.first, self.mid = nn.Linear(64, 64), nn.Conv2d(1, 6, 3), nn.Linear(54, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        channels = self.normalise(self.first(torch.relu(self.before(x)).unflatten(1, (1, 8, 8))))
        return self.head(torch.relu(self.mid(nn.functional.max_pool2d(channels, 2).flatten(1))))


def _over_neighbours(x):
    squares = nn.functional.pad(x.square().unsqueeze(1), (0, 0, 0, 0, 1, 0))
    means = nn.functional.avg_pool3d(squares, (2, 1, 1), stride=1).view(x.shape)
    return x / (1 + means)


@pytest.mark.parametrize(
    ("network", "names", "whole"),
    [
        (
            _Normalised(nn.LocalResponseNorm(2)),
            ["mid"],
            {"first": "local_response_norm reads", "before": "without some of its outputs"},
        ),
        (_Chunks(), ["first", "mid"], {"wide": "the function chunk reads its outputs"}),
        (_Cells(), ["before", "mid"], {"first": "lstm_cell reads", "cell": "recurrent layers stay whole"}),
        *(
            (_Recurrent(kind, **params), ["before", "mid"], {"first": told, "recurrent": "stay whole"})
            for kind, told in ((nn.GRU, "function gru reads"), (nn.LSTM, "LSTM"), (nn.RNN, "rnn_tanh reads"))
            for params in ({}, {"bidirectional": True}, {"num_layers": 2})
        ),
    ],
)
def test_where_torch_pruning_fails_only_what_it_touches_stays_whole(network, names, whole):
    found, left_out = find_coupled_units(network, _rows())
    assert [layer.name for layer in found] == names
    for path, reason in whole.items():
        assert reason in left_out[path]
    assert set(left_out) == {*whole, "head"}
    masks = _masks(found, 0.5, 0)
    gated = GatedNetwork(network, found)
    masked = gated(_rows(), torch.from_numpy(np.concatenate(masks)).float()).detach()
    gated.release()
    assert_allclose(shrink(network, found, masks)(_rows()).detach(), masked, atol=1e-5)


def test_parts_of_a_concatenation_keep_their_places():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.tokens = nn.Linear(64, 8), nn.Linear(4, 4)
            self.recurrent = nn.GRU(4, 5, batch_first=True)
            self.head = nn.Linear(13, 4)

        def forward(self, x):
            h = torch.relu(self.first(x))
            _, state = self.recurrent(self.tokens(x.unflatten(1, (16, 4))))
            return self.head(torch.cat([state[0], h], dim=1))

    (layer,), _ = find_coupled_units(Beside(), _rows())
    assert layer.consumers[0].positions.ravel().tolist() == list(range(5, 13))


CONCATENATIONS = {
    "behind": lambda x, h: torch.cat([x, *h], 1),
    "before": lambda x, h: torch.cat([*h, x], dim=1),
    "between": lambda x, h: torch.concat((h[0], x, h[1]), dim=-1),
    "some columns": lambda x, h: torch.cat([x[:, 32:].tanh(), *h, x[:, :32]], 1),
    "hstack": lambda x, h: torch.hstack([x, *h]),
    "axis": lambda x, h: torch.cat([x, *h], axis=1),
}


@pytest.mark.parametrize("together", CONCATENATIONS.values(), ids=CONCATENATIONS)
def test_units_beside_columns_of_the_row_keep_their_places(together):
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(64, 10), nn.Linear(64, 6)
            self.mid, self.head = nn.Linear(80, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.head(torch.relu(self.mid(together(x, [self.first(x).relu(), self.second(x).relu()]))))

    layers, _ = find_coupled_units(Wide(), _rows())
    assert [(layer.name, layer.n_units) for layer in layers] == [("first", 10), ("second", 6), ("mid", 8)]
    inputs = together(torch.zeros(1, 64), [torch.arange(1.0, 11)[None], torch.arange(11.0, 17)[None]])[0]
    for layer, start in zip(layers[:2], (1, 11), strict=True):
        (consumer,) = layer.consumers
        assert inputs[consumer.positions.ravel()].tolist() == list(range(start, start + layer.n_units))


class Causal(nn.Module):
    """Zeros go before each sequence."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv1d(1, 8, 3), nn.Conv1d(8, 7, 3), nn.Conv1d(7, 4, 3)

    def forward(self, x):
        def pad(h):
            return torch.cat([h.new_zeros(h.shape[0], h.shape[1], 2), h], 2)

        return self.head(pad(self.second(pad(self.first(pad(x[:, None])).relu())).relu())).mean(2)


class Shifted(nn.Module):
    """Each token sees the one before."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 8), nn.Linear(8, 7), nn.Linear(7, 4)

    def forward(self, x):
        h = self.first(x.unflatten(1, (16, 4))).relu()
        h = torch.cat([torch.zeros_like(h[:, :1]), h[:, :-1]], 1)
        return self.head(self.second(h).relu()).mean(1)


class Accumulated(nn.Module):
    """What is concatenated starts from nothing, and is given by name."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 8), nn.Linear(8, 7), nn.Linear(7, 4)

    def forward(self, x):
        h = torch.cat([torch.tensor([], dtype=x.dtype), self.first(x).relu()], 1)
        return self.head(self.second(torch.cat(tensors=[h, x[:, :0]], dim=1)).relu())


@pytest.mark.parametrize("made", [Causal, Shifted, Accumulated])
def test_what_is_put_before_channels_leaves_them_prunable(made):
    layers, _ = find_coupled_units(made(), _rows())
    assert [(layer.name, layer.n_units) for layer in layers] == [("first", 8), ("second", 7)]


def test_channels_beside_the_image_keep_their_places():
    class Images(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(1, 4, 1), nn.Conv2d(5, 7, 3), nn.Linear(7, 4)

        def forward(self, x):
            x = x.reshape(x.shape[0], 1, 8, 8)
            return self.head(self.second(torch.cat([x, self.first(x)], 1)).relu().mean((2, 3)))

    layers, _ = find_coupled_units(Images(), _rows())
    assert [layer.name for layer in layers] == ["first", "second"]
    assert layers[0].consumers[0].positions.ravel().tolist() == [1, 2, 3, 4]


def test_a_network_of_a_recurrent_layer_alone_is_refused():
    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent, self.head = nn.GRU(64, 5), nn.Linear(5, 4)

        def forward(self, x):
            return self.head(self.recurrent(x)[0])

    with pytest.raises(
        ValueError, match=r"recurrent: recurrent layers stay whole.*Give a network with hidden"
    ):
        find_coupled_units(Alone(), _rows())


def test_a_network_that_torch_pruning_follows_in_circles_is_refused():
    with pytest.raises(ValueError, match="counts more channels than there are"):
        find_coupled_units(_Normalised(_over_neighbours), _rows())


def test_where_all_else_fails_the_heads_are_left(monkeypatch):
    import torch_pruning

    def fail(*args, **kwargs):
        raise TypeError("lost")

    monkeypatch.setattr(torch_pruning.DependencyGraph, "build_dependency", fail)
    layers, left_out = find_coupled_units(_network(zoo.FTTransformer), _rows())
    assert [layer.name for layer in layers] == ["blocks.0.attention", "blocks.1.attention"]
    assert "torch-pruning cannot follow the network's operations (TypeError: lost)" in left_out["head"]


def test_dimensions_of_embeddings_are_units():
    layers, _ = find_coupled_units(_network(zoo.EmbeddingNetwork), _rows())
    found = {layer.name: layer for layer in layers if "embeddings" in layer.name}
    for number in (0, 1):
        (consumer,) = found[f"embeddings.{number}"].consumers
        assert consumer.path == "layers.0"
        assert consumer.positions.tolist() == [[4 * number + unit] for unit in range(4)]


class _SharedEmbedding(nn.Module):
    """One embedding for two columns, whose outputs are flattened, or first normalised."""

    def __init__(self, normalised):
        super().__init__()
        self.embedding = nn.Embedding(3, 5)
        self.norm = nn.LayerNorm(5) if normalised else nn.Identity()
        self.a, self.b = nn.Linear(10, 8), nn.Linear(8, 4)

    def forward(self, x):
        return self.b(torch.relu(self.a(self.norm(self.embedding(x[:, :2].long())).flatten(1))))


def test_an_embedding_of_several_columns():
    layers, _ = find_coupled_units(_SharedEmbedding(False), _rows())
    assert layers[0].consumers[0].positions.tolist() == [[unit, unit + 5] for unit in range(5)]
    _, left_out = find_coupled_units(_SharedEmbedding(True), _rows())
    assert left_out["embedding"] == "no linear layer reads its outputs as they are"


def test_a_forward_pass_with_a_precision_of_its_own():
    class Projected(nn.Sequential):
        def forward(self, x):
            return super().forward(x @ torch.eye(64))  # float32, whatever the weights are

    network = Projected(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
    layers, _ = find_coupled_units(network, _rows())
    assert [layer.n_units for layer in layers] == [8]


def test_the_closed_form_of_a_grouped_convolution():
    network, x = _network(zoo.GroupedConvolutions).double(), _rows().double()
    layers, _ = find_coupled_units(network, x)
    gated = GatedNetwork(network, layers)
    gates = torch.rand(sum(layer.n_units for layer in layers), dtype=torch.float64) + 0.1
    parameters = dict(gated.named_parameters())

    def loss(scale):
        def value(gates, parameters):
            return scale * torch.func.functional_call(gated, dict(parameters), (x, gates)).square().sum()

        return value

    columns = {f"network.{path}.weight": where for path, where in gated.columns.items()}
    upper, lower = loss(1.0), loss(0.3)
    found = closed_form(upper, lower, gates, parameters, consumers=columns, damping=0.5)
    expected = first_order(upper, gates, parameters)
    start = 0
    for layer in layers:
        for path, positions in layer.consumers:
            module = network.get_submodule(path)
            slopes = [
                torch.autograd.grad(value(gates, parameters), module.weight)[0] for value in (upper, lower)
            ]
            product = slopes[0] * slopes[1]
            for unit, places in enumerate(positions):
                for place in places:
                    # Of a grouped convolution the outputs of one group read an input.
                    n_groups = getattr(module, "groups", 1)
                    n_read, n_outputs = product.shape[1], len(product) // n_groups
                    group = int(place) // n_read
                    part = product[group * n_outputs : (group + 1) * n_outputs, int(place) % n_read].sum()
                    expected[start + unit] -= part.detach() / gates[start + unit] / 0.5
        start += layer.n_units
    assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_a_softmax_at_the_end_hides_nothing(scale):
    class Sums(_Tied):
        def __init__(self):
            super().__init__()
            self.c = nn.Identity()

        def forward(self, x):
            return torch.softmax(self.d(torch.relu(self.b(torch.relu(self.a(x)).cumsum(1)))), dim=1)

    torch.manual_seed(0)
    layers, left_out = find_coupled_units(Sums(), scale * _rows(30))
    assert [layer.name for layer in layers] == ["b"]
    assert "is not the one where they are 0" in left_out["a"]


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Linear(64, 16), nn.GLU(), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)),
        (
            nn.Unflatten(1, (2, 32)),
            nn.Conv1d(2, 2, 3, padding=1, groups=2),
            nn.Conv1d(2, 8, 1),
            nn.Flatten(),
            nn.Linear(256, 16),
            nn.ReLU(),
            nn.Linear(16, 4),
        ),
    ],
)
def test_what_the_graph_misreads_stays_whole(layers):
    torch.manual_seed(0)
    network = nn.Sequential(*layers).eval()
    found, _ = find_coupled_units(network, _rows())
    masks = _masks(found, 0.5, 0)
    gated = GatedNetwork(network, found)
    masked = gated(_rows(), torch.from_numpy(np.concatenate(masks)).float()).detach()
    gated.release()
    assert_allclose(shrink(network, found, masks)(_rows()).detach(), masked, atol=1e-5)
