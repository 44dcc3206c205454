"""Networks that read rows in another order or shape inside are scored as their plain twins."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skfairprune import FairPrunedClassifier
from skfairprune.datasets import make_biased_classification
from skfairprune.pruning.rowwise import keeps_rows, row_by_row


class _Plain(nn.Module):
    def __init__(self, n_features, n_outputs):
        super().__init__()
        self.a, self.b = nn.Linear(n_features, 8), nn.Linear(8, 8)
        self.out = nn.Linear(8, n_outputs)

    def forward(self, x):
        return self.out(self.b(self.a(x).relu()).relu())


class _Sorted(_Plain):
    def forward(self, x):
        order = x[:, 0].argsort()
        return super().forward(x[order])[order.argsort()]


class _Tokens(nn.Module):
    """Every column is a token."""

    def __init__(self, n_features, n_outputs):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(1, 8), nn.Linear(8, 8), nn.Linear(8, n_outputs)

    def forward(self, x):
        return self.out(self.b(self.a(x[:, :, None]).relu()).relu().mean(dim=1))


class _TokensFirst(_Tokens):
    def forward(self, x):
        return self.out(self.b(self.a(x.T[:, :, None]).relu()).relu().mean(dim=0))


class _TokensFlat(_Tokens):
    def forward(self, x):
        return self.out(self.b(self.a(x.reshape(-1, 1)).relu()).relu().reshape(*x.shape, -1).mean(dim=1))


class _Experts(nn.Module):
    def __init__(self, n_features, n_outputs):
        super().__init__()
        self.a = nn.Linear(n_features, 8)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.out = nn.Linear(8, n_outputs)

    def forward(self, x):
        first, second = (expert(self.a(x).relu()) for expert in self.experts)
        return self.out(torch.where(x[:, :1] > 0, first, second).relu())


class _Routed(_Experts):
    def forward(self, x):
        hidden, chosen = self.a(x).relu(), x[:, 0] > 0
        parts = [self.experts[0](hidden[chosen]), self.experts[1](hidden[~chosen])]
        joined = hidden.new_empty(len(x), 8)
        joined[chosen], joined[~chosen] = parts
        return self.out(joined.relu())


PAIRS = [(_Plain, _Sorted), (_Tokens, _TokensFirst), (_Tokens, _TokensFlat)]
CRITERIA = ["bilevel", "obs", "snip", "taylor", "fairgrape", "fairprune"]


def _fit(network, criterion, **options):
    data = make_biased_classification(300, base_rates=(0.6, 0.2), random_state=0)
    weight = np.where(data.sensitive_features == "group_0", 0.05, 1.0) * (1 + 9 * data.y)
    params = {"criterion": criterion, "sparsity": 0.6, "max_epochs": 4, "decision_rule": False} | options
    clf = FairPrunedClassifier(network, dtype="float64", random_state=0, batch_size=len(data.X[0]), **params)
    clf.fit(data.X, data.y, sample_weight=weight, sensitive_features=data.sensitive_features)
    return clf, clf.predict_proba(data.X)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize(("plain", "other"), PAIRS, ids=lambda network: network.__name__)
def test_the_same_function_keeps_the_same_units(plain, other, criterion):
    """Batches have as many rows as columns: rows could be taken for tokens."""
    (one, expected), (two, proba) = _fit(plain, criterion), _fit(other, criterion)
    assert 0 < sum(mask.sum() for mask in one.masks_) < sum(map(len, one.masks_))
    assert_array_equal(np.concatenate(two.masks_), np.concatenate(one.masks_))
    assert_allclose(proba, expected, atol=1e-8)


class _RarelyRouted(_Routed):
    """Most batches have no row of the first expert, and then it is not called."""

    def forward(self, x):
        hidden, chosen = self.a(x).relu(), x[:, 0] > 2.2
        joined = hidden.new_empty(len(x), self.out.in_features)
        for expert, rows in zip(self.experts, (chosen, ~chosen), strict=True):
            if rows.any():
                joined[rows] = expert(hidden[rows])
        return self.out(joined.relu())


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("network", [_Routed, _RarelyRouted])
def test_routed_rows_are_scored(network, criterion):
    """An expert that has no row of a pass adds nothing."""
    clf, proba = _fit(network, criterion)
    assert clf.sparsity_ >= 0.6
    assert np.isfinite(proba).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("criterion", ["bilevel", "snip", "taylor", "magnitude", "lottery"])
@pytest.mark.parametrize("network", [_Routed, _RarelyRouted])
def test_single_weights_of_routed_rows_are_scored(network, criterion):
    clf, proba = _fit(network, criterion, granularity="weight", max_epochs=6)
    assert clf.sparsity_ >= 0.6
    assert all(mask.sum() > 1 for mask in clf.masks_[:1] + clf.masks_[-1:])
    assert np.isfinite(proba).all()


@pytest.mark.parametrize(
    ("network", "path", "expected"),
    [
        (_Plain, "b", True),
        (_Tokens, "b", True),
        (_Sorted, "b", False),
        (_TokensFirst, "b", False),
        (_TokensFlat, "b", False),
        (_Routed, "experts.0", False),
        (_Routed, "out", True),
    ],
)
def test_where_rows_can_be_told_apart(network, path, expected):
    module = network(7, 2).eval()
    assert keeps_rows(module, [path], [torch.randn(7, 7)]) is expected
    assert not module.get_submodule(path)._forward_pre_hooks


def test_rows_as_batches():
    rows = list(row_by_row((torch.arange(6).reshape(3, 2), torch.arange(3))))
    assert [(x.tolist(), y.tolist()) for x, y in rows] == [([[0, 1]], [0]), ([[2, 3]], [1]), ([[4, 5]], [2])]
