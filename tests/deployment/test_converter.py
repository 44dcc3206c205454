import os
import re

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import skl2onnx
import torch
from numpy.testing import assert_allclose, assert_array_equal
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

from skfairprune import FairPrunedClassifier
from skfairprune.datasets import load_benchmark, make_biased_classification, make_preprocessor
from skfairprune.deployment import onnx_inputs, onnx_types, register_onnx_converter
from tests.networks.zoo import EmbeddingNetwork, PlainMLP


@pytest.fixture(autouse=True)
def _registered():
    register_onnx_converter()


def _convert(model, types, **options):
    content = skl2onnx.to_onnx(model, initial_types=types, options={"zipmap": False, **options})
    return _open(content)


def _open(content):
    return onnxruntime.InferenceSession(content.SerializeToString(), providers=["CPUExecutionProvider"])


def _fit(small, data, y=None, **params):
    model = make_pipeline(make_preprocessor(data.X), small(**{"max_epochs": 3, **params}))
    features = {"fairprunedclassifier__sensitive_features": data.sensitive_features}
    return model.fit(data.X, data.y if y is None else y, **features)


@pytest.fixture(scope="module")
def mixed():
    """Rows with numbers, categories, rare ones and missing values among them."""
    data = make_biased_classification(900, base_rates=(0.6, 0.2), as_frame=True, random_state=0)
    number = np.arange(900)
    more = np.select(
        [number % 150 == 1, number % 300 == 2, number % 2 == 0], ["rare", "rarer", "even"], "odd"
    )
    data.X["more"] = pd.Series(more, index=data.X.index).astype("category")
    data.X["flag"] = data.y == 1
    data.X.loc[data.X.index[::7], "more"] = None
    assert (data.X.dtypes == "category").sum() >= 2
    return data


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("classes", [(0, 1), ("no", "yes")])
def test_a_pipeline_of_mixed_columns_decides_alike(small, mixed, classes):
    model = _fit(small, mixed, np.array(classes)[mixed.y])
    encoder = model[0].named_transformers_["categorical"][-1]
    position = list(encoder.feature_names_in_).index("more")
    assert_array_equal(encoder.infrequent_categories_[position], ["rare", "rarer"])
    session = _convert(model, onnx_types(mixed.X))
    assert [output.name for output in session.get_outputs()] == ["label", "probabilities"]
    label, proba = session.run(None, onnx_inputs(mixed.X))
    assert_array_equal(label, model.predict(mixed.X))
    assert_allclose(proba, model.predict_proba(mixed.X), atol=1e-5)
    unknown = mixed.X.iloc[:1].assign(more="never seen")
    assert_allclose(session.run(None, onnx_inputs(unknown))[1], model.predict_proba(unknown), atol=1e-5)


def test_single_records_are_taken_as_the_model_declares_its_columns(small, mixed):
    """A number that is None makes a column of objects, and a flag can come as 1."""
    model = _fit(small, mixed)
    session, numbers = _convert(model, onnx_types(mixed.X)), mixed.X.select_dtypes("number").columns
    for row in mixed.X.iloc[:5].to_dict("records"):
        for changed in (
            row,
            row | {numbers[0]: None, "flag": int(row["flag"])},
            row | {"more": 7, "extra": 1},
        ):
            one = pd.DataFrame([changed])
            label, proba = session.run(None, onnx_inputs(one, session))
            assert_array_equal(label, model.predict(one))
            assert_allclose(proba, model.predict_proba(one), atol=1e-5)
    others = mixed.X.assign(label=1, **{"more ": 1})
    others[7] = 1
    assert onnx_inputs(others.iloc[:1], session).keys() == {value.name for value in session.get_inputs()}
    with pytest.raises(ValueError, match=r"takes the inputs 'flag', and X has no such columns"):
        onnx_inputs(mixed.X.drop(columns="flag"), session)
    with pytest.raises(ValueError, match=rf"The column '{numbers[0]}' is one of numbers, and has 'many'"):
        onnx_inputs(one.assign(**{numbers[0]: "many"}), session)


@pytest.mark.parametrize("dtype", [bool, object, str, int])
@pytest.mark.parametrize(
    "encoder",
    [
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
    ],
)
def test_encoders_of_ones_own_read_flags_as_they_are_written(dtype, encoder):
    flags = pd.Series([True, False, False, True, True], dtype=dtype)
    X = pd.DataFrame({"number": [0.5, 1, 2, 3, 4], "flag": flags, "job": list("abbca")})
    encode = ColumnTransformer([("encode", encoder, ["flag", "job"])], remainder="passthrough").fit(X)
    session = _open(skl2onnx.to_onnx(encode, initial_types=onnx_types(X)))
    (encoded,) = session.run(None, onnx_inputs(X, session))
    assert_array_equal(encoded, encode.transform(X))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_flags_that_no_encoder_reads_are_told(small):
    X = pd.DataFrame({"number": np.linspace(0, 1, 60), "flag": 20 * [True, False, True]})
    model = make_pipeline(ColumnTransformer([], remainder="passthrough"), small(max_epochs=3))
    model.fit(X, 30 * [0, 1], fairprunedclassifier__sensitive_features=np.arange(60) % 2)
    with pytest.raises(ValueError, match=r"turn booleans into integers, as by X.astype"):
        _convert(model, onnx_types(X))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (pd.to_datetime(["2020-01-01", "2020-01-02"]), r"no dates.*columns \['odd'\]"),
        ([123456789, 123456790], r"float32.*columns \['odd'\] apart: subtract a constant"),
    ],
)
def test_columns_that_an_onnx_model_cannot_take_are_told(values, match):
    with pytest.raises(ValueError, match=match):
        onnx_types(pd.DataFrame({"number": [1.0, 2.0], "odd": values}))


def test_a_model_with_inputs_of_other_types_is_told(small):
    data = make_biased_classification(300, base_rates=(0.6, 0.2), random_state=0)
    X = pd.DataFrame(data.X[:, :2], columns=["a", "b"])
    model = make_pipeline(StandardScaler(), small(max_epochs=3, constraint=None)).fit(X.to_numpy(), data.y)
    session = _convert(model, [("a", DoubleTensorType([None, 2]))])
    with pytest.raises(ValueError, match=r"types \['tensor\(double\)'\], and one by onnx_types has"):
        onnx_inputs(X, session)


def test_columns_keep_their_values_under_any_names(small, mixed):
    names = ["hours-per-week", "capital gain", "job.type", "1st (€)", "a+b", "größe", "_"]
    X = mixed.X.rename(columns=dict(zip(mixed.X.columns, names, strict=False)))
    assert set(names) < set(X.columns)
    model = make_pipeline(make_preprocessor(X), small(max_epochs=3)).fit(X, mixed.y)
    session = _convert(model, onnx_types(X))
    inputs = onnx_inputs(X[X.columns[::-1]])
    assert {value.name for value in session.get_inputs()} == set(inputs)
    assert_array_equal(session.run(None, inputs)[0], model.predict(X))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a b", "a.b"], "'a b' and 'a.b' would both be 'a_b'"),
        ([0, 1], "names that are strings; X has the column 0. Rename"),
        (["", "a"], "X has the column ''"),
        (["a", "label"], "has an output 'label': rename the column 'label'"),
    ],
)
def test_names_that_a_model_cannot_have_are_refused(names, message):
    X = pd.DataFrame(np.zeros((3, 2)), columns=names)
    for function in (onnx_types, onnx_inputs):
        with pytest.raises(ValueError, match=re.escape(message)):
            function(X)


def test_values_that_float32_cannot_tell_apart_are_refused(small, mixed):
    seconds = 1_600_000_000 + np.arange(len(mixed.X)) % 100
    X = mixed.X.assign(seconds=seconds)
    model = make_pipeline(make_preprocessor(X), small(max_epochs=3)).fit(X, mixed.y)
    with pytest.raises(
        ValueError, match=r"float32.*values of the columns \['seconds'\].*subtract a constant"
    ):
        onnx_types(X)
    with pytest.raises(ValueError, match=r"keeps numbers as float64.*Subtract a constant"):
        _convert(model, onnx_types(X.iloc[:1]))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_calibrated_model_decides_alike(small, train, fresh, n_classes, dtype):
    y = train.y if n_classes == 2 else np.digitize(train.X[:, 0], [-0.5, 0.5])
    clf = small(max_epochs=3, constraint=None, dtype=dtype)
    model = CalibratedClassifierCV(clf, cv=2).fit(train.X, y)
    session = _convert(model, [("X", FloatTensorType([None, train.X.shape[1]]))])
    rows = fresh.X.astype(np.float32)
    label, proba = session.run(None, {"X": rows})
    assert np.ptp(proba) > 0.1
    assert_allclose(proba, model.predict_proba(rows), atol=1e-5)
    assert (label == model.predict(rows)).mean() > 0.999  # but for ties


def test_scores_and_positions_are_given_where_they_are_asked_for(small, train, fresh):
    clf = small(max_epochs=3, constraint=None).fit(train.X, np.array(["no", "yes"])[train.y])
    types, rows = [("X", FloatTensorType([None, train.X.shape[1]]))], fresh.X.astype(np.float32)
    options = {"zipmap": False, "nocl": True, "raw_scores": True}
    content = skl2onnx.to_onnx(clf, initial_types=types, options={id(clf): options})
    label, scores = _open(content).run(None, {"X": rows})
    assert_array_equal(clf.classes_[label], clf.predict(rows))
    assert_allclose(scores, np.outer(clf.decision_function(rows), [-1, 1]), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_pipeline_of_numbers_decides_alike(small, train, fresh, dtype):
    model = make_pipeline(StandardScaler(), small(max_epochs=3, dtype=dtype)).fit(train.X, train.y)
    kind = skl2onnx.common.data_types.DoubleTensorType
    session = _convert(model, [("X", kind([None, train.X.shape[1]]))])
    for n_rows in (1, 9, 1000):
        label, proba = session.run(None, {"X": fresh.X[:n_rows]})
        assert_allclose(proba, model.predict_proba(fresh.X[:n_rows]), atol=1e-5)
        assert_array_equal(label, model.predict(fresh.X[:n_rows]))


def test_zipmap_names_the_classes(unconstrained, fresh):
    types = [("X", skl2onnx.common.data_types.FloatTensorType([None, fresh.X.shape[1]]))]
    session = _convert(unconstrained, types, zipmap=True)
    _, proba = session.run(None, {"X": fresh.X[:5].astype(np.float32)})
    assert_allclose([row[1] for row in proba], unconstrained.predict_proba(fresh.X[:5])[:, 1], atol=1e-5)


def test_other_functions_are_still_refused_and_identities_converted(train):
    kind = skl2onnx.common.data_types.FloatTensorType([None, train.X.shape[1]])
    for func in (None, np.log1p):
        columns = ColumnTransformer([("all", FunctionTransformer(func), slice(0, train.X.shape[1]))])
        model = make_pipeline(columns, LogisticRegression()).fit(np.abs(train.X), train.y)
        if func is None:
            label, _ = _convert(model, [("X", kind)]).run(None, {"X": np.abs(train.X).astype(np.float32)})
            assert np.mean(label == model.predict(np.abs(train.X))) > 0.99
        else:
            with pytest.raises(RuntimeError, match="FunctionTransformer is not supported unless"):
                _convert(model, [("X", kind)])


@pytest.mark.real_data
@pytest.mark.skipif("SKFAIRPRUNE_DATA" not in os.environ, reason="SKFAIRPRUNE_DATA names no folder of data")
def test_the_pipeline_on_adult_gives_the_same_label_on_every_test_row(small):
    data = load_benchmark("adult")
    part = data.split == "train"
    data.X, test, data.y = data.X[part], data.X[~part], data.y[part]
    data.sensitive_features = data.sensitive_features[part]
    assert test.isna().to_numpy().any()
    model = _fit(small, data, hidden_layer_sizes=(32, 32), constraint="equalized_odds")
    label, proba = _convert(model, onnx_types(data.X)).run(None, onnx_inputs(test))
    assert_array_equal(label, model.predict(test))
    assert_allclose(proba, model.predict_proba(test), atol=1e-5)
    assert len(label) == 16281


def test_a_pipeline_with_a_network_of_ones_own():
    data = make_biased_classification(600, base_rates=(0.6, 0.2), random_state=0)
    clf = FairPrunedClassifier(PlainMLP, sparsity=0.5, constraint=None, max_epochs=3, random_state=0)
    model = make_pipeline(StandardScaler(), clf).fit(data.X, data.y)
    session = _convert(model, [("X", FloatTensorType([None, data.X.shape[1]]))])
    rows = data.X.astype(np.float32)
    label, proba = session.run(None, {"X": rows})
    assert_array_equal(label, model.predict(rows))
    assert_allclose(proba, model.predict_proba(rows), atol=1e-5)


class _WithUnknown(EmbeddingNetwork):
    """Codes from -1: the first row of each embedding is for what is unknown."""

    def __init__(self, n_features, n_outputs):
        super().__init__(n_features, n_outputs, cardinalities=(4, 6))

    def forward(self, x):
        return super().forward(torch.cat([x[:, :2] + 1, x[:, 2:]], dim=1))


def test_a_pipeline_with_codes_of_categories():
    data = make_biased_classification(600, base_rates=(0.6, 0.2), random_state=0)
    frame = pd.DataFrame(data.X, columns=[f"x{number}" for number in range(data.X.shape[1])])
    numbers = list(frame.columns)
    frame.insert(0, "job", np.array(["clerk", "none", "nurse"])[np.arange(600) % 3])
    frame.insert(1, "town", np.array(list("abcde"))[np.arange(600) % 5])
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer([("codes", encoder, ["job", "town"]), ("numbers", StandardScaler(), numbers)])
    clf = FairPrunedClassifier(_WithUnknown, sparsity=0.5, constraint=None, max_epochs=3, random_state=0)
    model = make_pipeline(columns, clf).fit(frame, np.where(data.y == 1, "yes", "no"))
    session = _convert(model, onnx_types(frame))
    frame.loc[::10, "job"] = "pilot"
    label, proba = session.run(None, onnx_inputs(frame))
    assert set(label) == {"no", "yes"}
    assert_array_equal(label, model.predict(frame))
    assert_allclose(proba, model.predict_proba(frame), atol=1e-5)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_rule_that_the_estimator_does_not_tell_of_is_not_exported(small, mixed):
    model = _fit(small, mixed)
    model[-1].module_.set_bound(1.0)
    with pytest.raises(ValueError, match=r"another rule than that of bound_="):
        _convert(model, onnx_types(mixed.X))
    model[-1].set_bound(1.0)
    _convert(model, onnx_types(mixed.X))
