"""Fits on a GPU: the same bits again, a network that is on the CPU in the end, and what a CPU fit gives.

The whole test suite runs on a GPU where there is one (``device="auto"``); this is what is about it.
"""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skfairprune import FairPrunedClassifier
from skfairprune.training import net
from tests.networks.zoo import NETWORKS, Conv1dNetwork, make_biased_digits

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),  # of so few epochs
]


def _same_bits(one, other):
    first, second = one.module_.state_dict(), other.module_.state_dict()
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


VARIANTS = [
    {},
    {"dropout": 0.2},
    {"constraint": "equalized_odds"},
    {"decision_rule": False},
    {"surrogate": "ramp", "decision_rule": False},
    {"hypergradient": "closed_form"},
    {"hypergradient": "implicit"},
    {"prune_inputs": True},
    {"distill": "boosting"},
    {"distill": "dense"},
    {"granularity": "weight"},
    {"criterion": "obs"},
    {"criterion": "lottery"},
    {"criterion": "fairgrape"},
    {"constraint": "degradation_parity"},
    {"sparsity": "auto"},
    {"dtype": "float64"},
]


@pytest.mark.parametrize("params", VARIANTS, ids=str)
def test_a_fit_gives_the_same_bits_again(small, train, fresh, params):
    one, other = (
        small(device="cuda", **params).fit(train.X, train.y, sensitive_features=train.sensitive_features)
        for _ in range(2)
    )
    _same_bits(one, other)
    assert {parameter.device.type for parameter in one.module_.parameters()} == {"cpu"}
    assert one.score(fresh.X, fresh.y) > 0.65
    assert_array_equal(pickle.loads(pickle.dumps(one)).predict(fresh.X), one.predict(fresh.X))


@pytest.mark.parametrize(
    "params", [params for params in VARIANTS if not {"dropout", "hypergradient"} & params.keys()], ids=str
)
def test_replayed_steps_give_the_bits_of_steps_one_by_one(small, train, params, monkeypatch):
    def fit():
        clf = small(device="cuda", **params)
        return clf.fit(train.X, train.y, sensitive_features=train.sensitive_features)

    replayed = fit()
    monkeypatch.setattr(net, "can_replay", lambda module: False)
    one_by_one = fit()
    _same_bits(replayed, one_by_one)
    losses = (pd.DataFrame(clf.history_).drop(columns="seconds") for clf in (replayed, one_by_one))
    pd.testing.assert_frame_equal(*losses, check_exact=True)


@pytest.mark.parametrize("network", [network for network in NETWORKS if network is not Conv1dNetwork])
def test_own_networks_give_the_same_bits_again(network, tmp_path):
    X, y, group = make_biased_digits(0)
    X, y, group = X[:600], y[:600], group[:600]
    if network.__name__ == "EmbeddingNetwork":
        X = X.copy()
        X[:, 0], X[:, 1] = np.arange(600) % 3, np.arange(600) % 5
    one, other = (
        FairPrunedClassifier(network, sparsity=0.5, max_epochs=3, random_state=0, device="cuda").fit(
            X, y, sensitive_features=group
        )
        for _ in range(2)
    )
    _same_bits(one, other)
    assert {parameter.device.type for parameter in one.module_.parameters()} == {"cpu"}
    one.save(tmp_path / "model")
    loaded = FairPrunedClassifier.load(tmp_path / "model", module=network)
    assert_array_equal(loaded.predict_proba(X), one.predict_proba(X))


def test_an_operation_without_a_deterministic_algorithm_is_told():
    X, y, group = make_biased_digits(0)
    clf = FairPrunedClassifier(Conv1dNetwork, sparsity=0.5, max_epochs=3, random_state=0, device="cuda")
    with pytest.warns(UserWarning, match="adaptive_avg_pool2d_backward_cuda does not have a deterministic"):
        clf.fit(X[:600], y[:600], sensitive_features=group[:600])
    assert {parameter.device.type for parameter in clf.module_.parameters()} == {"cpu"}


def test_a_fit_is_worth_what_it_is_on_the_cpu(small, train, fresh):
    def fit(device):
        clf = small(device=device, max_epochs=10)
        return clf.fit(train.X, train.y, sensitive_features=train.sensitive_features)

    found, expected = fit("cuda"), fit("cpu")
    assert abs(found.score(fresh.X, fresh.y) - expected.score(fresh.X, fresh.y)) < 0.02
    assert np.mean(found.predict(fresh.X) == expected.predict(fresh.X)) > 0.9


def test_a_fit_leaves_torch_as_it_was(small, train):
    torch.cuda.manual_seed(7)
    expected = torch.rand(4, device="cuda")
    torch.cuda.manual_seed(7)
    torch.backends.cudnn.benchmark = True
    try:
        small(device="cuda").fit(train.X, train.y, sensitive_features=train.sensitive_features)
        assert torch.backends.cudnn.benchmark
    finally:
        torch.backends.cudnn.benchmark = False
    assert not torch.are_deterministic_algorithms_enabled()
    assert_allclose(torch.rand(4, device="cuda").cpu(), expected.cpu(), rtol=0)


def test_a_fit_on_the_cpu_does_not_touch_the_gpu(small, train):
    torch.cuda.manual_seed(7)
    before = torch.cuda.get_rng_state()
    small(device="cpu").fit(train.X, train.y, sensitive_features=train.sensitive_features)
    assert torch.equal(before, torch.cuda.get_rng_state())
