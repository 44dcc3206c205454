"""Every bad input: one error that says what was got and what to do."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.exceptions import NotFittedError

from skfairprune import FairPrunedClassifier
from skfairprune._parameters import resolve_device
from skfairprune.datasets import make_biased_classification

DATA = make_biased_classification(600, random_state=0)
X, y, A = DATA.X, DATA.y, DATA.sensitive_features
ONES = np.ones(len(y))
FRAME = pd.DataFrame(X, columns=list("abcdefg"))
VAL = {"X_val": X[:100], "y_val": y[:100], "sensitive_features_val": A[:100]}
NAN = float("nan")


def _with(values, position, value):
    changed = np.array(values, dtype=object if isinstance(value, str | None) else None)
    changed[position] = value
    return changed


def _params(**params):
    return params, {}


def _data(**data):
    return {}, data


def _grouped(**data):
    return {}, {"sensitive_features": A, **data}


# What is changed in a good call, and what the message must say: what was got, then what to do.
BAD_FITS = {
    "too few sensitive features": (
        _data(sensitive_features=A[:-1]),
        r"sensitive_features has 599 values, but there are 600 samples; pass one value per sample",
    ),
    "sensitive features None": (
        _data(sensitive_features=_with(A, 3, None)),
        r"Missing values: sensitive_features has 1\..*label of their own.*or drop them",
    ),
    "sensitive features NaN": (
        _data(sensitive_features=_with(np.arange(600) % 2.0, slice(4), NAN)),
        r"Missing values: sensitive_features has 4\..*label of their own.*or drop them",
    ),
    "missing values in one of two columns": (
        _data(sensitive_features=pd.DataFrame({"sex": _with(A, 3, None), "origin": A})),
        r"column 'sex' of sensitive_features has 1\..*or drop them",
    ),
    "short sensitive features without a constraint": (
        ({"constraint": None}, {"sensitive_features": A[:-1]}),
        r"sensitive_features has 599 values, but there are 600 samples",
    ),
    "sensitive features a name": (
        _data(sensitive_features="sex"),
        r"sensitive_features must have one or two dimensions.*got 'sex'; pass the values",
    ),
    "3-d sensitive features": (
        _data(sensitive_features=np.zeros((600, 1, 1))),
        r"sensitive_features must have one or two dimensions.*got 3-d values; pass the values",
    ),
    "one group": (
        _data(sensitive_features=["f"] * 600),
        r"only 1 of the 1 groups.*the only one is 'f'.*Give at least two groups.*constraint=None",
    ),
    "one group that is large enough": (
        _data(sensitive_features=np.where(np.arange(600) < 5, "rare", "f")),
        r"only 1 of the 2 groups.*too small: 'rare' with 5\. .*lower min_cell_size",
    ),
    "all groups too small": (
        _data(sensitive_features=np.arange(600)),
        r"only 0 of the 600 groups.*merge small ones",
    ),
    "NaN in X": (_data(X=_with(X, (0, 0), NAN)), r"missing values \(NaN\): 0. Impute"),
    "masked values in X": (_data(X=np.ma.array(X, mask=X > 2)), r"masked array with masked values\. Impute"),
    "masked labels": (_data(y=np.ma.array(y, mask=X[:, 0] > 2)), r"y is a masked array with masked values"),
    "masked weights": (
        _data(sample_weight=np.ma.array(ONES, mask=X[:, 0] > 2)),
        r"sample_weight is a masked array",
    ),
    "masked groups": (
        _data(sensitive_features=np.ma.array(A, mask=np.arange(600) < 7)),
        r"Missing values: sensitive_features has 7\.",
    ),
    "rules that are told groups that are not there": (
        _params(attribute_aware=True),
        r"attribute_aware=True .*fit got no sensitive_features",
    ),
    "inf in X": (_data(X=_with(X, (0, 0), np.inf)), r"Input X contains infinity"),
    "text in X": (_data(X=X.astype(str) + "a"), r"could not convert string to float: .*-1\.208"),
    "a column of categories": (
        _data(X=FRAME.assign(job=pd.Categorical(A))),
        r"X has columns that are not numbers: 'job'; 'job' has 'group_\d'\. Encode.*make_preprocessor\(X\)",
    ),
    "a column of dates": (
        _data(X=FRAME.assign(day=pd.Timestamp("2020-01-31"))),
        r"columns that are not numbers: 'day'; 'day' has Timestamp\('2020-01-31",
    ),
    "missing values in a column": (
        _data(X=FRAME.assign(a=_with(ONES, 3, NAN), b=1.0, c=NAN)),
        r"columns with missing values \(NaN\): 'a', 'c'\. Impute them.*make_preprocessor\(X\)",
    ),
    "attribute-aware without a constraint": (
        _params(attribute_aware=True, constraint=None),
        r"attribute_aware=True fits.*constraint=None.*Set a constraint",
    ),
    "attribute-aware without a rule": (
        ({"attribute_aware": True, "decision_rule": False}, {"sensitive_features": A}),
        r"attribute_aware=True fits.*decision_rule=False.*or leave attribute_aware=False",
    ),
    "too many inputs to prune": (
        ({"prune_inputs": True, "n_bins": 48}, {"X": np.random.default_rng(0).normal(size=(600, 250))}),
        r"the 250 columns have 12,000 of them; at most 10,000.*Choose fewer n_bins",
    ),
    "a class weight that is no number": (
        _params(class_weight={0: "2", 1: 1}),
        r"class_weight must hold positive and finite numbers; got \{0: '2'\}",
    ),
    "X without rows": (_data(X=X[:0], y=y[:0]), r"0 sample\(s\) \(shape=\(0, 7\)\) while a minimum of 1"),
    "X without columns": (_data(X=X[:, :0]), r"0 feature\(s\) \(shape=\(600, 0\)\) while a minimum of 1"),
    "3-d X": (_data(X=X[:, :, None]), r"dim 3, while dim <= 2 is required"),
    "1-d X": (_data(X=X[:, 0]), r"Expected 2D array, got 1D array.*Reshape your data"),
    "X shorter than y": (_data(X=X[:-1]), r"inconsistent numbers of samples: \[599, 600\]"),
    "complex X": (_data(X=X + 1j), r"Complex data not supported"),
    "every column constant": (_data(X=np.ones_like(X)), r"constant"),
    "classes beyond memory": (
        (
            {"constraint": "equalized_odds", "min_cell_size": 1},
            {"sensitive_features": A, "y": pd.Series(A).groupby(A).cumcount().to_numpy() % 100},
        ),
        r"equalized_odds of 100 classes and 2 groups has too many rates\. Merge rare classes",
    ),
    "a single class": (_data(y=np.full(600, "no")), r"y has one class only, 'no'.*needs at least two"),
    "a single class with weight": (
        _data(sample_weight=(y == 0) * 1.0),
        r"y has one class only, 0 \(rows of weight 0 do not count\)",
    ),
    "NaN in y": (_data(y=_with(y * 1.0, 0, NAN)), r"Input y contains NaN"),
    "continuous y": (_data(y=X[:, 0]), r"Unknown label type: continuous.*regression target"),
    "2-d y": (_data(y=np.c_[y, y]), r"y should be a 1d array, got an array of shape \(600, 2\)"),
    "weights by a word": (_data(sample_weight="balanced"), r"one number .*got 'balanced'.*class_weight"),
    "NaN weight": (_data(sample_weight=_with(ONES, 0, NAN)), r"sample_weight contains NaN"),
    "infinite weight": (_data(sample_weight=_with(ONES, 0, np.inf)), r"sample_weight contains infinity"),
    "negative weight": (_data(sample_weight=_with(ONES, 0, -1)), r"Negative values.*`sample_weight`"),
    "all weights zero": (_data(sample_weight=0 * ONES), r"[Ss]ample weights.*(non-zero|positive)"),
    "too few weights": (
        _data(sample_weight=ONES[:-1]),
        r"sample_weight\.shape == \(599,\), expected \(600,\)",
    ),
    "X_val without y_val": (
        _data(X_val=X[:9]),
        r"X_val is given without y_val; pass both or neither",
    ),
    "y_val without X_val": (
        _data(y_val=y[:9]),
        r"y_val is given without X_val; pass both or neither",
    ),
    "sensitive_features_val alone": (
        _data(sensitive_features_val=A[:9]),
        r"sensitive_features_val is given without X_val; pass X_val and y_val too",
    ),
    "X_val without sensitive_features_val under a constraint": (
        _grouped(X_val=X[:99], y_val=y[:99]),
        r"X_val is given without sensitive_features_val; the constraint needs the groups",
    ),
    "X_val and y_val of different lengths": (
        _grouped(**{**VAL, "y_val": y[:99]}),
        r"X_val has 100 rows and y_val has 99; they must be as many",
    ),
    "too few sensitive_features_val": (
        _grouped(**{**VAL, "sensitive_features_val": A[:99]}),
        r"sensitive_features_val has 99 values, but there are 100 samples",
    ),
    "missing sensitive_features_val": (
        _grouped(**{**VAL, "sensitive_features_val": _with(A[:100], 0, None)}),
        r"Missing values: sensitive_features_val has 1\..*or drop them",
    ),
    "unseen group in the held-out part": (
        _grouped(**{**VAL, "sensitive_features_val": _with(A[:100], 0, "new")}),
        r"sensitive_features_val has the groups \['new'\].*does not have.*\['group_0', 'group_1'\]",
    ),
    "unseen class in the held-out part": (
        _grouped(**{**VAL, "y_val": _with(y[:100], 0, 7)}),
        r"y_val has the classes \[7\], which y does not have; y has \[0, 1\]",
    ),
    "a group without held-out rows": (
        _grouped(**{**VAL, "sensitive_features_val": ["group_0"] * 100}),
        r"sensitive_features_val.*'group_1'",
    ),
    "an event without held-out rows": (
        ({"constraint": "equalized_odds"}, {"sensitive_features": A, **VAL, "y_val": [0] * 100}),
        r"y_val.*y=1",
    ),
    "X_val without rows": (
        _grouped(X_val=X[:0], y_val=y[:0], sensitive_features_val=A[:0]),
        r"X_val.*0 sample",
    ),
    "other columns in X_val": (
        _grouped(**{**VAL, "X_val": X[:100, :3]}),
        r"X_val.*3 features.*expecting 7",
    ),
    "NaN in X_val": (_grouped(**{**VAL, "X_val": _with(X[:100], (0, 0), NAN)}), r"X_val.*missing values"),
    "unknown constraint": (
        ({"constraint": "dp"}, {"sensitive_features": A}),
        r"'constraint' parameter.*'demographic_parity'.*Got 'dp' instead",
    ),
    "sparsity 1": (
        _params(sparsity=1),
        r"'sparsity'.*in the range \[0\.0, 1\.0\) or .*'auto'.*Got 1 instead",
    ),
    "sparsity below 0": (_params(sparsity=-0.1), r"'sparsity'.*\[0\.0, 1\.0\) or .*Got -0\.1 instead"),
    "sparsity NaN": (_params(sparsity=NAN), r"'sparsity'.*\[0\.0, 1\.0\) or .*Got nan instead"),
    "sparsity text": (_params(sparsity="high"), r"'sparsity'.*\[0\.0, 1\.0\) or .*Got 'high' instead"),
    "sparsity too high for the sizes": (
        _params(sparsity=0.999),
        r"sparsity=0\.999 cannot be reached.*a sparsity of 0\.9\d+\. Ask for at most that",
    ),
    "bound below 0": (_params(difference_bound=-0.1), r"'difference_bound'.*\[0\.0, 1\.0\]\. Got -0\.1"),
    "bound above 1": (_params(difference_bound=1.1), r"'difference_bound'.*\[0\.0, 1\.0\]\. Got 1\.1"),
    "bound NaN": (_params(difference_bound=NAN), r"'difference_bound'.*\[0\.0, 1\.0\]\. Got nan"),
    "bound None": (_params(difference_bound=None), r"'difference_bound'.*\[0\.0, 1\.0\]\. Got None"),
    "unknown device": (
        _params(device="gpu"),
        r"device='gpu' is not available here.*use 'auto', 'cpu' or an available GPU",
    ),
    "device None": (_params(device=None), r"'device'.*Got None instead"),
    "hidden size 0": (
        _params(hidden_layer_sizes=(16, 0)),
        r"'hidden_layer_sizes'.*at least 1\. Got \(16, 0\)",
    ),
    "hidden size below 0": (
        _params(hidden_layer_sizes=(-1,)),
        r"'hidden_layer_sizes'.*at least 1\. Got \(-1,\)",
    ),
    "hidden size a float": (
        _params(hidden_layer_sizes=(16, 2.5)),
        r"'hidden_layer_sizes'.*integer.*Got \(16, 2\.5\)",
    ),
    "no hidden layer": (_params(hidden_layer_sizes=()), r"'hidden_layer_sizes'.*at least one.*Got \(\)"),
    "hidden sizes a number": (_params(hidden_layer_sizes=16), r"'hidden_layer_sizes'.*'tuple'.*Got 16"),
    "max_epochs below 3": (_params(max_epochs=2), r"'max_epochs'.*\[3, inf\).*Got 2"),
    "max_epochs a float": (_params(max_epochs=9.5), r"'max_epochs'.*int.*Got 9\.5"),
    "batch_size 0": (_params(batch_size=0), r"'batch_size'.*\[1, inf\).*Got 0"),
    "learning rate 0": (_params(lr=0), r"'lr'.*\(0\.0, inf\)\. Got 0"),
    "learning rate that diverges": (_params(lr=1e30), r"(?i)(not finite|non-finite).*\blr\b"),
    "unknown activation": (_params(activation="elu"), r"'activation'.*'relu'.*Got 'elu'"),
    "dropout 1": (_params(dropout=1), r"'dropout'.*\[0\.0, 1\.0\)\. Got 1"),
    "n_bins 0": (_params(n_bins=0), r"'n_bins'.*\[1, inf\)\. Got 0"),
    "min_cell_size 0": (_params(min_cell_size=0), r"'min_cell_size'.*\[1, inf\)\. Got 0"),
    "unknown dtype": (_params(dtype="float16"), r"'dtype'.*'float32'.*Got 'float16'"),
    "pos_label of no class": (_params(pos_label=2), r"pos_label=2 is not a class of y: \[0, 1\]"),
    "pos_label of another type": (
        _params(pos_label="1"),
        r"pos_label='1' is not a class of y: \[0, 1\]. Ensembles.*give 0 or 1",
    ),
    "pos_label of many classes": (
        ({"pos_label": 1}, {"y": np.arange(600) % 3}),
        r"pos_label=1 is for two classes, and y has 3; leave it None",
    ),
    "constraint on many classes": (
        ({"constraint": "false_positive_rate_parity"}, {"y": np.arange(600) % 3, "sensitive_features": A}),
        r"false_positive_rate_parity is for two classes, and y has 3\. Choose .* or constraint=None",
    ),
    "constraint without sensitive features": (
        _params(constraint="equalized_odds"),
        r"constraint='equalized_odds' needs sensitive_features.*got none.*enable_metadata_routing=True",
    ),
    "validation_fraction 0": (
        _params(validation_fraction=0),
        r"'validation_fraction'.*\(0\.0, 1\.0\)\. Got 0",
    ),
    "validation_fraction 1": (
        _params(validation_fraction=1),
        r"'validation_fraction'.*\(0\.0, 1\.0\)\. Got 1",
    ),
    "no rows in the upper part": (
        _params(validation_fraction=1e-5),
        r"validation_fraction=1e-05 of 600 rows.*without rows; choose a fraction nearer \.5",
    ),
    "no rows in the lower part": (
        _params(validation_fraction=0.99999),
        r"validation_fraction=0\.99999 of 600 rows.*without rows; choose a fraction nearer \.5",
    ),
    "a group without rows in the upper part": (
        ({"validation_fraction": 0.004}, {"sensitive_features": A}),
        r"validation_fraction=0\.004.*'group_[01]'",
    ),
    "labels None": (
        _data(y=_with(np.where(y, "a", "b"), 3, None)),
        r"Missing values: y has 1\. Drop these rows, or give them a label of their own",
    ),
    "an identifier for labels": (
        _grouped(y=np.arange(600) // 2),
        r"demographic_parity of 300 classes and 2 groups.* Merge rare classes \(is y a column of class",
    ),
    "a list of labels with None": (
        _data(y=["a", None] * 300),
        r"Missing values: y has 300\. Drop these rows",
    ),
    "weights in another order": (
        _data(X=FRAME, sample_weight=pd.Series(ONES)[::-1]),
        r"sample_weight has the index of X in another order",
    ),
    "one of several columns of groups in another order": (
        _data(X=FRAME, sensitive_features={"sex": A, "origin": pd.Series(A)[::-1]}),
        r"sensitive_features\['origin'\] has the index of X in another order",
    ),
    "groups in another order than labels, beside rows without an index": (
        _data(y=pd.Series(y), sensitive_features=pd.Series(A)[::-1]),
        r"sensitive_features has the index of y in another order.*sensitive_features\.loc\[y\.index\]",
    ),
    "labels of two types": (
        _data(y=np.where(np.arange(600) % 2, "a", y.astype(object))),
        r"y has labels of several types: int, str\. Give all the same type",
    ),
    "held-out labels that cannot be labels": (
        _data(**{**VAL, "y_val": np.array([{}] * 100, dtype=object)}, sensitive_features=A),
        r"y_val holds values of type dict, which cannot be labels",
    ),
    "labels in another order": (
        _data(X=FRAME, y=pd.Series(y).sample(frac=1, random_state=0)),
        r"y has the index of X in another order.*y\.loc\[X\.index\], or, if it is in that order, drop its",
    ),
    "groups in another order": (
        _data(X=FRAME, sensitive_features=pd.DataFrame({"sex": A}).sample(frac=1, random_state=0)),
        r"sensitive_features has the index of X in another order",
    ),
    "held-out groups in another order": (
        _data(
            **{**VAL, "X_val": FRAME[:100], "sensitive_features_val": pd.Series(A[:100])[::-1]},
            X=FRAME,
            sensitive_features=A,
        ),
        r"sensitive_features_val has the index of X_val in another order",
    ),
    "pos_label of no kind": (_params(pos_label=np.array([1, 0])), r"pos_label=array.* is not a class of y"),
    "hidden layer size True": (_params(hidden_layer_sizes=(True, 16)), r"hidden_layer_sizes.*one integer"),
    "weight pattern of booleans": (
        _params(granularity="weight", weight_pattern=(True, 2)),
        r"weight_pattern.*two integers.*Got \(True, 2\)",
    ),
    "gate temperature of booleans": (_params(gate_temperature=(True, True)), r"gate_temperature.*Got \(True"),
    "a device without numbers": (_params(device="meta"), r"device='meta' is not available here.*use 'auto'"),
    "class_weight of unknown classes": (
        _params(class_weight={5: 1.0}),
        r"class_weight names .*not classes of y: \[0, 1\]",
    ),
    "class_weight of one class too many": (
        _params(class_weight={0: 1, 1: 1, 5: 1}),
        r"class_weight.*5",
    ),
    "class_weight of unknown name": (_params(class_weight="even"), r"'class_weight'.*'balanced'.*Got 'even'"),
    "negative class_weight": (_params(class_weight={0: -1, 1: 1}), r"class_weight.*-1"),
    "NaN class_weight": (_params(class_weight={0: NAN, 1: 1}), r"class_weight.*nan"),
    "class_weight 0": (_params(class_weight={0: 0, 1: 1}), r"class_weight.*0"),
    "class_weight 0 under a constraint": (
        ({"class_weight": {0: 0, 1: 1}}, {"sensitive_features": A}),
        r"class_weight.*0",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD_FITS.values(), ids=BAD_FITS)
def test_fit_refuses(small, change, message):
    params, data = change
    with pytest.raises(ValueError, match=f"(?s){message}"):
        small(**params).fit(**{"X": X, "y": y, **data})


def test_messages_stay_short_with_many_groups(small):
    with pytest.raises(ValueError, match="groups") as info:
        small().fit(X, y, sensitive_features=np.arange(600))
    assert len(str(info.value)) < 1000


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_fit_refuses_a_gpu_that_is_not_there(small, device):
    with pytest.raises(ValueError, match=f"device='{device}' is not available here.*use 'auto', 'cpu'"):
        small(device=device).fit(X, y)


def test_fit_refuses_a_device_without_double_precision(monkeypatch):
    """As "mps", where torch raises this error."""

    def empty(*size, dtype=None, **params):
        if dtype is torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return torch.zeros(*size, dtype=dtype)

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(ValueError, match=r"device='cpu' is not available here \(Cannot convert.*float64"):
        resolve_device("cpu")


BAD_ROWS = {
    "too few columns": (X[:, :3], r"X has 3 features, but FairPrunedClassifier is expecting 7 features"),
    "too many columns": (np.c_[X, X], r"X has 14 features, but FairPrunedClassifier is expecting 7"),
    "no rows": (X[:0], r"0 sample\(s\) \(shape=\(0, 7\)\) while a minimum of 1"),
    "one row without brackets": (X[0], r"Expected 2D array, got 1D array.*Reshape your data"),
    "3-d": (X[:, :, None], r"dim 3, while dim <= 2 is required"),
    "NaN": (_with(X, (0, 0), NAN), r"missing values \(NaN\): 0. Impute"),
    "inf": (_with(X, (0, 0), np.inf), r"Input X contains infinity"),
}
BAD_FRAMES = {
    "fewer columns": (FRAME[["a", "b", "c"]], r"(?s)names should match.*yet now missing:\n- d"),
    "a renamed column": (FRAME.rename(columns={"a": "z"}), r"(?s)unseen at fit time:\n- z.*missing:\n- a"),
    "another order": (FRAME[list("bacdefg")], r"must be in the same order as they were in fit"),
}
METHODS = ["predict", "predict_proba", "decision_function", "predict_uncorrected_proba"]
every_method = pytest.mark.parametrize("method", METHODS)


@every_method
@pytest.mark.parametrize(("rows", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_prediction_refuses(fitted, method, rows, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        getattr(fitted, method)(rows)


@pytest.fixture(scope="module")
def fitted_on_frame(small):
    return small().fit(FRAME, y)


@every_method
@pytest.mark.parametrize(("rows", "message"), BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_prediction_refuses_other_names(fitted_on_frame, method, rows, message):
    with pytest.raises(ValueError, match=message):
        getattr(fitted_on_frame, method)(rows)


@every_method
def test_prediction_needs_a_fit(method):
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        getattr(FairPrunedClassifier(), method)(X)


def test_a_refused_fit_leaves_no_model(small):
    clf = small(constraint="equalized_odds")
    with pytest.raises(ValueError, match="needs sensitive_features"):
        clf.fit(X, y)
    with pytest.raises(NotFittedError):
        clf.predict(X)


def test_a_refused_refit_does_not_relabel_the_model(small):
    clf = small(constraint="false_positive_rate_parity", difference_bound=0.9)
    before = clf.fit(X, y, sensitive_features=A).predict(X)
    with pytest.raises(ValueError, match="two classes"):
        clf.fit(X, np.array(["a", "b", "c"])[np.arange(600) % 3], sensitive_features=A)
    try:
        after = clf.predict(X)
    except NotFittedError:
        return
    assert after.tolist() == before.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.assign(a=["30"] * 299 + ["?"]), r"not numbers: 'a'; 'a' has '\?'"),
        (lambda frame: frame.rename(columns={"a": "z"}).assign(note="x"), "feature names"),
        (lambda frame: frame[frame.columns[::-1]].assign(b=NAN), "feature names"),
        (lambda frame: frame.drop(columns="a").assign(b=NAN), "feature names"),
        (lambda frame: frame.assign(b=NAN), r"missing values \(NaN\): 'b'\. Impute"),
        (lambda frame: frame.assign(k=NAN, c=NAN), r"missing values \(NaN\): 'c'\. Impute"),
    ],
)
def test_the_columns_that_are_wrong_are_named_and_no_others(small, change, message):
    """Also where a column, k, was constant and is not read."""
    frame = FRAME.assign(k=5.0)
    clf = small(max_epochs=3, constraint=None).fit(frame, y)
    assert clf.dropped_columns_ == ["k"]
    for unread in (NAN, pd.NA, "text", pd.Timestamp("2026-01-01"), None):
        given = frame.assign(k=unread)
        assert_array_equal(clf.predict(given), clf.predict(frame))
        assert given.equals(frame.assign(k=unread))
    with pytest.raises(ValueError, match=message):
        clf.predict(change(frame[:300]))
