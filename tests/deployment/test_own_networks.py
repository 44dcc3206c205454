"""Every network of the zoo out of the door: small, exported to ONNX and to plain PyTorch."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch import nn

from skfairprune.deployment.onnx import save_onnx
from skfairprune.deployment.torch_network import plain_network
from skfairprune.modules import DecisionNetwork
from skfairprune.networks.attention import replace_attention
from skfairprune.networks.joint import JointNetwork
from skfairprune.pruning.graph import find_coupled_units
from skfairprune.pruning.shrink import shrink
from tests.networks import zoo

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def _rows(n_samples):
    x = torch.rand(n_samples, 64, generator=torch.Generator().manual_seed(1))
    x[:, :2] = torch.arange(n_samples)[:, None] % 3
    return x


def _small(made):
    """Return a pruned network with a rule, as a fit leaves it."""
    torch.manual_seed(0)
    network = replace_attention(made(64, 4))
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the statistics are those of the rows, so that no signal vanishes
    network(_rows(50))
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


def _spread(network):
    """Widen the scores of a network to a standard deviation of 2, so that its decisions differ."""
    *_, last = [module for module in network.modules() if isinstance(module, nn.Linear)]
    scores = network.network(_rows(1000))
    factor = 2 / scores.std(dim=0)
    last.weight.mul_(factor[:, None])
    last.bias.sub_(scores.mean(dim=0)).mul_(factor)
    return network


@pytest.mark.parametrize("made", zoo.NETWORKS)
def test_int8_is_near(made, tmp_path):
    network = _spread(_small(made))
    save_onnx(network, _rows(9), np.array([0, 1]), tmp_path / "int8.onnx", quantize=True)
    model = onnx.load(tmp_path / "int8.onnx")
    layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    integer = [node for node in model.graph.node if node.op_type in ("MatMulInteger", "ConvInteger")]
    assert len(integer) == len(layers)
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx", providers=["CPUExecutionProvider"])
    for n_rows in (1, 9, 1000):
        expected = network(_rows(n_rows)).numpy()
        label, proba = session.run(None, {"X": _rows(n_rows).numpy()})
        assert_array_equal(label, proba.argmax(axis=1))
        assert proba.shape == expected.shape
        assert np.abs(proba - expected).mean() < 0.1
    assert np.ptp(expected) > 0.8
    assert np.mean(label != expected.argmax(axis=1)) < 0.1


def test_int8_that_leaves_nothing_of_a_network_is_refused(tmp_path):
    """The outputs of the first layer are near 30, and int8 rounds away how they differ."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    inner[0].bias.data += 30
    network = DecisionNetwork(JointNetwork(inner, "logits", 4), torch.eye(4)).eval().requires_grad_(False)
    network = _spread(network)
    with pytest.raises(ValueError, match="does not bear quantize=True"):
        save_onnx(network, _rows(9), np.arange(4), tmp_path / "int8.onnx", quantize=True)
    assert not (tmp_path / "int8.onnx").exists()


def test_weights_that_are_computed_from_others_take_an_exported_program(tmp_path):
    """torch.save refuses such modules."""
    first = nn.utils.parametrizations.weight_norm(nn.Linear(64, 6))
    joint = JointNetwork(nn.Sequential(first, nn.ReLU(), nn.Linear(6, 4)), "logits", 4)
    network = DecisionNetwork(joint, torch.eye(2, 4)).eval().requires_grad_(False)
    plain = plain_network(network, _rows(9))
    assert_allclose(plain(_rows(5)), network(_rows(5)), atol=1e-6)
    program = torch.export.export(plain, (_rows(9),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, tmp_path / "plain.pt2")
    loaded = torch.export.load(tmp_path / "plain.pt2").module()
    assert_allclose(loaded(_rows(5)), network(_rows(5)), atol=1e-6)


def test_names_that_python_keeps_for_itself_are_told(tmp_path):
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleDict({"in": nn.Linear(64, 4)})

        def forward(self, x):
            return self.parts["in"](x)

    network = DecisionNetwork(JointNetwork(Keyword(), "logits", 4), torch.eye(2, 4)).eval()
    network.requires_grad_(False)
    for export in (
        lambda: plain_network(network, _rows(9)),
        lambda: save_onnx(network, _rows(9), np.array([0, 1]), tmp_path / "small.onnx"),
    ):
        with pytest.raises(ValueError, match="Rename its modules that have the name of a Python keyword"):
            export()
