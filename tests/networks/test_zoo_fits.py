"""Every network of the zoo through the estimator, at 50 and 90 %: small, and the same wherever it runs."""

import copy
import functools

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skfairprune import FairPrunedClassifier
from skfairprune.pruning.structure import UnitStructure
from tests.networks import zoo

onnxruntime = pytest.importorskip("onnxruntime")

X, Y, GROUP = (part[:500] for part in zoo.make_biased_digits(0))
CODED = np.column_stack([np.arange(len(X)) % 3, np.arange(len(X)) % 2, X[:, 2:]]).astype(np.float32)
# Where a tenth of the smallest one is less than a unit a layer, or learns nothing.
WIDE = {zoo.FTTransformer: {"width": 32, "n_heads": 8}, zoo.MobileNetV2: {"width": 32}}


def _masked_and_shrunk(structure, network, masks, rows):
    """Return the outputs of a network with the gates of masked units at 0, and of the one without them."""
    network = copy.deepcopy(network).eval()
    gated = structure.gated(network)
    with torch.no_grad():
        masked = gated(rows, torch.from_numpy(np.concatenate(masks)).to(rows))
        gated.release()
        return masked, structure.remove(network, masks)(rows)


# Some hardly learn in so few epochs, and say so.
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
@pytest.mark.parametrize("made", zoo.NETWORKS)
def test_a_fit_leaves_a_small_network_that_is_the_same_everywhere(made, sparsity, tmp_path, monkeypatch):
    remove = UnitStructure.remove_and_refit
    module = functools.partial(made, **WIDE.get(made, {})) if sparsity == 0.9 else made
    x = CODED if made is zoo.EmbeddingNetwork else X
    removed = []
    monkeypatch.setattr(
        UnitStructure,
        "remove_and_refit",
        lambda structure, network, masks, sample: (
            removed.append(_masked_and_shrunk(structure, network, masks, torch.tensor(x))),
            remove(structure, network, masks, sample),
        )[1],
    )
    epochs = {"max_epochs": 10, "lr": 0.01} if made is zoo.MobileNetV2 else {"max_epochs": 4}
    clf = FairPrunedClassifier(module, sparsity=sparsity, difference_bound=0.2, batch_size=64, random_state=0)
    clf.set_params(**epochs).fit(x, Y, sensitive_features=GROUP)

    before, after = clf.pruning_report_.loc["total", ["parameters_before", "parameters_after"]]
    assert clf.sparsity_ == pytest.approx(1 - after / before)
    assert clf.sparsity_ >= sparsity
    sizes = [sum(p.numel() for p in network.parameters()) for network in (clf.module_, module(64, 4))]
    assert sizes[0] < sizes[1]

    ((masked, shrunk),) = removed  # of the trained network, with the masks that the gates chose
    assert_allclose(shrunk, masked, atol=1e-5 * max(1.0, float(masked.abs().max())))
    assert masked.std(dim=0).max() > 1e-4

    expected = clf.predict_proba(x)
    assert np.ptp(expected[:, 1]) > 1e-3
    assert_allclose(clf.to_torch()(torch.tensor(x)).detach().numpy(), expected, atol=1e-5)
    clf.save(tmp_path / "small.skfp")
    loaded = FairPrunedClassifier.load(tmp_path / "small.skfp", module=module)
    assert_allclose(loaded.predict_proba(x), expected, atol=1e-6)
    clf.to_onnx(tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    for n_rows in (1, 9, 1000):
        rows = np.resize(x, (n_rows, x.shape[1]))
        label, proba = session.run(["label", "probabilities"], {"X": rows})
        assert_allclose(proba, clf.predict_proba(rows), atol=1e-5)
        assert_array_equal(label, clf.classes_[proba.argmax(axis=1)])
