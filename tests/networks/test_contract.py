"""What is asked of a network before it is trained."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import dropout
from torch.utils.checkpoint import checkpoint

from skfairprune import FairPrunedClassifier
from skfairprune.datasets import make_biased_classification
from skfairprune.networks.contract import check_behaviour, check_modules
from tests.networks import zoo

DATA = make_biased_classification(600, base_rates=(0.6, 0.2), random_state=0)
N_FEATURES = DATA.X.shape[1]


class _Net(nn.Module):
    """Two layers, with something between them or behind them."""

    def __init__(self, between=None, behind=None, n_outputs=2):
        super().__init__()
        self.first, self.out = nn.Linear(N_FEATURES, 16), nn.Linear(16, n_outputs)
        self.between = nn.Identity() if between is None else between
        self.behind = nn.Identity() if behind is None else behind

    def forward(self, x):
        return self.behind(self.out(self.between(torch.relu(self.first(x)))))


class _Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def _probe(n_samples=32):
    return torch.tensor(DATA.X[:n_samples], dtype=torch.float32)


def _fit(module):
    clf = FairPrunedClassifier(module, sparsity=0.5, max_epochs=3, random_state=0)
    return clf.fit(DATA.X, DATA.y, sensitive_features=DATA.sensitive_features)


@pytest.mark.parametrize(
    ("network", "match"),
    [
        (_Net(nn.BatchNorm1d(16, track_running_stats=False)), r"fails on one row alone.*batch norms between"),
        (
            nn.Sequential(
                nn.Unflatten(1, (1, N_FEATURES)),
                nn.Conv1d(1, 4, 3),
                nn.BatchNorm1d(4, track_running_stats=False),
                nn.Flatten(),
                nn.Linear(4 * (N_FEATURES - 2), 2),
            ),
            r"other outputs alone than among 32 rows.*batch norms 2 have no running statistics",
        ),
        (_Net(_Call(lambda x: x - x.mean(0))), r"other outputs alone.*a mean, a norm or a softmax over rows"),
        (_Net(_Call(lambda x: x / x.norm())), "other outputs alone"),
        (_Net(_Call(lambda x: x + x.roll(1, 0))), "other outputs alone"),
        (_Net(behind=_Call(lambda x: x.softmax(0))), "other outputs alone"),
        (_Net(_Call(lambda x: dropout(x, 0.5))), r"other outputs alone.*does not heed self.training"),
        (_Net(_Call(lambda x: x.reshape(32, 16))), "fails on one row alone: .*RuntimeError"),
    ],
)
def test_rows_that_know_each_other_are_refused(network, match):
    with pytest.raises(ValueError, match=match):
        check_behaviour(network, _probe())


def test_what_follows_weights_of_zero_is_seen():
    network = _Net(_Call(lambda x: x - x.mean(0)))
    nn.init.zeros_(network.out.weight)
    with pytest.raises(ValueError, match="other outputs alone"):
        check_behaviour(network, _probe())


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_layers_without_a_size_are_refused():
    with pytest.raises(ValueError, match=r"Linear has lazy layers without a size, \['weight', 'bias'\]"):
        check_modules(nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"lazy layers without a size, \['0.weight', '0.bias'\]"):
        _fit(nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.Linear(16, 2)))


def test_fit_refuses_before_training():
    network = _Net(nn.BatchNorm1d(16, track_running_stats=False))
    for module in (network, lambda n, k: _Net(_Call(lambda x: x - x.mean(0)), n_outputs=k)):
        with pytest.raises(ValueError, match="alone"):
            _fit(module)


@pytest.mark.parametrize("made", zoo.NETWORKS)
def test_the_zoo_is_as_asked(made):
    torch.manual_seed(0)
    x = torch.rand(32, 64)
    x[:, :2] = torch.arange(32)[:, None] % 3
    network = made(64, 4)
    check_modules(network)
    check_behaviour(network, x)
    check_behaviour(network, 100 * (x - 0.5) if made is not zoo.EmbeddingNetwork else x)


def test_outputs_without_a_dimension_are_as_asked():
    check_behaviour(_Net(behind=_Call(torch.squeeze), n_outputs=1), _probe())


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("starts", [True, False])
@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_checkpointing_is_refused(use_reentrant, starts):
    class Checkpointed(_Net):
        def forward(self, x):
            if starts:
                return self.out(checkpoint(self.first, x, use_reentrant=use_reentrant))
            return checkpoint(self.out, self.first(x), use_reentrant=use_reentrant)

    again = "first" if starts else "out"
    with pytest.raises(ValueError, match=f"runs {again} again in the backward pass.*checkpointing off"):
        _fit(Checkpointed())


def test_a_backward_pass_that_fails_is_told():
    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, slope):
            raise RuntimeError("no slope here")

    with pytest.raises(ValueError, match=r"cannot be trained.*RuntimeError: no slope here"):
        check_behaviour(_Net(_Call(Broken.apply)), _probe())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("made", "match"),
    [
        (
            lambda: torch.jit.script(nn.Sequential(nn.Linear(N_FEATURES, 2))),
            "scripted or traced module, whose",
        ),
        (lambda: torch.jit.trace(_Net(), _probe()), "scripted or traced module, whose"),
        (lambda: _Net(torch.jit.script(nn.ReLU())), "traced module at 'between'.*torch.jit.script"),
        (lambda: torch.compile(_Net()), "torch.compile returned, whose.*its _orig_mod"),
        (lambda: _Net(torch.compile(nn.ReLU())), "torch.compile returned at 'between'"),
    ],
)
@pytest.mark.parametrize("as_callable", [True, False])
def test_scripted_and_compiled_modules_are_refused(made, match, as_callable):
    network = made()
    with pytest.raises(ValueError, match=match):
        _fit((lambda n, k: network) if as_callable else network)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch imports its compiler
def test_the_module_that_was_compiled_is_taken():
    assert _fit(torch.compile(_Net())._orig_mod).sparsity_ >= 0.5


# After three epochs the bound need not be kept.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_sparse_gradients_become_dense():
    class Embedded(_Net):
        def __init__(self, sparse):
            super().__init__()
            self.embedding = nn.Embedding(2, N_FEATURES, sparse=sparse)

        def forward(self, x):
            return super().forward(x + self.embedding((x[:, 0] > 0).long()))

    found = []
    for sparse in (True, False):
        torch.manual_seed(0)
        network = Embedded(sparse)
        found.append(_fit(network).predict_proba(DATA.X))
        assert network.embedding.sparse == sparse
    assert np.array_equal(*found)


class _PlainList(_Net):
    def __init__(self):
        super().__init__()
        self.more = [nn.Linear(16, 16)]

    def forward(self, x):
        return self.out(self.more[0](torch.relu(self.first(x))))


class _TiedByMemory(_Net):
    """Two parameters with one memory."""

    def __init__(self):
        super().__init__()
        self.second = nn.Linear(N_FEATURES, 16)
        self.second.weight.data = self.first.weight.data


class _ListOfParameters(_Net):
    """A list of a layer's parameters, read beside the layer."""

    def __init__(self):
        super().__init__()
        self.weights = [self.first.weight]


class _PrivateList(_Net):
    def __init__(self):
        super().__init__()
        self._more = (nn.Linear(16, 16),)

    def forward(self, x):
        return self.out(self._more[0](torch.relu(self.first(x))))


class _Closure(_Net):
    def __init__(self):
        super().__init__()
        self.act = lambda x: self.first(x).relu()

    def forward(self, x):
        return self.out(self.act(x))


class _InDict(_Net):
    def __init__(self):
        super().__init__()
        self.acts = {"act": lambda x: self.first(x).relu()}

    def forward(self, x):
        return self.out(self.acts["act"](x))


class _Wrapped(_Net):
    def __init__(self):
        super().__init__()
        self.act = torch.no_grad()(self.first.forward)

    def forward(self, x):
        return self.out(self.act(x))


class _ComplexBuffer(_Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("phase", torch.tensor([1j]))


@pytest.mark.parametrize(
    ("network", "match"),
    [
        (_PlainList, r"keeps layers in more, where .* nn\.ModuleList"),
        (lambda: _Net(_PlainList()), r"keeps layers in between\.more"),
        (_PrivateList, r"keeps layers in _more, where"),
        (_TiedByMemory, r"parameters 'first.weight' and 'second.weight', which are two on the same memory"),
        (_ListOfParameters, r"keeps parameters in weights, .* nn\.ParameterList"),
        (_Closure, r"keeps a function in act that uses a layer"),
        (_InDict, r"keeps a function in acts that uses a layer"),
        (_Wrapped, r"keeps a function in act that uses a layer"),
        (_ComplexBuffer, r"complex buffers \['phase'\]"),
    ],
)
def test_what_a_copy_would_share_or_lose_is_refused(network, match):
    with pytest.raises(ValueError, match=match):
        _fit(network())


def test_functions_and_lists_without_layers_are_taken():
    network, scale = _Net(), torch.tensor(2.0)
    network.sizes, network.act, network.names = [3, 4], lambda x: scale * x, {"a": network.first}
    network.acts, network.losses = (nn.ReLU(), nn.Tanh()), {"mse": nn.MSELoss()}
    network.teacher = [nn.Linear(3, 3).requires_grad_(False)]
    network.rate, network.double = 2.0, lambda x: network.rate * x
    network.recurrent, network.scales = nn.LSTM(3, 3), nn.ParameterList([nn.Parameter(torch.ones(3))])
    check_modules(network)
    if scale < 0:  # a cell that is empty
        later = 1
    network.late = lambda: later
    check_modules(network)
