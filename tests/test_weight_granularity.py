"""The estimator with single weights as what is removed."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.utils._param_validation import InvalidParameterError

from skfairprune import FairPrunedClassifier
from skfairprune.datasets import make_biased_classification
from tests.networks import zoo

# A tenth of a small network, after a few epochs.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
DATA = make_biased_classification(1500, base_rates=(0.6, 0.2), random_state=0)


def _fit(**params):
    params = {"max_epochs": 6, "random_state": 0, "granularity": "weight", "sparsity": 0.9} | params
    if "module" not in params:
        params = {"hidden_layer_sizes": (24, 16), "n_bins": 12} | params
    clf = FairPrunedClassifier(**params)
    return clf.fit(DATA.X, DATA.y, sensitive_features=DATA.sensitive_features)


def _nonzero(clf):
    return [
        (module.weight != 0).numpy()
        for module in clf.module_.network.modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv1d)
    ]


@pytest.mark.parametrize("criterion", ["bilevel", "magnitude", "snip", "taylor", "lottery", "random"])
def test_exact_sparsity_and_true_zeros(criterion):
    clf = _fit(criterion=criterion)
    found = _nonzero(clf)
    assert len(found) == 3
    for mask, kept in zip(clf.masks_, found, strict=True):
        assert_array_equal(mask, kept)
    total = clf.pruning_report_.loc["total"]
    assert total["parameters_after"] == np.floor(0.1 * total["parameters_before"] + 1e-9)
    assert clf.sparsity_ == 1 - total["parameters_after"] / total["parameters_before"]
    assert clf.pruning_report_.loc["total", "note"].startswith("zeros are stored")
    assert "tensor cores" not in clf.pruning_report_.loc["total", "note"]
    assert criterion == "random" or clf.score(DATA.X, DATA.y) > 0.65


def test_a_pattern_and_more():
    clf = _fit(weight_pattern=(2, 4), sparsity=0)
    for kept in _nonzero(clf):
        for start in range(0, kept.shape[1], 4):
            assert kept[:, start : start + 4].sum(axis=1).max() <= 2
    assert 0.4 < clf.sparsity_ < 0.5
    note = clf.pruning_report_.loc["total", "note"]
    assert "at most 2 of 4 consecutive weights of an output" in note
    assert "sparse tensor cores" in note
    more = _fit(weight_pattern=(2, 4), sparsity=0.8)
    assert more.sparsity_ >= 0.8
    for kept in _nonzero(more):
        assert kept[:, :4].sum(axis=1).max() <= 2


def test_own_networks_bounds_and_files(tmp_path):
    def make(n, k):
        return zoo.ResNetTabular(n, k)

    clf = _fit(module=make)
    assert 0.9 <= clf.sparsity_ < 0.905
    clf.save(tmp_path / "net.safetensors")
    loaded = FairPrunedClassifier.load(tmp_path / "net.safetensors", module=make)
    assert_array_equal(loaded.predict_proba(DATA.X), clf.predict_proba(DATA.X))
    rows = torch.tensor(DATA.X, dtype=torch.float32)
    assert_allclose(clf.to_torch()(rows).detach(), clf.predict_proba(DATA.X), atol=1e-5)
    assert_allclose(clf.set_bound(0.2).predict_proba(DATA.X).sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    "params", [{"sparsity": "auto", "max_accuracy_drop": 0.05}, {"sparsity_measure": "macs"}]
)
def test_measures_and_the_smallest_network(params):
    clf = _fit(**params)
    for mask, kept in zip(clf.masks_, _nonzero(clf), strict=True):
        assert_array_equal(mask, kept)


def test_the_implicit_hypergradient():
    assert _fit(hypergradient="implicit", max_epochs=3).sparsity_ >= 0.9


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"criterion": "fpgm"}, r"criterion='fpgm' is a rule for whole units.*magnitude"),
        ({"hypergradient": "closed_form"}, "closed_form' is for gates on whole inputs"),
        ({"sparsity_measure": "units"}, "sparsity_measure='units' is for whole units"),
        ({"prune_inputs": True}, "prune_inputs=True is for whole units"),
        ({"weight_pattern": (4, 2)}, r"'weight_pattern'.*\(n, m\), 1 <= n < m.*Got \(4, 2\)"),
        ({"weight_pattern": (2, 4), "granularity": "unit"}, "needs granularity='weight'"),
    ],
)
def test_what_does_not_go_together_is_refused(params, match):
    with pytest.raises(InvalidParameterError, match=match):
        _fit(**params)


def test_an_unreachable_sparsity():
    with pytest.raises(ValueError, match=r"sparsity=0.999 cannot be reached: with one weight, and the"):
        _fit(sparsity=0.999)
