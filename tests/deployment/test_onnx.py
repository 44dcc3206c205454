import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from torch import nn

from skfairprune import FairPrunedClassifier
from skfairprune.deployment.onnx import onnx_labels, onnx_model, save_onnx
from skfairprune.modules import DecisionNetwork, PiecewiseLinearEncoding, TabularNetwork

pytestmark = pytest.mark.filterwarnings("error")


def _session(source):
    source = source if isinstance(source, bytes) else str(source)
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def exported(fitted, tmp_path_factory):
    """The fitted model as an ONNX file."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert fitted.to_onnx(path) is None
    return path


def test_inputs_and_outputs_are_named_and_shaped_as_of_a_converter(exported, fitted):
    session = _session(exported)
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [("X", ["N", 7], "tensor(float)")]
    assert [(o.name, o.shape, o.type) for o in session.get_outputs()] == [
        ("label", ["N"], "tensor(int64)"),
        ("probabilities", ["N", 2], "tensor(float)"),
    ]


@pytest.mark.parametrize("n_rows", [1, 9, 1000])
def test_the_export_decides_as_predict_at_every_batch(exported, fitted, fresh, n_rows):
    rows = fresh.X[:n_rows]
    label, proba = _session(exported).run(None, {"X": rows.astype(np.float32)})
    assert_allclose(proba, fitted.predict_proba(rows), atol=1e-5)
    assert_array_equal(label, fitted.predict(rows))


def test_the_export_decides_as_predict_on_every_row(exported, fitted, fresh):
    label, _ = _session(exported).run(None, {"X": fresh.X.astype(np.float32)})
    assert_array_equal(label, fitted.predict(fresh.X))
    assert len(np.unique(label)) == 2


def test_the_file_tells_nothing_of_this_machine(exported):
    content = exported.read_bytes()
    assert b".py" not in content
    assert b"site-packages" not in content


@pytest.mark.parametrize("inner", ["gelu", "attention"])
def test_any_network_that_can_be_traced_is_exported(inner):
    torch.manual_seed(0)

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.decode = nn.Linear(1, 8), nn.Linear(8, 4)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, x):
            return self.decode(self.layer(self.encode(x[:, :, None])).mean(dim=1))

    mlp = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.5), nn.Linear(8, 4))
    network = DecisionNetwork(mlp if inner == "gelu" else Tokens(), torch.rand(3, 4))
    network = network.eval().requires_grad_(False)
    session = _session(onnx_model(network, torch.randn(9, 5), np.array(["a", "b", "c"])).SerializeToString())
    for n_rows in (1, 9, 1000):
        rows = torch.randn(n_rows, 5)
        label, proba = session.run(None, {"X": rows.numpy()})
        assert_allclose(proba, network(rows), atol=1e-5)
        assert set(label) <= {"a", "b", "c"}


def test_what_stands_in_an_unread_column_does_not_matter():
    torch.manual_seed(0)
    encoding = PiecewiseLinearEncoding([np.array([-1.0, 0.0, 2.0]), np.array([3.0]), np.array([0.0, 1.0])])
    inner = TabularNetwork(encoding, (4,), 4).to(torch.float32)
    network = DecisionNetwork(inner, torch.rand(2, 4)).eval().requires_grad_(False)
    session = _session(onnx_model(network, torch.randn(9, 3), np.array([0, 1])).SerializeToString())
    rows = torch.randn(9, 3)
    _, proba = session.run(None, {"X": rows.index_fill(1, torch.tensor(1), np.nan).numpy()})
    assert_allclose(proba, network(rows), atol=1e-6)


# A column without a bin, of two values, of a huge scale, and of narrow bins far from 0 and beside wide ones.
_KNOTS = [
    np.array([3.0]),
    np.array([0.0, 1.0]),
    np.array([-1e6, 1e6, 1.5e6]),
    np.array([0.0, 3103.0, 3103.001, 99999.0]),
    np.array([1990.0, 1990.001, 2003.0]),
]
# Of a width that is not 0 in float32, and whose inverse is infinite.
_TINIEST = np.array([0.0, 1e-40])


def _rows_about_knots(knots, dtype, n_rows):
    """Rows at every knot, beside it, within the bins, and far outside."""
    rng = np.random.default_rng(0)
    columns = []
    for own in knots:
        middles = (own[1:] + own[:-1]) / 2
        special = [
            own,
            np.nextafter(own, -np.inf),
            np.nextafter(own, np.inf),
            middles,
            [-1e30, -1e7, 1e7, 1e30],
        ]
        columns.append(rng.choice(np.concatenate(special), n_rows))
    return torch.tensor(np.column_stack(columns), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("knots", [_KNOTS, [*_KNOTS, _TINIEST]], ids=["ordinary", "tiniest"])
def test_the_exported_encoding_is_the_encoding(knots, dtype):
    encoding = PiecewiseLinearEncoding(knots).to(dtype)
    # The network is the encoding: the probabilities of each class tell one encoded value.
    inner = TabularNetwork(encoding, (), encoding.n_outputs).to(dtype)
    with torch.no_grad():
        inner.layers[0].weight.copy_(4 * torch.eye(encoding.n_outputs))
    network = DecisionNetwork(inner, torch.eye(encoding.n_outputs, dtype=dtype)).eval().requires_grad_(False)
    rows = _rows_about_knots(knots, dtype, 1000)
    assert all(len(set(column.tolist())) > 2 for column in encoding(rows).T[1:])
    session = _session(onnx_model(network, rows, np.arange(encoding.n_outputs)).SerializeToString())
    for n_rows in (1, 9, 1000):
        _, proba = session.run(None, {"X": rows[:n_rows].numpy()})
        assert_allclose(proba, network(rows[:n_rows]), rtol=0, atol=3e-7 if dtype == torch.float32 else 1e-14)


def test_the_export_of_pruned_inputs_reads_the_bins_that_stayed(small, fitted, train, fresh, tmp_path):
    clf = small(prune_inputs=True, sparsity=0.8, difference_bound=0.2, random_state=2)
    clf.fit(train.X, train.y, sensitive_features=train.sensitive_features)
    assert clf.module_.network.encoding.n_outputs < fitted.module_.network.encoding.n_outputs
    clf.to_onnx(tmp_path / "model.onnx")
    for rows in (fresh.X, 1e4 * fresh.X):
        label, proba = _session(tmp_path / "model.onnx").run(None, {"X": rows.astype(np.float32)})
        assert_allclose(proba, clf.predict_proba(rows), atol=1e-5)
        assert_array_equal(label, clf.predict(rows))


@pytest.mark.parametrize("classes", [[0, 1, 2], [1, 2, 0], [False, True], ["0", "1", "2"]])
def test_the_label_is_the_class_of_the_largest_probability(classes):
    torch.manual_seed(0)
    classes = np.array(classes)
    network = DecisionNetwork(nn.Linear(4, 3), torch.eye(len(classes), 3)).eval().requires_grad_(False)
    rows = 5 * torch.randn(50, 4)
    model = onnx_model(network, rows, classes)
    label, proba = _session(model.SerializeToString()).run(["label", "probabilities"], {"X": rows.numpy()})
    assert_array_equal(label, np.array(onnx_labels(classes))[proba.argmax(axis=1)])
    assert len(set(label)) > 1


def test_a_network_that_counts_its_rows_is_a_clear_error():
    class Counts(nn.Module):
        def forward(self, x):
            return x.reshape(2, 2)

    told = r"(?s)cannot be exported to ONNX for any number of rows\. .*treat every row alone.*It failed by"
    with pytest.raises(ValueError, match=told):
        onnx_model(DecisionNetwork(Counts(), torch.eye(2)).eval(), torch.randn(9, 2), np.array([0, 1]))


@pytest.mark.parametrize("quantize", [False, True])
def test_an_export_that_gives_nan_is_refused(quantize, tmp_path):
    class LogSigmoid(nn.Module):
        """Which onnxruntime computes as the logarithm of what is 0 for rows far below 0."""

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return self.layer(nn.functional.logsigmoid(x))

    network = DecisionNetwork(LogSigmoid(), torch.eye(2)).eval().requires_grad_(False)
    rows = torch.linspace(-1000, 1000, 18).reshape(9, 2)
    with pytest.raises(ValueError, match=r"other probabilities under onnxruntime|differ by nan on average"):
        save_onnx(network, rows, np.array([0, 1]), tmp_path / "model.onnx", quantize)
    assert not (tmp_path / "model.onnx").exists()


def test_a_float64_network_takes_float64_rows(small, train, fresh, tmp_path):
    clf = small(dtype="float64", activation="tanh").fit(train.X, train.y == 1)
    clf.to_onnx(tmp_path / "model.onnx")
    session = _session(tmp_path / "model.onnx")
    assert session.get_inputs()[0].type == "tensor(double)"
    label, proba = session.run(None, {"X": fresh.X.astype(np.float64)})
    assert_allclose(proba, clf.predict_proba(fresh.X), atol=1e-12)
    assert_array_equal(label, clf.predict(fresh.X))
    with pytest.raises(ValueError, match=r"quantize=True needs a network in float32"):
        clf.to_onnx(tmp_path / "other.onnx", quantize=True)
    assert not (tmp_path / "other.onnx").exists()


def test_what_onnxruntime_cannot_run_is_a_clear_error(tmp_path):
    network = DecisionNetwork(
        nn.Sequential(nn.Linear(3, 2), nn.GELU()).double(), torch.eye(2).double()
    ).eval()
    with pytest.raises(ValueError, match=r"onnxruntime cannot run the exported network.*Erf"):
        save_onnx(network, torch.randn(9, 3).double(), np.array([0, 1]), tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def test_quantisation_stores_int8_weights_and_moves_few_decisions(exported, fitted, fresh, tmp_path):
    fitted.to_onnx(tmp_path / "int8.onnx", quantize=True)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    n_linear = sum(isinstance(layer, nn.Linear) for layer in fitted.module_.network.layers)
    assert sum(node.op_type == "MatMulInteger" for node in graph.node) == n_linear
    session = _session(tmp_path / "int8.onnx")
    for rows in (fresh.X[:1], fresh.X):
        label, proba = session.run(None, {"X": rows.astype(np.float32)})
        assert_allclose(proba, fitted.predict_proba(rows), atol=0.1)
    assert 0.98 < np.mean(label == fitted.predict(fresh.X)) <= 1


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (np.array([False, True]), [0, 1]),
        (np.array([-1, 3], dtype=np.int8), [-1, 3]),
        (np.array([0.0, 2.0]), [0, 2]),
        (np.array(["no", "yes"]), ["no", "yes"]),
        (np.array(["no", "yes"], dtype=object), ["no", "yes"]),
    ],
)
def test_labels_of_every_kind(classes, labels):
    assert onnx_labels(classes) == labels
    assert {type(label) for label in onnx_labels(classes)} == {type(labels[0])}


@pytest.mark.parametrize(
    "classes", [np.array([0.5, 1.0]), np.array([1, "a"], dtype=object), np.array([np.inf, 0])]
)
def test_labels_that_onnx_does_not_know_are_a_clear_error(classes):
    with pytest.raises(ValueError, match="whole numbers or strings, and the classes are"):
        onnx_labels(classes)


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra_one_error_names_it(monkeypatch, fitted, tmp_path, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"needs {missing}.*pip install skfairprune\[onnx\]"):
        fitted.to_onnx(tmp_path / "model.onnx")


def test_the_package_is_imported_without_the_extra():
    code = (
        "import sys, skfairprune\n"
        "assert not {'onnx', 'onnxscript', 'onnxruntime', 'skl2onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_what_cannot_be_written_is_refused_before_the_export(fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, "export", lambda *args, **kwargs: pytest.fail("exported"))
    with pytest.raises(
        FileNotFoundError, match=r"model.onnx cannot be written: there is no folder .*missing"
    ):
        fitted.to_onnx(tmp_path / "missing" / "model.onnx")
    with pytest.raises(IsADirectoryError, match="is a folder; give the path of a file in it"):
        fitted.to_onnx(tmp_path)
    with pytest.raises(ValueError, match="quantize must be True or False; got 'no'"):
        fitted.to_onnx(tmp_path / "model.onnx", quantize="no")


def test_an_unfitted_estimator_is_a_clear_error(tmp_path):
    with pytest.raises(NotFittedError):
        FairPrunedClassifier().to_onnx(tmp_path / "model.onnx")
