import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from skfairprune._data import check_fit_data, check_held_out_data, concatenate

X = np.arange(12.0).reshape(6, 2)
Y = np.array([0, 1, 0, 1, 0, 1])
SEX = ["f", "m", "f", "m", "f", "m"]
SITE = ["east", "west", "west", "west", "north", "east"]


def _fit(**changes):
    arguments = {"sample_weight": None, "sensitive_features": SEX, "control_features": SITE} | changes
    estimator = LogisticRegression()
    return estimator, check_fit_data(estimator, X, Y, **arguments)


def _held_out(estimator, known, **changes):
    arguments = {
        "data": known,
        "constrained": True,
        "X_val": X[:3],
        "y_val": Y[:3],
        "sample_weight_val": None,
        "sensitive_features_val": SEX[:3],
        "control_features_val": SITE[:3],
    } | changes
    return check_held_out_data(estimator, **arguments)


@pytest.mark.parametrize(
    "container",
    [
        list,
        np.array,
        pd.Series,
        lambda values: pd.DataFrame({"site": values}),
        lambda values: {"site": values},
    ],
    ids=["list", "array", "Series", "DataFrame", "dict"],
)
def test_control_features_become_strata(container):
    _, data = _fit(control_features=container(SITE))
    assert data.strata.labels == ("east", "north", "west")
    assert data.strata.codes.tolist() == [0, 2, 2, 2, 1, 0]


def test_control_columns_are_intersected():
    crossed = list(zip(SITE, (Y == 1).tolist(), strict=True))
    _, data = _fit(control_features=pd.DataFrame({"site": SITE, "night": Y == 1}))
    assert data.strata.labels == tuple(sorted(set(crossed)))
    assert [data.strata.labels[code] for code in data.strata.codes] == crossed


def test_without_control_features_there_are_no_strata():
    _, data = _fit(control_features=None)
    assert data.strata is None


def test_strata_and_groups_of_rows_without_weight_are_gone():
    _, data = _fit(sample_weight=[1, 0, 1, 0, 0, 0])
    assert data.X.tolist() == X[[0, 2]].tolist()
    assert (data.groups.labels, data.groups.codes.tolist()) == (("f",), [0, 0])
    assert (data.strata.labels, data.strata.codes.tolist()) == (("east", "west"), [0, 1])


def test_held_out_strata_have_the_codes_of_the_training_rows():
    estimator, data = _fit()
    held_out = _held_out(estimator, data, control_features_val=["west", "west", "east"])
    assert held_out.strata.codes.tolist() == [2, 2, 0]
    both = concatenate(data, held_out)
    assert both.strata.codes.tolist() == [0, 2, 2, 2, 1, 0, 2, 2, 0]
    assert both.strata.labels == data.strata.labels
    assert both.groups.codes.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]


def test_held_out_rows_without_constraint_need_neither_groups_nor_strata():
    estimator, data = _fit()
    nothing = {"sensitive_features_val": None, "control_features_val": None}
    held_out = _held_out(estimator, data, constrained=False, **nothing)
    assert held_out.groups is None
    assert held_out.strata is None
    assert _held_out(estimator, data, X_val=None, y_val=None, **nothing) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control_features": SITE[:-1]}, "control_features has 5 values, but there are 6 samples"),
        ({"control_features": [*SITE[:-1], None]}, "Missing values: control_features has 1. Every row needs"),
        (
            {"control_features": {"site": SITE, "night": [np.nan] * 6}},
            "Missing values: column 'night' of control_features has 6",
        ),
        ({"control_features": "site"}, "control_features must have one or two dimensions.*got 'site'"),
        (
            {"sensitive_features": None},
            "control_features are given without sensitive_features.*Pass sensitive_features too",
        ),
    ],
)
def test_error_messages_of_control_features(changes, message):
    with pytest.raises(ValueError, match=message):
        _fit(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"control_features_val": ["west", "south", "south"]},
            r"control_features_val has the strata \['south'\], which control_features does not have; it has "
            r"\['east', 'north', 'west'\]",
        ),
        (
            {"control_features_val": None},
            "X_val is given without control_features_val; the constraint needs the strata",
        ),
        ({"control_features_val": SITE}, "control_features_val has 6 values, but there are 3 samples"),
        (
            {"data": _fit(control_features=None)[1]},
            "control_features_val is given, but there are no control_features of the training rows",
        ),
        (
            {"X_val": None, "y_val": None, "sensitive_features_val": None},
            "control_features_val is given without X_val; pass X_val and y_val too",
        ),
        (
            {"sensitive_features_val": ["f", "m", "x"]},
            r"sensitive_features_val has the groups \['x'\], which sensitive_features does not have",
        ),
        (
            {"sensitive_features_val": None},
            "X_val is given without sensitive_features_val; the constraint needs the groups",
        ),
    ],
)
def test_error_messages_of_held_out_strata(changes, message):
    estimator, data = _fit()
    with pytest.raises(ValueError, match=message):
        _held_out(estimator, data, **changes)


def _crossed(columns, rows):
    night = (Y == 1)[rows]
    return pd.DataFrame({"sex": np.array(SEX)[rows], "night": night})[columns]


def test_columns_of_held_out_groups_are_taken_by_their_names():
    rows = np.arange(6)
    estimator, data = _fit(sensitive_features=_crossed(["sex", "night"], rows))
    held_out = _held_out(estimator, data, sensitive_features_val=_crossed(["night", "sex"], rows[:3]))
    assert held_out.groups.codes.tolist() == data.groups.codes[:3].tolist()
    assert held_out.groups.names == ("sex", "night")
    # Without names they are taken as they stand.
    plain = _crossed(["sex", "night"], rows[:3]).to_numpy()
    assert _held_out(estimator, data, sensitive_features_val=plain).groups.codes.tolist() == [
        *data.groups.codes[:3]
    ]
    other = _crossed(["sex", "night"], rows[:3]).set_axis(["sex", "shift"], axis=1)
    message = "sensitive_features_val has the columns 'sex', 'shift', and in fit they were 'sex', 'night'"
    with pytest.raises(ValueError, match=message):
        _held_out(estimator, data, sensitive_features_val=other)


def test_the_name_of_a_single_column_does_not_matter():
    estimator, data = _fit(sensitive_features=pd.Series(SEX, name="sex"))
    held_out = _held_out(estimator, data, sensitive_features_val=pd.Series(SEX[:3], name="gender"))
    assert held_out.groups.codes.tolist() == data.groups.codes[:3].tolist()


def test_held_out_rows_have_weights_of_their_own():
    estimator, data = _fit(sample_weight=[1, 2, 1, 2, 1, 1])
    held_out = _held_out(estimator, data, sample_weight_val=[3, 0, 6])
    assert held_out.weight.tolist() == [0.5, 1]
    assert held_out.X.tolist() == X[[0, 2]].tolist()
    assert held_out.y.tolist() == Y[[0, 2]].tolist()
    assert held_out.groups.codes.tolist() == data.groups.codes[[0, 2]].tolist()
    assert held_out.strata.codes.tolist() == data.strata.codes[[0, 2]].tolist()
    with pytest.raises(ValueError, match="X_val without sample_weight_val"):
        _held_out(estimator, data)
    with pytest.raises(ValueError, match="at least one non-zero number"):
        _held_out(estimator, data, sample_weight_val=[0, 0, 0])
    with pytest.raises(ValueError, match="sample_weight_val is given without X_val"):
        _held_out(estimator, data, X_val=None, y_val=None, sample_weight_val=[1, 1, 1])


def test_a_missing_held_out_label_is_named():
    estimator, data = _fit()
    with pytest.raises(ValueError, match=r"Missing values: y_val has 1\. Drop these rows"):
        _held_out(estimator, data, y_val=np.array([0, 1, None], dtype=object))
