import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skfairprune._labels import encode_labels, encode_sensitive

SEX = ["m", "f", "m", "f"]
SENIOR = [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (SEX, None),
        (tuple(SEX), None),
        (np.array(SEX), None),
        (np.array(SEX, dtype=object), None),
        (np.array(SEX)[:, None], None),
        ([[sex] for sex in SEX], None),
        (pd.Categorical(SEX), None),
        (pd.Index(SEX), None),
        (pd.Series(SEX), None),
        (pd.Series(SEX, name="sex", index=[3, 3, 1, 0]), ("sex",)),
        (pd.Series(SEX, dtype="string"), None),
        (pd.Series(SEX, dtype=pd.CategoricalDtype(["x", "m", "f"], ordered=True)), None),
        (pd.DataFrame({"sex": SEX}), ("sex",)),
        ({"sex": SEX}, ("sex",)),
        ({"sex": pd.Series(SEX, index=[9, 8, 7, 6])}, ("sex",)),
    ],
)
def test_one_column(values, names):
    groups = encode_sensitive(values, 4)
    assert groups.labels == ("f", "m")
    assert groups.codes.tolist() == [1, 0, 1, 0]
    assert groups.codes.dtype == np.intp
    assert groups.names == names


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (list(zip(SEX, SENIOR, strict=True)), None),
        (np.array([SEX, SENIOR], dtype=object).T, None),
        (pd.DataFrame({"sex": SEX, "senior": SENIOR}, index=[4, 4, 2, 0]), ("sex", "senior")),
        (pd.DataFrame({"sex": SEX, "senior": pd.array(SENIOR, "Int64")}), ("sex", "senior")),
        ({"sex": SEX, "senior": np.array(SENIOR)}, ("sex", "senior")),
        ({"sex": pd.Series(SEX), "senior": pd.Series(SENIOR, [3, 2, 1, 0])}, ("sex", "senior")),
    ],
)
def test_columns_are_intersected(values, names):
    groups = encode_sensitive(values, 4)
    assert groups.labels == (("f", 0), ("f", 1), ("m", 0), ("m", 1))
    assert groups.codes.tolist() == [3, 0, 2, 1]
    assert groups.names == names


def test_only_combinations_that_occur():
    groups = encode_sensitive(np.array([["b", "y"], ["a", "x"], ["b", "y"]]), 3)
    assert groups.labels == (("a", "x"), ("b", "y"))
    assert groups.codes.tolist() == [1, 0, 1]


def test_columns_of_the_same_name_are_kept_apart():
    frame = pd.DataFrame([["a", "x"], ["a", "y"]], columns=["c", "c"])
    assert encode_sensitive(frame, 2).labels == (("a", "x"), ("a", "y"))


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([2, 10, 2], (2, 10)),
        ([True, False, True], (False, True)),
        ([1.5, -1.0, 1.5], (-1.0, 1.5)),
        (pd.array([True, False, True], "boolean"), (False, True)),
        (["b", 1, "a"], (1, "a", "b")),
        ([10, "a", 2], (2, 10, "a")),
        ([2, "a", False], (False, 2, "a")),
        (["nan", "None", ""], ("", "None", "nan")),
        (
            pd.to_datetime(["2021-01-01", "2020-01-01", "2021-01-01"]),
            (pd.Timestamp(2020, 1, 1), pd.Timestamp(2021, 1, 1)),
        ),
        (
            [datetime.date(2020, 1, 1), "a", "a"],
            (datetime.date(2020, 1, 1), "a"),
        ),
        (["a", "a", "a"], ("a",)),
    ],
)
def test_labels_are_sorted(values, labels):
    groups = encode_sensitive(values, 3)
    assert groups.labels == labels
    assert [groups.labels[code] for code in groups.codes] == list(values)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-3, 3) | st.text(max_size=2) | st.booleans(), min_size=1), st.data())
def test_labels_do_not_depend_on_the_order_of_rows(values, data):
    groups = encode_sensitive(values, len(values))
    order = data.draw(st.permutations(range(len(values))))
    shuffled = encode_sensitive([values[i] for i in order], len(values))
    assert shuffled.labels == groups.labels
    assert shuffled.codes.tolist() == groups.codes[list(order)].tolist()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", "b", "a"], "sensitive_features has 3 values, but there are 2 samples"),
        ([], "sensitive_features has 0 values, but there are 2 samples"),
        (
            {"sex": ["a", "b"], "age": [1, 2, 3]},
            "column 'age' of sensitive_features has 3 values, but there are 2 samples",
        ),
        (["a", None], "Missing values: sensitive_features has 1. Every row needs a value"),
        ([1, np.nan], "Missing values: sensitive_features has 1"),
        ([pd.NaT, pd.NaT], "Missing values: sensitive_features has 2"),
        (pd.Series(["a", pd.NA], dtype="string"), "Missing values: sensitive_features has 1"),
        (pd.Series(pd.Categorical(["a", None])), "Missing values: sensitive_features has 1"),
        (pd.Series([1, None], dtype="Int64", name="x"), "column 'x' of sensitive_features has 1"),
        (
            pd.DataFrame({"a": [1, 2], "b": [None, "x"], "c": [np.nan, np.nan]}),
            "Missing values: column 'b' of sensitive_features has 1, column 'c' of sensitive_features has 2",
        ),
        ([("a", 1), (None, 2)], "column 0 of sensitive_features has 1"),
        (np.zeros((2, 1, 1)), "must have one or two dimensions.*got 3-d values"),
        ([[["a"]], [["b"]]], "must have one or two dimensions.*got 3-d values"),
        ("sex", "must have one or two dimensions.*got 'sex'; pass the values of each sample"),
        (None, "must have one or two dimensions.*got None"),
        ({}, "sensitive_features has no columns"),
        (np.zeros((2, 0)), "sensitive_features has no columns"),
        (pd.DataFrame(index=[0, 1]), "sensitive_features has no columns"),
        ({"sex": np.zeros((2, 2))}, r"sensitive_features\['sex'\] must be a single column, got 2"),
        ([["a"], ["b", "c"]], "holds values of type list, which cannot be labels"),
        (pd.Series([("a", 1), ("b", 2)]), "holds values of type tuple, which cannot be labels"),
    ],
)
def test_error_messages_of_sensitive_features(values, message):
    with pytest.raises(ValueError, match=message):
        encode_sensitive(values, 2)


def test_many_columns_of_many_values():
    values = np.random.default_rng(0).normal(size=(1000, 9))
    found = encode_sensitive(values, 1000)
    assert [found.labels[code] for code in found.codes] == [tuple(row) for row in values.tolist()]
    assert list(found.labels) == sorted(found.labels)


def test_error_messages_use_the_given_name():
    with pytest.raises(ValueError, match=r"^control_features has 1 values"):
        encode_sensitive(["a"], 2, name="control_features")


@pytest.mark.parametrize(
    ("y_true", "y_pred", "pos_label", "expected"),
    [
        ([0, 1, 1], [1, 0, 1], None, ([0, 1, 1], [1, 0, 1])),
        ([0, 1, 1], [1, 0, 1], 0, ([1, 0, 0], [0, 1, 0])),
        ([-1, 1], [1, 1], None, ([0, 1], [1, 1])),
        ([2, 1], [1, 1], None, ([1, 0], [0, 0])),
        ([False, True], [0, 1], None, ([0, 1], [0, 1])),
        ([0.0, 1.0], np.array([True, False]), None, ([0, 1], [1, 0])),
        (["no", "yes"], ["yes", "yes"], None, ([0, 1], [1, 1])),
        (np.array(["no", "yes"]), pd.Series(["no", "no"]), "no", ([1, 0], [1, 1])),
        (pd.Categorical(["<=50K", ">50K"]), ["<=50K"] * 2, None, ([0, 1], [0, 0])),
        (pd.array([1, 0], "Int64"), pd.DataFrame({"y": [1, 1]}), None, ([1, 0], [1, 1])),
        (np.array([0, 1], dtype=object), [[0], [1]], None, ([0, 1], [0, 1])),
        ([0, 0], [0, 0], None, ([0, 0], [0, 0])),
        ([1, 1], [1, 1], None, ([1, 1], [1, 1])),
        ([-1], [-1], None, ([0], [0])),
        ([False], [False], None, ([0], [0])),
        ([0, 0], [0, 0], 1, ([0, 0], [0, 0])),
        (["no"], ["no"], "yes", ([0], [0])),
        (["no"], ["no"], "no", ([1], [1])),
    ],
)
def test_labels_of_any_type(y_true, y_pred, pos_label, expected):
    y, decision, classes = encode_labels(y_true, y_pred, pos_label)
    assert (y.tolist(), decision.tolist()) == expected
    assert classes == (0, 1)


@pytest.mark.parametrize(
    ("y_true", "y_pred", "known", "expected", "labels"),
    [
        ([0, 1, 2], [2, 1, 1], (), ([0, 1, 2], [2, 1, 1]), (0, 1, 2)),
        (["b", "a"], ["c", "c"], (), ([1, 0], [2, 2]), ("a", "b", "c")),
        ([0.0, 1.0], [2, True], (), ([0, 1], [2, 1]), (0, 1, 2)),
        (pd.Categorical(["x", "y"]), pd.Series(["z", "z"]), (), ([0, 1], [2, 2]), ("x", "y", "z")),
        ([5, 5], [5, 5], [3, 5, 7], ([1, 1], [1, 1]), (3, 5, 7)),
        (range(7), [6] * 7, (), (list(range(7)), [6] * 7), tuple(range(7))),
    ],
)
def test_labels_of_more_than_two_classes(y_true, y_pred, known, expected, labels):
    y, decision, classes = encode_labels(y_true, y_pred, classes=known)
    assert (y.tolist(), decision.tolist()) == expected
    assert classes == labels


@pytest.mark.parametrize(
    ("y_true", "y_pred", "pos_label", "message"),
    [
        ([0, 1, 2], [0, 1, 1], 2, "pos_label=2 is for two classes, and there are 3: 0, 1, 2. Leave"),
        ([0, 1], [0.2, 0.7], None, "no scores, got 0, 0.2, 0.7, 1. Pass decisions"),
        ([0, 1], np.array([0.2, 0.7], dtype="float32"), None, "no scores, got 0, 0.2.*Pass decisions"),
        (range(8), np.arange(8) + 0.5, None, "no scores, got 0, 0.5, 1, 1.5, 2, .... Pass"),
        (["0", "1"], [0, 1], None, "one type and no scores, got 0, 1, '0', '1'"),
        (["0"], [0], None, "must hold labels of one type and no scores, got 0, '0'"),
        ([0, 1], [0, 1], "1", "pos_label='1' is not one of the labels in y_true and y_pred, 0, 1"),
        ([0, 0], [0, 0], "1", "pos_label='1' is not one of the labels in y_true and y_pred, 0"),
        (["no", "yes"], ["no", "no"], "Yes", "pos_label='Yes' is not one of the labels.*, 'no', 'yes'"),
        (["no"], ["no"], None, "the single label 'no', so it is not known.*; pass pos_label"),
        ([2], [2], None, "the single label 2"),
        ([0, 1], [1], None, "y_true has 2 rows and y_pred has 1; need the same number"),
        ([], [], None, "y_true has 0 rows and y_pred has 0"),
        ([0, None], [0, 1], None, "Missing values: y_true has 1. Drop these rows"),
        ([0, 1], [np.nan, np.nan], None, "Missing values: y_pred has 2"),
        ([0, 1], np.zeros((2, 2)), None, "y_pred must be a single column, got 2 columns"),
        ("no", ["no"], None, "y_true must have one or two dimensions.*got 'no'"),
    ],
)
def test_error_messages_of_labels(y_true, y_pred, pos_label, message):
    with pytest.raises(ValueError, match=message):
        encode_labels(y_true, y_pred, pos_label)
