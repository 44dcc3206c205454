"""Modules with two names, and parameters of two modules, are trained as those with one."""

import functools

import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skfairprune import FairPrunedClassifier
from skfairprune.datasets import make_biased_classification


class _Once(nn.Module):
    """The same activation, which has a weight, is called twice."""

    def __init__(self, n_features, n_outputs):
        super().__init__()
        self.act = nn.PReLU()
        self.a, self.b = nn.Linear(n_features, 8), nn.Linear(8, 8)
        self.out = nn.Linear(8, n_outputs)

    def forward(self, x):
        return self.out(self.act(self.b(self.act(self.a(x)))))


class _TwoNames(nn.Module):
    """It has two names."""

    def __init__(self, n_features, n_outputs):
        super().__init__()
        act = nn.PReLU()
        self.layers = nn.Sequential(nn.Linear(n_features, 8), act, nn.Linear(8, 8), act)
        self.out = nn.Linear(8, n_outputs)

    def forward(self, x):
        return self.out(self.layers(x))


class _TwoModules(_Once):
    """Two activations have the same weight."""

    def __init__(self, n_features, n_outputs):
        super().__init__(n_features, n_outputs)
        self.other = nn.PReLU()
        self.other.weight = self.act.weight

    def forward(self, x):
        return self.out(self.other(self.b(self.act(self.a(x)))))


class _TwoAttributes(_Once):
    """The weight is an attribute of the activation twice."""

    def __init__(self, n_features, n_outputs):
        super().__init__(n_features, n_outputs)
        self.scale = self.again = nn.Parameter(torch.tensor(0.25))

    def forward(self, x):
        hidden = nn.functional.prelu(self.a(x), self.scale.reshape(1))
        return self.out(nn.functional.prelu(self.b(hidden), self.again.reshape(1)))


@functools.cache
def _fit(network, **params):
    data = make_biased_classification(400, base_rates=(0.6, 0.2), random_state=0)
    clf = FairPrunedClassifier(
        network, max_epochs=8, lr=0.02, sparsity=0.4, decision_rule=False, random_state=0, **params
    )
    clf.fit(data.X, data.y, sensitive_features=data.sensitive_features)
    return clf, clf.predict_proba(data.X), data.X


UNITS = [{"hypergradient": name} for name in ("first_order", "implicit", "closed_form")]
WEIGHTS = [{"granularity": "weight", **params} for params in UNITS[:2]]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("network", "params"),
    [*((_TwoNames, params) for params in UNITS + WEIGHTS), *((_TwoModules, params) for params in WEIGHTS)],
)
def test_sharing_changes_nothing_of_a_fit(network, params):
    """Units of layers before an activation that is called twice stay, and not before two activations."""
    (one, expected, _), (two, found, X) = _fit(_Once, **params), _fit(network, **params)
    for mask, same in zip(two.masks_, one.masks_, strict=True):
        assert_array_equal(mask, same)
    assert_allclose(found, expected, atol=1e-6)
    assert_allclose(two.to_torch()(torch.tensor(X, dtype=torch.float32)).detach(), found, atol=1e-5)


class _LayerWithTwoNames(_Once):
    def __init__(self, n_features, n_outputs):
        super().__init__(n_features, n_outputs)
        self.c = nn.Linear(8, 8)
        self.first = self.a

    def forward(self, x):
        return self.out(self.c(self.b(self.a(x)).relu()).relu())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_layer_with_two_names_stays_whole():
    clf, found, X = _fit(_LayerWithTwoNames)
    assert clf.pruning_report_.loc["a", "note"] == "a has 2 names in the network"
    assert_allclose(clf.to_torch()(torch.tensor(X, dtype=torch.float32)).detach(), found, atol=1e-5)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("params", WEIGHTS)
def test_a_parameter_with_two_names_in_one_module_is_one(params):
    (one, expected, _), (two, found, _) = _fit(_Once, **params), _fit(_TwoAttributes, **params)
    for mask, same in zip(two.masks_, one.masks_, strict=True):
        assert_array_equal(mask, same)
    assert_allclose(found, expected, atol=1e-6)
