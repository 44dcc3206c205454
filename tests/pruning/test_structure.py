"""What the estimator makes of the measures of sparsity and of prunable inputs."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from torch import nn

from skfairprune import FairPrunedClassifier
from skfairprune.datasets import make_biased_classification
from skfairprune.pruning import structure as module
from skfairprune.pruning.budget import Chain
from skfairprune.pruning.reconstruction import log_worth
from skfairprune.pruning.structure import UnitStructure


@pytest.fixture(scope="module")
def data():
    bunch = make_biased_classification(1500, n_noise=3, random_state=0)
    names = [f"column {j}" for j in range(bunch.X.shape[1])]
    return pd.DataFrame(bunch.X, columns=names).assign(constant=1.0), bunch.y, bunch.sensitive_features


def _fit(data, **params):
    X, y, groups = data
    clf = FairPrunedClassifier(
        hidden_layer_sizes=(12, 12), difference_bound=0.5, n_bins=6, max_epochs=12, random_state=0, **params
    )
    return clf.fit(X, y, sensitive_features=groups)


@pytest.mark.parametrize("measure", ["parameters", "units", "macs"])
def test_sparsity_is_of_the_measure(data, measure):
    clf = _fit(data, sparsity=0.6, sparsity_measure=measure)
    total = clf.pruning_report_.loc["total"]
    removed = 1 - total[f"{measure}_after"] / total[f"{measure}_before"]
    assert_allclose([clf.sparsity_, total["sparsity"]], removed)
    assert 0.6 <= removed < 0.66
    assert clf.dropped_columns_ == ["constant"]


def test_dropped_columns_are_named_and_not_read(data):
    clf = _fit(data, sparsity=0.93, prune_inputs=True)
    X, _, _ = data
    kept = [name for name in X if name not in clf.dropped_columns_]
    assert "constant" in clf.dropped_columns_
    assert len(clf.dropped_columns_) > 1
    assert X.columns[clf.module_.network.encoding.kept_columns].tolist() == kept
    changed = X.assign(**dict.fromkeys(clf.dropped_columns_, 1e3))
    assert_allclose(clf.predict_proba(changed), clf.predict_proba(X), rtol=0, atol=0)
    inputs = clf.module_.network.encoding.n_outputs
    assert clf.pruning_report_.loc["input", "units_after"] == inputs
    parameters = sum(p.numel() for p in clf.module_.network.parameters())
    assert clf.pruning_report_.loc["total", "parameters_after"] == parameters
    assert clf.sparsity_ >= 0.93
    assert [len(mask) for mask in clf.masks_] == [12, 12]
    assert all(mask.sum() >= 3 for mask in clf.masks_)  # label and group pass through every layer


def test_columns_without_names_are_dropped_by_position(data):
    X, y, groups = data
    clf = _fit((X.to_numpy(), y, groups), sparsity=0.93, prune_inputs=True)
    assert X.shape[1] - 1 in clf.dropped_columns_
    assert np.all(np.diff(clf.dropped_columns_) > 0)


def test_inputs_are_no_units(data):
    with pytest.raises(ValueError, match="prune_inputs=True needs sparsity_measure"):
        _fit(data, sparsity_measure="units", prune_inputs=True)


@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_units_start_in_their_order_however_small_their_errors_are(scale, monkeypatch):
    """Of a network that has learned its rows by heart the Fisher information is next to nothing."""
    structure = UnitStructure((), Chain(3, (2, 3), 2))
    errors = [np.array([0.1, 0.4]), np.array([0.2, 0.3, 0.05])]
    monkeypatch.setattr(module, "can_refit", lambda *given: False)
    monkeypatch.setattr(module, "fisher_information", lambda data: [scale * part for part in errors])
    found = structure.start(nn.Identity(), [], lambda: None)
    expected = log_worth([part / 1.05 for part in errors], structure.layout)
    for one, two in zip(found, expected, strict=True):
        assert_allclose(one, two, rtol=1e-9)
