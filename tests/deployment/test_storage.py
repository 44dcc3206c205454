import builtins
import json
import pickle
import re
import sys

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from fairlearn.reductions import DemographicParity
from numpy.testing import assert_array_equal
from pandas.testing import assert_frame_equal
from sklearn import config_context
from sklearn.exceptions import NotFittedError
from torch import nn

from skfairprune import FairPrunedClassifier
from skfairprune.audit import audit
from skfairprune.deployment import storage
from tests.networks.zoo import PlainMLP

ATTRIBUTES = [*storage._FITTED, *storage._SOMETIMES]


def _reload(clf, folder):
    clf.save(folder / "model.safetensors")
    return FairPrunedClassifier.load(folder / "model.safetensors")


def _tensors(value):
    """Return the arrays of an attribute, to compare bit by bit."""
    return [data.numpy() for data in value.state_dict().values()]


def _assert_same(found, expected, name):
    assert type(found) is type(expected), name
    if isinstance(expected, torch.nn.Module):
        assert str(found) == str(expected)
        assert not found.training
        for one, other in zip(_tensors(found), _tensors(expected), strict=True):
            assert one.dtype == other.dtype
            assert_array_equal(one, other)
    elif isinstance(expected, pd.DataFrame):
        assert_frame_equal(found, expected, check_exact=True)
    elif isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
        assert_array_equal(found, expected)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), name
        for one, other in zip(found, expected, strict=True):
            _assert_same(one, other, name)
    elif hasattr(expected, "__dataclass_fields__"):
        for field in expected.__dataclass_fields__:
            _assert_same(getattr(found, field), getattr(expected, field), f"{name}.{field}")
    else:
        assert found == expected or (found != found and expected != expected), name


def _assert_same_estimator(found, expected):
    assert found.get_params() == expected.get_params()
    assert set(vars(found)) == set(vars(expected))
    for name in ATTRIBUTES:
        if hasattr(expected, name):
            _assert_same(getattr(found, name), getattr(expected, name), name)


def test_everything_of_a_constrained_model_comes_back(fitted, fresh, tmp_path):
    found = _reload(fitted, tmp_path)
    _assert_same_estimator(found, fitted)
    assert_array_equal(found.predict_proba(fresh.X), fitted.predict_proba(fresh.X))
    assert_array_equal(found.predict_uncorrected_proba(fresh.X), fitted.predict_uncorrected_proba(fresh.X))
    assert_array_equal(found.predict(fresh.X), fitted.predict(fresh.X))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_loaded_model_can_be_set_to_every_bound(fitted, fresh, tmp_path):
    found, expected = _reload(fitted, tmp_path), pickle.loads(pickle.dumps(fitted))
    for bound in fitted.frontier_["bound"]:
        found.set_bound(float(bound))
        expected.set_bound(float(bound))
        _assert_same_estimator(found, expected)
        assert_array_equal(found.predict_proba(fresh.X), expected.predict_proba(fresh.X))


def test_a_model_without_constraint_comes_back(unconstrained, fresh, tmp_path):
    found = _reload(unconstrained, tmp_path)
    _assert_same_estimator(found, unconstrained)
    assert_array_equal(found.predict_proba(fresh.X), unconstrained.predict_proba(fresh.X))
    with pytest.raises(ValueError, match="set_bound needs the decision rules"):
        found.set_bound(0.1)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_rules_that_know_the_group_come_back(small, train, fresh, tmp_path):
    frame = pd.DataFrame(train.X, columns=train.distribution.feature_names)
    groups = pd.DataFrame({"group": train.sensitive_features, "senior": train.X[:, 0] > 0})
    clf = small(attribute_aware=True, max_epochs=3, dropout=0.1, prune_inputs=True, activation="silu")
    clf.fit(frame, np.where(train.y == 1, "yes", "no"), sensitive_features=groups)
    found = _reload(clf, tmp_path)
    _assert_same_estimator(found, clf)
    assert all(isinstance(label, tuple) for label in found.groups_)
    rows = pd.DataFrame(fresh.X, columns=frame.columns)
    told = pd.DataFrame({"group": fresh.sensitive_features, "senior": fresh.X[:, 0] > 0})
    assert_array_equal(
        found.predict_proba(rows, sensitive_features=told), clf.predict_proba(rows, sensitive_features=told)
    )
    assert_array_equal(found.predict(rows), clf.predict(rows))
    assert (found.predict(rows) != found.predict(rows, sensitive_features=told)).any()
    with pytest.raises(ValueError, match="feature names should match"):
        found.predict(rows.iloc[:, ::-1])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "kwargs", [{"sparsity": "auto", "max_accuracy_drop": 0.5}, {"constraint": "degradation_parity"}]
)
def test_attributes_of_other_fits_come_back(small, train, tmp_path, kwargs):
    clf = small(**{"max_epochs": 3, **kwargs})
    clf.fit(train.X[:400], train.y[:400], sensitive_features=train.sensitive_features[:400])
    _assert_same_estimator(_reload(clf, tmp_path), clf)


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0, 1], dtype=np.int8),
        np.array([False, True]),
        np.array(["no", "yes"]),
        np.array([1.0, 2.0]),
        np.array(["no", "yes"], dtype=object),
    ],
)
def test_labels_of_every_kind_come_back(train, tmp_path, labels):
    clf = FairPrunedClassifier(
        hidden_layer_sizes=(4,),
        sparsity=0,
        max_epochs=3,
        pos_label=labels[0],
        class_weight={labels[0]: 1, labels[1]: 2.5},
    )
    clf.fit(train.X[:100], labels[train.y[:100]])
    found = _reload(clf, tmp_path)
    _assert_same_estimator(found, clf)
    assert found.predict(train.X).dtype == clf.predict(train.X).dtype
    assert_array_equal(found.predict(train.X), clf.predict(train.X))


def test_metadata_requests_come_back(unconstrained, tmp_path):
    clf = pickle.loads(pickle.dumps(unconstrained))
    with config_context(enable_metadata_routing=True):
        clf.set_fit_request(sample_weight=True, X_val=False).set_predict_request(sensitive_features="A")
        found = _reload(clf, tmp_path)
        assert str(found.get_metadata_routing()) == str(clf.get_metadata_routing())
    assert str(found.get_metadata_routing()) != str(unconstrained.get_metadata_routing())


def test_a_loaded_model_fits_again(fitted, train, fresh, tmp_path):
    found = _reload(fitted, tmp_path)
    found.fit(train.X, train.y, sensitive_features=train.sensitive_features)
    assert_array_equal(found.predict_proba(fresh.X), fitted.predict_proba(fresh.X))


def test_the_file_is_replaced_whole_and_leaves_nothing_else(fitted, unconstrained, tmp_path):
    unconstrained.save(tmp_path / "model.safetensors")
    assert _reload(fitted, tmp_path).constraint_ == "demographic_parity"
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_link_stays_and_its_file_is_replaced(fitted, unconstrained, tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "model.safetensors", tmp_path / "model.safetensors"
    unconstrained.save(target)
    link.symlink_to(target)
    assert _reload(fitted, tmp_path).constraint_ == "demographic_parity"
    assert link.is_symlink()
    assert FairPrunedClassifier.load(target).constraint_ == "demographic_parity"
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["model.safetensors"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_parameters_of_numpys_types_come_back(small, train, tmp_path):
    sizes = tuple(np.array([16, 16]))
    clf = small(hidden_layer_sizes=sizes, dropout=np.float32(0.1), max_epochs=3).fit(train.X, train.y)
    assert type(clf.sparsity_) is float
    _assert_same_estimator(_reload(clf, tmp_path), clf)


class Narrow(FairPrunedClassifier):
    """A subclass whose constructor takes a few parameters, and one of its own."""

    def __init__(self, width=8, *, max_epochs=3, random_state=None):
        super().__init__(
            hidden_layer_sizes=(width, width), sparsity=0.5, max_epochs=max_epochs, random_state=random_state
        )
        self.width = width


class Narrower(FairPrunedClassifier):
    """A subclass whose constructor takes a few parameters of its base."""

    def __init__(self, *, random_state=None):
        super().__init__(hidden_layer_sizes=(8,), sparsity=0.5, max_epochs=3, random_state=random_state)


@pytest.mark.parametrize(
    ("saved_by", "loaded_by"),
    [(Narrow, Narrow), (Narrower, Narrower), (Narrower, FairPrunedClassifier)],
)
def test_a_subclass_with_a_narrower_constructor_comes_back(train, fresh, tmp_path, saved_by, loaded_by):
    clf = saved_by(random_state=0).fit(train.X, train.y)
    clf.save(tmp_path / "model.safetensors")
    found = loaded_by.load(tmp_path / "model.safetensors")
    assert type(found) is loaded_by
    assert vars(found).keys() == vars(clf).keys()
    assert found.hidden_layer_sizes == clf.hidden_layer_sizes
    assert_array_equal(found.predict_proba(fresh.X), clf.predict_proba(fresh.X))
    assert_array_equal(found.fit(train.X, train.y).predict(fresh.X), clf.predict(fresh.X))


def test_a_folder_that_is_not_there_is_named(fitted, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model.st cannot be written: there is no folder .*missing"):
        fitted.save(tmp_path / "missing" / "model.st")


def test_a_load_leaves_the_generators_and_asks_for_no_device(fitted, tmp_path, monkeypatch):
    fitted.save(tmp_path / "model.safetensors")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("asked for a device"))
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("asked for a device"))
    torch.manual_seed(3)
    found = FairPrunedClassifier.load(tmp_path / "model.safetensors")
    after = torch.rand(2)
    torch.manual_seed(3)
    assert_array_equal(after, torch.rand(2))
    assert {data.device.type for data in found.module_.state_dict().values()} == {"cpu"}


def test_a_model_of_a_machine_with_a_gpu_loads(fitted, fresh, tmp_path):
    clf = pickle.loads(pickle.dumps(fitted)).set_params(device="cuda:1")
    found = _reload(clf, tmp_path)
    assert found.device == "cuda:1"
    assert_array_equal(found.predict(fresh.X), fitted.predict(fresh.X))


# What cannot be saved


@pytest.mark.parametrize(
    ("params", "remedy"),
    [
        ({"sparsity_schedule": float}, r"set_params\(sparsity_schedule='cubic'\)"),
        ({"constraint": DemographicParity()}, r"set_params\(constraint=None\)"),
        ({"random_state": np.random.RandomState(0)}, r"set_params\(random_state=None\)"),
        ({"pos_label": pd.Timestamp("2020-01-01")}, "use joblib.dump"),
    ],
)
def test_a_parameter_that_is_no_data_is_a_clear_error(unconstrained, tmp_path, params, remedy):
    clf = pickle.loads(pickle.dumps(unconstrained)).set_params(**params)
    with pytest.raises(ValueError, match=rf"The parameter {next(iter(params))}=.*{remedy}"):
        clf.save(tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_parameter_that_no_fit_takes_is_a_clear_error(unconstrained, tmp_path):
    clf = pickle.loads(pickle.dumps(unconstrained)).set_params(max_epochs=2)
    with pytest.raises(ValueError, match=r"'max_epochs' parameter .* must be .*Got 2"):
        clf.save(tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_label_that_is_no_data_is_a_clear_error(unconstrained, tmp_path):
    clf = pickle.loads(pickle.dumps(unconstrained))
    clf.groups_ = [pd.Interval(0, 1), pd.Interval(1, 2)]
    with pytest.raises(ValueError, match=r"groups_\.0 is Interval.*turn others into strings before fit"):
        clf.save(tmp_path / "model.safetensors")


def test_an_attribute_of_a_subclass_is_a_clear_error(unconstrained, tmp_path):
    clf = pickle.loads(pickle.dumps(unconstrained))
    clf.extra_ = 1
    with pytest.raises(ValueError, match=r"save does not know the attributes \['extra_'\]"):
        clf.save(tmp_path / "model.safetensors")


def test_a_network_of_another_kind_is_a_clear_error(unconstrained, tmp_path):
    clf = pickle.loads(pickle.dumps(unconstrained))
    clf.module_.network = torch.nn.Linear(7, 2)
    with pytest.raises(ValueError, match="module_ is a network of type Linear"):
        clf.save(tmp_path / "model.safetensors")


def test_an_unfitted_estimator_is_a_clear_error(tmp_path):
    with pytest.raises(NotFittedError):
        FairPrunedClassifier().save(tmp_path / "model.safetensors")


# What cannot be loaded


@pytest.fixture
def saved(fitted, tmp_path):
    """A saved model's path, tensors, metadata and JSON."""
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    return _parts(path)


def _parts(path):
    with safetensors.safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    return path, tensors, metadata, json.loads(metadata["estimator"])


def _forge(path, tensors, content):
    """Write content with a checksum that holds."""
    text = json.dumps(content)
    metadata = {"skfairprune": "1", "estimator": text, "sha256": storage._checksum(text, tensors)}
    safetensors.torch.save_file(tensors, path, metadata)


def _refuses(path, message):
    with pytest.raises(ValueError, match=rf"(?s){re.escape(str(path))} {message}"):
        FairPrunedClassifier.load(path)


def test_a_missing_file_is_the_usual_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file .*absent; give the path of one that save"):
        FairPrunedClassifier.load(tmp_path / "absent")


@pytest.mark.parametrize("content", [b"", b"PK\3\4 a zip", pickle.dumps({"a": 1}), b"\xff" * 100])
def test_another_file_is_a_clear_error(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    _refuses(path, "is not a file that FairPrunedClassifier.save wrote, or it is damaged")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_tensors_of_another_program_are_a_clear_error(tmp_path, metadata):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file({"weight": torch.ones(3)}, path, metadata)
    _refuses(path, "holds tensors, but is not a file that FairPrunedClassifier.save wrote")


def test_a_newer_format_is_a_clear_error(saved):
    path, tensors, metadata, _ = saved
    safetensors.torch.save_file(tensors, path, {**metadata, "skfairprune": "8"})
    _refuses(path, r"is of format 8, and this version of skfairprune reads up to 7\. Update skfairprune")


def test_a_file_of_the_first_format_loads(saved, fitted, fresh):
    path, tensors, _, content = saved
    for name in ("_example", "_example_joint", "_dense_shapes"):
        del content["fitted"][name]
    for name in ("granularity", "weight_pattern"):
        del content["params"][name]
    del content["own"]
    _forge(path, tensors, content)
    loaded = FairPrunedClassifier.load(path)
    assert_array_equal(loaded.predict_proba(fresh.X), fitted.predict_proba(fresh.X))
    loaded.to_torch()


def _records(content, name):
    """Yield the fields of all records of that name in JSON."""
    if isinstance(content, dict):
        if content.get("record", [None])[0] == name:
            yield content["record"][1]
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from _records(part, name)


def test_a_file_of_the_second_format_loads(saved, fitted, fresh):
    path, tensors, _, content = saved
    gap = {"value": 0.2, "standard_error": 0.1, "event": 0, "lowest": 0, "highest": 1}
    rules = list(_records(content["fitted"]["_frontier"], "FrontierRule"))
    assert len(rules) > 2
    for number, rule in enumerate(rules):
        del rule["accuracy_error"]
        rule["strayed"] = {"record": ["Gap", gap]} if number == 0 else None
    for fit in _records(content["fitted"]["_frontier"], "RuleFit"):
        del fit["raised"]
    content["fitted"]["_rows"] = {"dict": [[True, False], ["some rows", "others"]]}
    _forge(path, tensors, content)
    loaded = FairPrunedClassifier.load(path)
    assert_array_equal(loaded.predict_proba(fresh.X), fitted.predict_proba(fresh.X))
    assert loaded.set_bound(1.0).validation_gap_.rows == "some rows"


def test_a_file_of_the_fourth_format_loads(saved, fitted, fresh):
    path, tensors, _, content = saved
    del content["fitted"]["group_rates_"]
    for rule in _records(content["fitted"]["_frontier"], "FrontierRule"):
        del rule["cells"]
    _forge(path, tensors, content)
    loaded = FairPrunedClassifier.load(path)
    assert_array_equal(loaded.predict_proba(fresh.X), fitted.predict_proba(fresh.X))
    gap = loaded.set_bound(1.0).validation_gap_
    np.testing.assert_allclose(gap.upper, gap.value + 1.645 * gap.standard_error)
    assert loaded.group_rates_ is None


def test_a_file_of_the_fifth_format_loads(saved, fitted, fresh):
    path, tensors, _, content = saved
    frontier = content["fitted"]["_frontier"]
    for record, name in (
        ("RuleFit", "odds"),
        ("FrontierRule", "balanced_accuracy"),
        ("RuleFrontier", "majority"),
    ):
        for fields in _records(frontier, record):
            del fields[name]
    _forge(path, tensors, content)
    loaded = FairPrunedClassifier.load(path)
    assert_array_equal(loaded.predict_proba(fresh.X), fitted.predict_proba(fresh.X))
    loaded.set_bound(1.0)
    assert_array_equal(loaded.predict_proba(fresh.X), loaded.predict_uncorrected_proba(fresh.X))


def test_a_file_of_the_sixth_format_loads_and_can_be_audited(saved, fitted, fresh):
    path, tensors, _, content = saved
    del content["fitted"]["_group_names"]
    _forge(path, tensors, content)
    loaded = FairPrunedClassifier.load(path)
    rows = {
        "y_true": fresh.y,
        "y_pred": fitted.predict(fresh.X),
        "sensitive_features": fresh.sensitive_features,
    }
    assert audit(**rows, model=loaded).to_html() == audit(**rows, model=fitted).to_html()


@pytest.mark.parametrize("place", [0, 100, 0.3, 0.9, -1])
def test_a_damaged_file_is_a_clear_error(saved, place):
    path = saved[0]
    data = bytearray(path.read_bytes())
    data[int(place * len(data)) if isinstance(place, float) else place] ^= 0x10
    path.write_bytes(data)
    _refuses(path, ".*damaged|.*is not a file")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_a_clear_error(saved, share):
    path = saved[0]
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    _refuses(path, ".*damaged")


@pytest.mark.parametrize("name", ["module_", "classes_", "_frontier", "validation_gap_"])
def test_a_missing_member_is_a_clear_error(saved, name):
    path, tensors, _, content = saved
    del content["fitted"][name]
    _forge(path, tensors, content)
    _refuses(path, rf"is damaged: it lacks \['{name}'\]")


def test_a_missing_tensor_is_a_clear_error(saved):
    path, tensors, _, content = saved
    _forge(path, {k: v for k, v in tensors.items() if k != "module_.network.layers.0.bias"}, content)
    _refuses(path, "is damaged: RuntimeError: .*layers.0.bias")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("params", "hooks", 1),
        ("fitted", "predict", None),
        ("fitted", "__class__", None),
        ("fitted", "groups_", {"reduce": ["os.system", ["touch owned"]]}),
        ("fitted", "groups_", {"record": ["eval", {"source": "open('owned', 'w')"}]}),
        ("fitted", "groups_", {"scalar": ["O", 1]}),
        ("fitted", "_rows", {"dict": [[], []]}),
        ("requests", "params", {"lr": 1}),
    ],
)
def test_a_forged_file_is_refused(saved, part, name, value):
    path, tensors, _, content = saved
    content[part][name] = value
    _forge(path, tensors, content)
    _refuses(path, "is damaged")


@pytest.mark.parametrize("name", ["_example_joint", "_dense_shapes", "_example"])
@pytest.mark.parametrize("forged", ["missing", None])
def test_a_forged_file_of_a_network_of_ones_own_is_refused(train, tmp_path, name, forged):
    clf = FairPrunedClassifier(PlainMLP, sparsity=0.5, max_epochs=3, constraint=None, random_state=0)
    clf.fit(train.X[:200], train.y[:200]).save(tmp_path / "own.safetensors")
    path, tensors, _, content = _parts(tmp_path / "own.safetensors")
    content["fitted"][name] = None
    if forged == "missing":
        del content["fitted"][name]
    _forge(path, tensors, content)
    with pytest.raises(ValueError, match=r"is damaged|gives other outputs"):
        FairPrunedClassifier.load(path, module=PlainMLP)


def test_a_file_of_the_users_beside_it_stays(saved):
    path = saved[0]
    mine = path.with_name(path.name + ".part")
    mine.write_text("mine")
    FairPrunedClassifier.load(path).save(path)
    assert mine.read_text() == "mine"
    assert {*path.parent.glob(f"{path.name}*")} == {path, mine}


def test_loading_runs_no_code(saved, monkeypatch):
    for name in ("eval", "exec", "compile"):
        monkeypatch.setattr(builtins, name, lambda *a, **k: pytest.fail("code was run"))
    monkeypatch.setattr(pickle, "loads", lambda *a, **k: pytest.fail("a pickle was read"))
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("a pickle was read"))
    before = set(sys.modules)
    FairPrunedClassifier.load(saved[0])
    assert set(sys.modules) == before
    assert b"skfairprune.deployment" not in saved[0].read_bytes()


def test_a_transposed_convolution_comes_back_with_its_sizes(train, tmp_path):
    class Up(nn.Module):
        def __init__(self, n_features, n_outputs):
            super().__init__()
            self.first, self.up = nn.Linear(n_features, 16), nn.ConvTranspose1d(16, 6, 3)
            self.head = nn.Linear(18, n_outputs)

        def forward(self, x):
            hidden = self.up(self.first(x).relu()[:, :, None])
            return self.head(hidden.reshape(len(x), self.up.out_channels * 3))

    clf = FairPrunedClassifier(Up, sparsity=0, max_epochs=3, constraint=None, random_state=0)
    clf.fit(train.X[:200], train.y[:200]).save(tmp_path / "up.safetensors")
    loaded = FairPrunedClassifier.load(tmp_path / "up.safetensors", module=Up)
    up = loaded.module_.network.module.up
    assert (up.in_channels, up.out_channels) == (16, 6)
    assert_array_equal(loaded.predict_proba(train.X), clf.predict_proba(train.X))
