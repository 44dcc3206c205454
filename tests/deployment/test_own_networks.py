"""Every network of the zoo out of the door: small, exported to ONNX and to plain PyTorch."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from skfairprune.deployment.onnx import save_onnx
from skfairprune.deployment.torch_network import plain_network
from skfairprune.modules import DecisionNetwork
from skfairprune.networks.attention import replace_attention
from skfairprune.networks.joint import JointNetwork
from skfairprune.pruning.graph import find_coupled_units
from skfairprune.pruning.shrink import shrink
from tests.networks import zoo

onnxruntime = pytest.importorskip("onnxruntime")


def _rows(n_samples):
    x = torch.rand(n_samples, 64, generator=torch.Generator().manual_seed(1))
    x[:, :2] = torch.arange(n_samples)[:, None] % 3
    return x


def _small(made):
    """Return a pruned network with a rule, as a fit leaves it."""
    torch.manual_seed(0)
    network = replace_attention(made(64, 4))
    network(_rows(50))  # the norms' statistics
    layers, _ = find_coupled_units(network, _rows(9))
    rng = np.random.default_rng(0)
    masks = [rng.permutation(layer.n_units) < max(1, layer.n_units // 2) for layer in layers]
    joint = JointNetwork(shrink(network, layers, masks), "logits", 4)
    rule = torch.tensor([[1.0, 0.8, 0.0, 0.1], [0.0, 0.2, 1.0, 0.9]])
    return DecisionNetwork(joint, rule).eval().requires_grad_(False)


@pytest.mark.parametrize("made", zoo.NETWORKS)
def test_exports_give_the_same_probabilities(made, tmp_path):
    network = _small(made)
    save_onnx(network, _rows(9), np.array(["no", "yes"]), tmp_path / "small.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    plain = plain_network(network, _rows(9))
    assert not any("skfairprune" in type(module).__module__ for module in plain.modules())
    for n_rows in (1, 9, 1000):
        rows = _rows(n_rows)
        expected = network(rows).numpy()
        assert np.ptp(expected) > 1e-3 or n_rows == 1
        label, proba = session.run(None, {"X": rows.numpy()})
        assert_allclose(proba, expected, atol=1e-5)
        assert_array_equal(label, np.array(["no", "yes"])[proba.argmax(axis=1)])
        assert_allclose(plain(rows), expected, atol=1e-5)
