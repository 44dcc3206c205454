import pickle

import fairlearn.metrics as fm
import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, zero_one_loss
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    StratifiedKFold,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skfairprune.metrics import degradation_gap, gap, gap_scorer, gap_with_error, group_rates

FAIRLEARN_RATES = {
    "demographic_parity": {"all": fm.selection_rate},
    "equalized_odds": {"y=0": fm.false_positive_rate, "y=1": fm.true_positive_rate},
    "true_positive_rate_parity": {"y=1": fm.true_positive_rate},
    "false_positive_rate_parity": {"y=0": fm.false_positive_rate},
    "error_rate_parity": {"all": zero_one_loss},
}
FAIRLEARN_GAPS = {
    "demographic_parity": fm.demographic_parity_difference,
    "equalized_odds": fm.equalized_odds_difference,
    "true_positive_rate_parity": fm.true_positive_rate_difference,
    "false_positive_rate_parity": fm.false_positive_rate_difference,
    "error_rate_parity": fm.accuracy_score_difference,
}
every_constraint = pytest.mark.parametrize("constraint", FAIRLEARN_GAPS)
every_multiclass = pytest.mark.parametrize(
    "constraint", ["demographic_parity", "equalized_odds", "error_rate_parity"]
)


def _data(n_groups=3, n_samples=400, seed=0):
    rng = np.random.default_rng(seed)
    y_true, y_pred = rng.integers(0, 2, (2, n_samples))
    group = rng.integers(0, n_groups, n_samples)
    y_pred |= rng.uniform(size=n_samples) < group / 8
    return y_true, y_pred, group, rng.uniform(0.1, 3, n_samples)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_groups", [2, 3, 5])
@every_constraint
def test_rates_and_gap_are_those_of_fairlearn(constraint, n_groups, weighted):
    y_true, y_pred, group, weight = _data(n_groups)
    weight = weight if weighted else None
    rates = group_rates(y_true, y_pred, constraint=constraint, sensitive_features=group, sample_weight=weight)
    frame = fm.MetricFrame(
        metrics=FAIRLEARN_RATES[constraint],
        y_true=y_true,
        y_pred=y_pred,
        sensitive_features=group,
        sample_params={event: {"sample_weight": weight} for event in FAIRLEARN_RATES[constraint]},
    )
    for event, values in frame.by_group.items():
        pd.testing.assert_series_equal(rates.loc[event, "rate"], values, check_names=False)
    assert list(rates.index.levels[0]) == list(frame.by_group)
    assert rates.index.names == ["event", *frame.by_group.index.names]
    assert_allclose(
        gap(y_true, y_pred, constraint=constraint, sensitive_features=group, sample_weight=weight),
        FAIRLEARN_GAPS[constraint](y_true, y_pred, sensitive_features=group, sample_weight=weight),
        atol=1e-12,
    )


@every_constraint
def test_intersected_columns_as_in_fairlearn(constraint):
    y_true, y_pred, group, _ = _data(4)
    frame = pd.DataFrame({"sex": np.where(group % 2, "f", "m"), "senior": group > 1})
    frame.index += 7
    rates = group_rates(y_true, y_pred, constraint=constraint, sensitive_features=frame)
    expected = fm.MetricFrame(
        metrics=FAIRLEARN_RATES[constraint],
        y_true=y_true,
        y_pred=y_pred,
        sensitive_features=frame,
    )
    for event, values in expected.by_group.items():
        pd.testing.assert_series_equal(rates.loc[event, "rate"], values, check_names=False)
    assert rates.index.names == ["event", "sex", "senior"]
    found = gap_with_error(y_true, y_pred, constraint=constraint, sensitive_features=frame)
    assert_allclose(found.value, expected.difference().max())
    assert rates.loc[(found.event, *found.highest), "rate"] == expected.by_group[found.event].max()


def _strata(n_samples, seed=1):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {"site": rng.choice(["east", "west", "north"], n_samples), "night": rng.uniform(size=n_samples) < 0.4}
    )


@pytest.mark.parametrize("weighted", [False, True])
@every_constraint
def test_control_features_as_in_fairlearn(constraint, weighted):
    y_true, y_pred, group, weight = _data(3, 1500)
    weight, strata = weight if weighted else None, _strata(1500)
    y_pred = y_pred | (strata["night"].to_numpy() & (group == 1))
    kwargs = {"constraint": constraint, "sensitive_features": group, "control_features": strata}
    rates = group_rates(y_true, y_pred, sample_weight=weight, **kwargs)
    frame = fm.MetricFrame(
        metrics=FAIRLEARN_RATES[constraint],
        y_true=y_true,
        y_pred=y_pred,
        sensitive_features=group,
        control_features=strata,
        sample_params={event: {"sample_weight": weight} for event in FAIRLEARN_RATES[constraint]},
    )
    for event, values in frame.by_group.items():
        pd.testing.assert_series_equal(rates.loc[event, "rate"], values, check_names=False)
    assert rates.index.names == ["event", *frame.by_group.index.names]
    found, differences = gap_with_error(y_true, y_pred, sample_weight=weight, **kwargs), frame.difference()
    assert_allclose(found.value, differences.max().max())
    assert found.stratum == differences.max(axis=1).idxmax()
    assert found.event == differences.max().idxmax()
    cells = rates["rate"][found.event].loc[found.stratum]
    assert (found.lowest, found.highest) == (cells.idxmin(), cells.idxmax())
    assert gap(y_true, y_pred, sample_weight=weight, **kwargs) == found.value
    whole = gap(y_true, y_pred, constraint=constraint, sensitive_features=group, sample_weight=weight)
    assert found.value > whole


@pytest.mark.parametrize(
    "container",
    [list, np.array, pd.Series, lambda site: pd.DataFrame({"site": site}), lambda site: {"site": site}],
    ids=["list", "array", "Series", "DataFrame", "dict"],
)
def test_containers_of_control_features(container):
    y_true, y_pred, group, _ = _data()
    site = _strata(len(y_true))["site"]
    kwargs = {"constraint": "demographic_parity", "sensitive_features": group}
    found = gap_with_error(y_true, y_pred, control_features=container(site.tolist()), **kwargs)
    assert found == gap_with_error(y_true, y_pred, control_features=site, **kwargs)
    assert found.stratum in {"east", "north", "west"}


def _multiclass(n_samples=1200):
    rng = np.random.default_rng(7)
    y_true, noise = rng.integers(0, 3, (2, n_samples))
    group = rng.integers(0, 3, n_samples)
    keeps = rng.uniform(size=n_samples) < 0.4 + 0.15 * group
    y_pred = np.where(keeps, y_true, noise)
    return y_true, y_pred, group, rng.uniform(0.1, 3, n_samples)


@pytest.mark.parametrize("controlled", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@every_multiclass
def test_multiclass_is_one_against_the_rest_of_fairlearn(constraint, weighted, controlled):
    labels = np.array(["high", "low", "mid"], dtype=object)
    y_true, y_pred, group, weight = _multiclass()
    weight = weight if weighted else np.ones(len(weight))
    control = _strata(len(y_true))["site"] if controlled else None
    kwargs = {"sensitive_features": group, "control_features": control}
    rates = group_rates(labels[y_true], labels[y_pred], constraint=constraint, sample_weight=weight, **kwargs)
    found = gap_with_error(
        labels[y_true], labels[y_pred], constraint=constraint, sample_weight=weight, **kwargs
    )
    if constraint == "error_rate_parity":
        binary = {"all": (zero_one_loss, y_true, y_pred)}
    else:
        own = {label: (y_true == c, y_pred == c) for c, label in enumerate(labels)}
        binary = {
            name.format(label): (metric, *columns)
            for label, columns in own.items()
            for name, metric in {
                "demographic_parity": {"decision {!r}": fm.selection_rate},
                "equalized_odds": {"y!={!r}": fm.false_positive_rate, "y={!r}": fm.true_positive_rate},
            }[constraint].items()
        }
    differences = {}
    for event, (metric, true, decision) in binary.items():
        frame = fm.MetricFrame(
            metrics=metric, y_true=true, y_pred=decision, sample_params={"sample_weight": weight}, **kwargs
        )
        assert_allclose(rates.loc[event, "rate"], frame.by_group.to_numpy(float))
        differences[event] = np.max(frame.difference())
    assert list(rates.index.unique("event")) == sorted(differences)
    assert_allclose(found.value, max(differences.values()))
    assert found.event == max(differences, key=differences.get)
    assert (found.stratum is None) != controlled


@every_multiclass
def test_one_against_the_rest_of_two_classes_is_the_binary_gap(constraint):
    y_true, y_pred, group, _ = _data()
    kwargs = {"constraint": constraint, "sensitive_features": [*group, "alone"]}
    third = gap([*y_true, 2], [*y_pred, 2], **kwargs)
    binary = gap(y_true, y_pred, constraint=constraint, sensitive_features=group)
    if constraint == "equalized_odds":  # of the third class nothing is known in the other groups
        assert third >= binary
    else:
        rates = group_rates([*y_true, 2], [*y_pred, 2], **kwargs)["rate"].drop("alone", level=1)
        assert_allclose((rates.groupby("event").max() - rates.groupby("event").min()).max(), binary)


def _degradation_data(n_samples=900, seed=4):
    rng = np.random.default_rng(seed)
    y_true, group = rng.integers(0, 3, n_samples), rng.integers(0, 4, n_samples)
    dense = np.where(rng.uniform(size=n_samples) < 0.8, y_true, rng.integers(0, 3, n_samples))
    small = np.where(rng.uniform(size=n_samples) < 0.95 - 0.1 * group, dense, rng.integers(0, 3, n_samples))
    return y_true, small, dense, group, rng.uniform(0.1, 3, n_samples)


@pytest.mark.parametrize("controlled", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("labels", [["no", "yes", "yes"], ["a", "b", "c"], [3, 1, 2]], ids=str)
def test_degradation_is_the_difference_of_two_frames(labels, weighted, controlled):
    *columns, group, weight = _degradation_data()
    y_true, small, dense = (np.array(labels)[column] for column in columns)
    weight = weight if weighted else None
    kwargs = {
        "sensitive_features": pd.Series(group, name="origin"),
        "control_features": _strata(len(group)) if controlled else None,
    }
    found = degradation_gap(y_true, small, dense, sample_weight=weight, **kwargs)
    accuracy = [
        fm.MetricFrame(
            metrics=accuracy_score,
            y_true=y_true,
            y_pred=decision,
            sample_params={"sample_weight": weight},
            **kwargs,
        ).by_group
        for decision in (dense, small)
    ]
    lost = accuracy[0] - accuracy[1]
    if controlled:
        lost = lost.xs(found.stratum, level=("site", "night"))
        ranges = (accuracy[0] - accuracy[1]).groupby(level=("site", "night"))
        assert_allclose(found.value, (ranges.max() - ranges.min()).max())
    else:
        assert found.stratum is None
    assert_allclose(found.value, lost.max() - lost.min())
    assert (found.event, found.lowest, found.highest) == ("all", lost.idxmin(), lost.idxmax())


def test_degradation_without_small_groups():
    columns = ([0, 1, 1, 0, 1], [0, 0, 1, 0, 0], [0, 1, 1, 1, 1])
    groups = ["f", "f", "m", "m", "x"]
    assert degradation_gap(*columns, sensitive_features=groups).highest == "x"
    found = degradation_gap(*columns, sensitive_features=groups, min_cell_size=2)
    assert found[:1] + found[3:5] == (1.0, "m", "f")


def test_degradation_of_the_same_decisions_and_of_a_single_label():
    y_true, small, _, group, _ = _degradation_data()
    same = degradation_gap(y_true, small, small, sensitive_features=group)
    assert same.value == 0
    assert 0 < same.standard_error < 0.01
    none = degradation_gap(["x"] * 4, ["x"] * 4, ["x"] * 4, sensitive_features=[0, 0, 1, 1])
    assert none.value == 0
    assert np.isnan(degradation_gap([0, 1], [1, 1], [0, 1], sensitive_features=["a", "a"]).value)


def test_degradation_error_is_that_of_repeated_paired_samples():
    rng = np.random.default_rng(3)
    n_samples, n_draws = 800, 200
    group = np.repeat([0, 1], [300, 500])
    y_true = np.ones(n_samples, dtype=int)
    weight = rng.uniform(0.1, 3, n_samples)
    found = []
    for _ in range(n_draws):
        dense = rng.uniform(size=n_samples) < 0.7
        flips = rng.uniform(size=n_samples) < np.where(group == 1, 0.1, 0.02)
        arguments = y_true, (dense & ~flips).astype(int), dense.astype(int)
        found.append(degradation_gap(*arguments, sensitive_features=group, sample_weight=weight)[:2])
    value, error = np.array(found).T
    assert_allclose(error.mean(), value.std(), rtol=0.2)
    # far from the error of two accuracies of independent samples
    assert error.mean() < 0.6 * np.sqrt(2 * 0.7 * 0.3 * (1 / 300 + 1 / 500))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_pred_dense": [0, 1]}, "y_true has 3 rows and y_pred_dense has 2; need the same number"),
        ({"y_pred": [0, 1, None]}, "Missing values: y_pred has 1"),
        ({"y_pred_dense": ["0", "1", "1"]}, "y_true, y_pred and y_pred_dense must hold labels of one type"),
        (
            {"y_pred_dense": [0.2, 0.7, 0.9]},
            "y_true, y_pred and y_pred_dense must hold labels.*and no scores",
        ),
        ({"sensitive_features": ["a", None, "b"]}, "Missing values: sensitive_features has 1"),
        ({"control_features": ["a"]}, "control_features has 1 values, but there are 3 samples"),
        ({"sample_weight": [1, 1, -1]}, "Negative values in data passed to `sample_weight`"),
    ],
)
def test_error_messages_of_the_degradation(changes, message):
    arguments = {
        "y_true": [0, 1, 1],
        "y_pred": [0, 1, 0],
        "y_pred_dense": [0, 1, 1],
        "sensitive_features": ["a", "b", "b"],
    } | changes
    with pytest.raises(ValueError, match=message):
        degradation_gap(**arguments)


@pytest.mark.parametrize("labels", [["no", "yes"], [False, True], [-1, 1], [0.0, 1.0], [3, 7]], ids=str)
@pytest.mark.parametrize("container", [list, np.array, pd.Series], ids=lambda f: f.__name__)
@every_constraint
def test_labels_and_containers(constraint, container, labels):
    y_true, y_pred, group, weight = _data(3)
    expected = FAIRLEARN_GAPS[constraint](y_true, y_pred, sensitive_features=group, sample_weight=weight)
    value = gap(
        container([labels[y] for y in y_true]),
        container([labels[y] for y in y_pred]),
        constraint=constraint,
        sensitive_features=container([f"group {g}" for g in group]),
        sample_weight=container(weight),
    )
    assert type(value) is float
    assert_allclose(value, expected, atol=1e-12)


def test_pos_label_turns_the_rates_round():
    y_true, y_pred, group, _ = _data()
    kwargs = {"constraint": "true_positive_rate_parity", "sensitive_features": group}
    assert_allclose(
        group_rates(y_true, y_pred, pos_label=0, **kwargs)["rate"],
        group_rates(1 - y_true, 1 - y_pred, **kwargs)["rate"],
    )
    assert gap(y_true, y_pred, pos_label=0, **kwargs) == pytest.approx(
        fm.true_negative_rate_difference(y_true, y_pred, sensitive_features=group)
    )


def test_row_counts_are_unweighted():
    y_true, y_pred, group, weight = _data()
    rates = group_rates(
        y_true,
        y_pred,
        constraint="equalized_odds",
        sensitive_features=group,
        sample_weight=weight * (group > 0),
    )
    table = pd.crosstab(y_true, group)
    assert rates.loc["y=0", "n_samples"].tolist() == table.loc[0].tolist()
    assert rates.loc["y=1", "n_samples"].tolist() == table.loc[1].tolist()
    assert rates.loc[("y=0", 0), ["rate", "standard_error"]].isna().all()


rows = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 1), st.sampled_from("abc"), st.integers(0, 3)),
    min_size=1,
    max_size=30,
)


@settings(deadline=None, max_examples=40)
@given(rows, st.permutations("abc"))
@every_constraint
def test_permuting_groups_permutes_the_rates(constraint, rows, names):
    y_true, y_pred, group, _ = map(list, zip(*rows, strict=True))
    rename = dict(zip("abc", names, strict=True))
    renamed = [rename[g] for g in group]
    rates = group_rates(y_true, y_pred, constraint=constraint, sensitive_features=group)
    permuted = group_rates(y_true, y_pred, constraint=constraint, sensitive_features=renamed)
    pd.testing.assert_frame_equal(rates.rename(index=rename, level=1).sort_index(), permuted)
    assert_allclose(
        gap(y_true, y_pred, constraint=constraint, sensitive_features=renamed),
        gap(y_true, y_pred, constraint=constraint, sensitive_features=group),
    )


@settings(deadline=None, max_examples=40)
@given(rows)
@every_constraint
def test_weights_are_repeats(constraint, rows):
    y_true, y_pred, group, weight = map(np.array, zip(*rows, strict=True))
    if not weight.any():
        weight[0] = 1
    kwargs = {"constraint": constraint, "pos_label": 1}
    weighted = group_rates(y_true, y_pred, sensitive_features=group, sample_weight=weight, **kwargs)
    repeated = [np.repeat(column, weight) for column in (y_true, y_pred, group)]
    repeats = group_rates(*repeated[:2], sensitive_features=repeated[2], **kwargs)
    kept = weighted["rate"].dropna()
    assert_allclose(kept, repeats["rate"].reindex(kept.index))
    assert len(kept) == repeats["rate"].count()
    assert_allclose(
        gap(y_true, y_pred, sensitive_features=group, sample_weight=weight, **kwargs),
        gap(*repeated[:2], sensitive_features=repeated[2], **kwargs),
        atol=1e-12,
    )


@settings(deadline=None, max_examples=40)
@given(rows)
@every_constraint
def test_gap_is_in_the_unit_interval_or_nan(constraint, rows):
    y_true, y_pred, group, weight = map(list, zip(*rows, strict=True))
    found = gap_with_error(
        y_true, y_pred, constraint=constraint, sensitive_features=group, sample_weight=weight
    )
    rates = group_rates(
        y_true, y_pred, constraint=constraint, sensitive_features=group, sample_weight=weight
    )["rate"]
    if (rates.groupby("event").count() < 2).all():
        assert np.isnan(found.value)
        assert np.isnan(found.standard_error)
        assert found[2:] == (None, None, None, None)
    else:
        assert 0 <= found.value <= 1
        assert found.standard_error >= 0
        ends = rates[found.event, found.highest], rates[found.event, found.lowest]
        assert found.value == ends[0] - ends[1]


@pytest.mark.parametrize("weighted", [False, True])
@every_constraint
def test_standard_errors_are_those_of_repeated_samples(constraint, weighted):
    rng = np.random.default_rng(3)
    n_samples, n_draws = 600, 150
    group = np.repeat([0, 1], [200, 400])
    y_true = np.tile([0, 1], n_samples // 2)
    weight = rng.uniform(0.1, 3, n_samples) if weighted else np.ones(n_samples)
    chance = np.array([[0.2, 0.5], [0.4, 0.9]])[group, y_true]
    kwargs = {"constraint": constraint, "sensitive_features": group, "sample_weight": weight}
    draws = rng.uniform(size=(n_draws, n_samples)) < chance
    gaps = np.array([gap_with_error(y_true, y_pred, **kwargs)[:2] for y_pred in draws])
    rates = np.array([group_rates(y_true, y_pred, **kwargs)["rate"] for y_pred in draws])
    errors = group_rates(y_true, draws[0], **kwargs)["standard_error"]
    assert_allclose(errors, rates.std(axis=0), rtol=0.2)
    assert_allclose(gaps[:, 1].mean(), gaps[:, 0].std(), rtol=0.2)


@every_constraint
def test_standard_errors_of_rates_of_0_and_1_know_the_number_of_rows(constraint):
    y_true = np.tile([0, 1], 30)
    group = np.repeat([0, 1, 2], [6, 18, 36])
    kwargs = {"constraint": constraint, "sensitive_features": group}
    for y_pred in (np.zeros(60, int), np.ones(60, int), y_true, np.arange(60) % 5 == 0):
        table = group_rates(y_true, y_pred.astype(int), **kwargs)
        n = table["n_samples"]
        rate = (n * table["rate"] + 0.5) / (n + 1)  # half a row of 0, half a row of 1
        assert_allclose(table["standard_error"], np.sqrt(rate * (1 - rate) / n))
    found = gap_with_error(y_true, group > 0, **kwargs)
    assert found.standard_error > 0


def test_undefined_rates_are_left_out():
    # group "c" has no positives, group "d" no negatives
    y_true = [0, 1, 0, 1, 0, 1]
    y_pred = [0, 1, 1, 0, 1, 1]
    group = ["a", "a", "b", "b", "c", "d"]
    kwargs = {"constraint": "equalized_odds", "sensitive_features": group}
    rates = group_rates(y_true, y_pred, **kwargs)["rate"]
    assert list(rates.index[rates.isna()]) == [("y=0", "d"), ("y=1", "c")]
    assert gap(y_true, y_pred, **kwargs) == 1

    kwargs["constraint"] = "true_positive_rate_parity"
    alone = gap_with_error(y_true[2:5], y_pred[2:5], **kwargs | {"sensitive_features": group[2:5]})
    assert np.isnan(alone.value)
    assert alone[2:] == (None, None, None, None)


@every_constraint
def test_gap_of_a_single_group_is_nan(constraint):
    assert np.isnan(gap([0, 1], [0, 1], constraint=constraint, sensitive_features=["a", "a"]))


@pytest.mark.parametrize("constraint", ["demographic_parity", "equalized_odds"])
def test_small_cells_are_left_out_if_that_is_asked_for(constraint):
    y, decision, group, weight = _data(3)
    group[:6] = 3  # a group of six rows, which decide alike
    decision[:6] = 1
    y[:3], y[3:6] = 0, 1
    kwargs = {"constraint": constraint, "sample_weight": weight}
    few = gap_with_error(y, decision, sensitive_features=group, min_cell_size=7, **kwargs)
    rows = group < 3
    large = gap_with_error(
        y[rows],
        decision[rows],
        constraint=constraint,
        sample_weight=weight[rows],
        sensitive_features=group[rows],
    )
    assert few == large
    assert gap_with_error(y, decision, sensitive_features=group, **kwargs).highest == 3
    model = LogisticRegression().fit(decision[:, None], decision)
    scorer = gap_scorer(constraint, min_cell_size=7)
    assert repr(scorer) == f"gap_scorer('{constraint}', min_cell_size=7)"
    found = scorer(model, decision[:, None], y, sensitive_features=group, sample_weight=weight)
    assert found == -few.value
    assert np.isnan(gap(y, decision, sensitive_features=group, min_cell_size=1000, **kwargs))
    some = weight * ~((group == 2) & (np.arange(len(y)) > 8))  # group 2 keeps a few rows of weight
    kwargs["sample_weight"] = some
    found = gap_with_error(y, decision, sensitive_features=group, min_cell_size=7, **kwargs)
    assert {found.lowest, found.highest} == {0, 1}
    for size in (0, 2.5, True, "30"):
        with pytest.raises(ValueError, match=r"min_cell_size must be an integer of at least 1; got"):
            gap_scorer(constraint, min_cell_size=size)


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_huge_and_tiny_weights(scale):
    y, decision, group, weight = _data()
    kwargs = {"constraint": "equalized_odds", "sensitive_features": group}
    found = gap_with_error(y, decision, sample_weight=weight * scale, **kwargs)
    expected = gap_with_error(y, decision, sample_weight=weight, **kwargs)
    assert_allclose(found[:2], expected[:2])


def test_rows_without_weight_count_as_no_rows():
    kwargs = {"constraint": "demographic_parity", "sensitive_features": ["a", "b"]}
    assert np.isnan(gap([0, 1], [0, 1], sample_weight=[1, 0], **kwargs))
    assert np.isnan(gap([0, 1], [0, 1], sample_weight=[0, 0], **kwargs))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"constraint": "parity"}, "Unknown constraint 'parity'"),
        ({"constraint": "degradation_parity"}, "needs the decisions of the dense network.*degradation_gap"),
        (
            {"constraint": "true_positive_rate_parity", "y_true": [0, 1, 2]},
            "true_positive_rate_parity is for two classes, and y has 3",
        ),
        ({"y_true": [0, 1, 2], "pos_label": 2}, "pos_label=2 is for two classes, and there are 3: 0, 1, 2"),
        ({"y_pred": [0.2, 0.2, 1.0]}, "must hold labels of one type and no scores, got 0, 0.2, 1"),
        ({"y_pred": [0.2, 0.7, 0.1]}, "must hold labels of one type and no scores, got 0, 0.1, 0.2, 0.7, 1"),
        ({"control_features": ["a"]}, "control_features has 1 values, but there are 3 samples"),
        ({"control_features": ["a", None, "b"]}, "Missing values: control_features has 1"),
        ({"y_pred": [0, 1]}, "y_true has 3 rows and y_pred has 2"),
        ({"sensitive_features": ["a"]}, "has 1 values, but there are 3 samples"),
        ({"sensitive_features": ["a", None, "b"]}, "Missing values"),
        ({"sample_weight": [1, 1]}, r"sample_weight.shape == \(2,\), expected \(3,\)"),
        ({"sample_weight": [1, 1, -1]}, "Negative values in data passed to `sample_weight`"),
        ({"sample_weight": [1, 1, np.nan]}, "Input sample_weight contains NaN"),
    ],
)
@pytest.mark.parametrize("metric", [gap, gap_with_error, group_rates], ids=lambda f: f.__name__)
def test_error_messages(metric, changes, message):
    arguments = {
        "y_true": [0, 1, 1],
        "y_pred": [0, 1, 0],
        "constraint": "demographic_parity",
        "sensitive_features": ["a", "b", "b"],
    } | changes
    with pytest.raises(ValueError, match=message):
        metric(arguments.pop("y_true"), arguments.pop("y_pred"), **arguments)


@pytest.mark.parametrize("name", ["y_pred", "sensitive_features", "control_features", "sample_weight"])
@pytest.mark.parametrize(
    "metric", [gap, gap_with_error, group_rates, degradation_gap], ids=lambda f: f.__name__
)
def test_columns_in_another_order_are_refused(metric, name):
    index = pd.RangeIndex(6)
    y = pd.Series([0, 1, 1, 0, 1, 0], index)
    columns = {"y_pred": y, "sensitive_features": pd.Series(list("aabbab"), index)}
    columns |= {"control_features": pd.Series(list("uvuvuv"), index), "sample_weight": pd.Series(1.0, index)}
    columns |= {"y_pred_dense": y} if metric is degradation_gap else {"constraint": "error_rate_parity"}
    metric(y, **columns)
    metric(y, **columns | {name: columns[name].set_axis(index + 6)})  # of other rows: nothing is known
    metric(y.to_numpy(), **columns | {name: columns[name][::-1].to_numpy()})
    others = {key: value[::-1] if isinstance(value, pd.Series) else value for key, value in columns.items()}
    fresh = others["y_pred"].reset_index(drop=True)  # as pd.Series(model.predict(X))
    metric(y[::-1], **others | {"y_pred": fresh})
    with pytest.raises(ValueError, match=rf"{name} has the index of y_true in another order"):
        metric(y, **columns | {name: columns[name][::-1]})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pd.Index([3, 1, 2]), pd.Index([3, 1, 2], dtype="Int64")),
        (pd.Index([3, 1, 2]), pd.Index([3.0, 1.0, 2.0])),
        (pd.interval_range(0, 3), pd.interval_range(0, 3).astype(object)),
        (
            pd.MultiIndex.from_tuples([(1, "a"), (2, "b"), (3, "a")]),
            pd.MultiIndex.from_arrays([pd.array([1, 2, 3], dtype="Int64"), list("aba")]),
        ),
        (pd.Index([1, 2, 3]), pd.Index(["x", "y", "z"])),
    ],
)
def test_labels_of_another_type_in_the_same_order_are_taken(one, other):
    y, group = pd.Series([0, 1, 1], one), pd.Series(["a", "b", "b"], other)
    assert gap(y, y, constraint="demographic_parity", sensitive_features=group) == 1


def test_a_scorer_refuses_groups_in_another_order():
    X, y, group, _ = _classification()
    model, y = _pipeline().fit(X, y), pd.Series(y)
    with pytest.raises(ValueError, match="sensitive_features has the index of y_true in another order"):
        gap_scorer("demographic_parity")(model, X, y, sensitive_features=pd.Series(group)[::-1])


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def _classification(labels=(0, 1)):
    rng = np.random.default_rng(5)
    X = rng.normal(size=(240, 4))
    group = np.where(X[:, 1] + rng.normal(size=240) > 0, "f", "m")
    y = np.asarray(labels)[(X[:, 0] + X[:, 1] + rng.normal(size=240) > 0).astype(int)]
    return X, y, group, rng.uniform(0.1, 3, 240)


def _splits(X, y):
    return StratifiedKFold(3).split(X, y)


def _pipeline():
    return make_pipeline(StandardScaler(), LogisticRegression())


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("labels", [(0, 1), ("no", "yes"), (False, True)])
@every_constraint
def test_scorer_called_directly(constraint, labels, enabled):
    X, y, group, weight = _classification(labels)
    model = _pipeline().fit(X, y)
    kwargs = {"sensitive_features": group, "sample_weight": weight}
    with sklearn.config_context(enable_metadata_routing=enabled):
        score = gap_scorer(constraint)(model, X, y, **kwargs)
    assert score == -gap(y, model.predict(X), constraint=constraint, **kwargs)
    assert score < 0


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("n_jobs", [None, 2])
@pytest.mark.parametrize("labels", [(0, 1), ("no", "yes")])
def test_scorer_in_a_search(labels, n_jobs):
    X, y, group, _ = _classification(labels)
    search = GridSearchCV(
        _pipeline(),
        {"logisticregression__C": [1e-2, 1]},
        scoring={
            "accuracy": "accuracy",
            "dp": gap_scorer("demographic_parity"),
            "eo": gap_scorer("equalized_odds"),
        },
        refit="dp",
        cv=3,
        n_jobs=n_jobs,
        error_score="raise",
    )
    results = clone(search).fit(X, y, sensitive_features=group).cv_results_
    train, test = next(_splits(X, y))
    model = _pipeline().set_params(logisticregression__C=1).fit(X[train], y[train])
    assert results["split0_test_dp"][1] == -gap(
        y[test],
        model.predict(X[test]),
        constraint="demographic_parity",
        sensitive_features=group[test],
    )
    assert np.all(results["mean_test_eo"] < 0)


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("single", [False, True])
def test_scorer_in_a_search_with_weights(single):
    X, y, group, weight = _classification()
    scorer = gap_scorer("demographic_parity")
    search = GridSearchCV(
        LogisticRegression().set_fit_request(sample_weight=True),
        {"C": [1]},
        scoring=scorer if single else {"dp": scorer},
        refit=single,
        cv=3,
        error_score="raise",
    ).fit(X, y, sensitive_features=pd.Series(group), sample_weight=weight)
    train, test = next(_splits(X, y))
    model = LogisticRegression().fit(X[train], y[train], sample_weight=weight[train])
    score = search.cv_results_["split0_test_score" if single else "split0_test_dp"][0]
    assert score == -gap(
        y[test],
        model.predict(X[test]),
        constraint="demographic_parity",
        sensitive_features=group[test],
        sample_weight=weight[test],
    )


@pytest.mark.usefixtures("routing")
@pytest.mark.parametrize("container", [list, pd.Series, lambda group: pd.DataFrame({"sex": group})])
def test_scorer_in_cross_validation(container):
    X, y, group, _ = _classification(("no", "yes"))
    scorer, params = gap_scorer("error_rate_parity"), {"sensitive_features": container(group)}
    scores = cross_val_score(_pipeline(), X, y, scoring=scorer, params=params, cv=3, error_score="raise")
    both = cross_validate(
        _pipeline(),
        X,
        y,
        scoring={"accuracy": "accuracy", "gap": scorer},
        params=params,
        cv=3,
        error_score="raise",
    )
    assert np.all(scores < 0)
    assert_allclose(both["test_gap"], scores)


@pytest.mark.usefixtures("routing")
def test_undefined_scores_stay_nan():
    X, y, _, _ = _classification()
    group = np.where(np.arange(len(y)) < len(y) // 2, "f", "m")
    scores = cross_val_score(
        _pipeline(),
        X,
        y,
        scoring=gap_scorer("demographic_parity"),
        params={"sensitive_features": group},
        cv=[(np.arange(240), np.arange(50)), (np.arange(240), np.arange(100, 140))],
        error_score="raise",
    )
    assert np.isnan(scores).tolist() == [True, False]


def test_scorer_takes_the_positive_label_of_the_classifier():
    X, y, group, _ = _classification(("no", "yes"))
    model = _pipeline().fit(X, y)
    rows = (y == "no") & (model.predict(X) == "no")
    kwargs = {"sensitive_features": group[rows]}
    assert gap_scorer("demographic_parity")(model, X[rows], y[rows], **kwargs) == 0
    assert np.isnan(gap_scorer("true_positive_rate_parity")(model, X[rows], y[rows], **kwargs))
    flipped = gap_scorer("true_positive_rate_parity", pos_label="no")
    assert flipped(model, X[rows], y[rows], **kwargs) == 0


WRAPPERS = {
    "nothing": lambda clf: clf,
    "pipeline": make_pipeline,
    "search": lambda clf: GridSearchCV(clf, {}, cv=2),
    "calibration": lambda clf: CalibratedClassifierCV(clf, ensemble=False, cv=2),
    "calibrated pipeline": lambda clf: CalibratedClassifierCV(make_pipeline(clf), cv=2),
}


@pytest.mark.parametrize("within", WRAPPERS.values(), ids=WRAPPERS)
def test_scorer_takes_the_positive_label_that_the_classifier_was_given(within):
    X, y, group, _ = _classification(("no", "yes"))
    clf = FixedThresholdClassifier(LogisticRegression(), threshold=0.3, pos_label="no")
    model = within(clf).fit(X, y)
    found = {
        label: -gap(
            y,
            model.predict(X),
            constraint="true_positive_rate_parity",
            sensitive_features=group,
            pos_label=label,
        )
        for label in ("no", "yes")
    }
    assert found["no"] != found["yes"]
    score = gap_scorer("true_positive_rate_parity")(model, X, y, sensitive_features=group)
    assert score == found["no"]


@pytest.mark.parametrize("pos_labels", [(0,), (0, 1)], ids=["encoded", "several"])
def test_scorer_does_not_guess_the_positive_label_of_an_ensemble(pos_labels):
    X, y, group, _ = _classification(("no", "yes"))
    inner = [
        (
            f"m{k}",
            FixedThresholdClassifier(LogisticRegression(), pos_label=k, response_method="predict_proba"),
        )
        for k in pos_labels
    ]
    model = VotingClassifier(inner).fit(X, y)
    with pytest.raises(
        ValueError, match=r"which of the classes 'no', 'yes' is.*VotingClassifier.* Pass pos_l"
    ):
        gap_scorer("true_positive_rate_parity")(model, X, y, sensitive_features=group)
    for scorer in (gap_scorer("demographic_parity"), gap_scorer("true_positive_rate_parity", pos_label="no")):
        assert scorer(model, X, y, sensitive_features=group) <= 0


@pytest.mark.parametrize("constraint", ["demographic_parity", "error_rate_parity"])
def test_a_single_label_is_enough_where_either_can_be_the_positive_one(constraint):
    y, sex = ["routine"] * 100, ["f", "m"] * 50
    found = gap_with_error(y, y, constraint=constraint, sensitive_features=sex)
    assert (found.value, found.event) == (0, "all")
    assert 0 < found.standard_error < 0.1
    with pytest.raises(ValueError, match=r"single label 'routine'.*pass pos_label"):
        gap(y, y, constraint="equalized_odds", sensitive_features=sex)
    with pytest.raises(ValueError, match=r"single label 'routine'.*pass pos_label"):
        group_rates(y, y, constraint=constraint, sensitive_features=sex)


@pytest.mark.parametrize(
    "attributes", [{"steps": 100}, {"steps": [1, 2]}, {"pos_label": 1}, {"pos_label": []}]
)
def test_attributes_of_other_classifiers_that_mean_something_else(attributes):
    X, y, group, _ = _classification(("no", "yes"))
    model = LogisticRegression().fit(X, y)
    expected = gap_scorer("true_positive_rate_parity")(model, X, y, sensitive_features=group)
    vars(model).update(attributes)
    assert gap_scorer("true_positive_rate_parity")(model, X, y, sensitive_features=group) == expected


def test_scorer_of_a_model_without_classes():
    class Threshold:
        def predict(self, X):
            return X[:, 0] > 0

    X, y, group, _ = _classification()
    score = gap_scorer("demographic_parity")(Threshold(), X, y, sensitive_features=group)
    assert score == -gap(y, X[:, 0] > 0, constraint="demographic_parity", sensitive_features=group)


def test_scorer_survives_pickle_and_clone():
    X, y, group, _ = _classification()
    model = _pipeline().fit(X, y)
    scorer = gap_scorer("equalized_odds", pos_label=0)
    for copied in (pickle.loads(pickle.dumps(scorer)), clone(scorer, safe=False)):
        assert repr(copied) == "gap_scorer('equalized_odds', pos_label=0)"
        assert copied(model, X, y, sensitive_features=group) == scorer(model, X, y, sensitive_features=group)
        requests = copied.get_metadata_routing().score.requests
        assert requests == {"sensitive_features": True, "control_features": True, "sample_weight": True}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("enabled", [False, True])
def test_scorer_without_sensitive_features(enabled, several):
    X, y, _, _ = _classification()
    scorer = gap_scorer("demographic_parity")
    message = (
        r"gap_scorer\('demographic_parity'\) got no sensitive_features.*"
        r"sklearn.set_config\(enable_metadata_routing=True\) and pass sensitive_features to fit"
    )
    search = GridSearchCV(
        _pipeline(),
        {},
        scoring={"dp": scorer} if several else scorer,
        refit=False,
        error_score="raise",
    )
    with (
        sklearn.config_context(enable_metadata_routing=enabled),
        pytest.raises(ValueError, match=message),
    ):
        search.fit(X, y)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ("parity", "Unknown constraint 'parity'"),
        ("degradation_parity", "needs the decisions of the dense network.*degradation_gap"),
    ],
)
def test_scorer_of_a_constraint_that_it_cannot_measure(constraint, message):
    with pytest.raises(ValueError, match=message):
        gap_scorer(constraint)


@pytest.mark.usefixtures("routing")
def test_scorer_within_strata():
    X, y, group, _ = _classification(("no", "yes"))
    site = pd.DataFrame({"site": np.where(X[:, 2] > 0, "east", "west")})
    params = {"sensitive_features": group, "control_features": site}
    scorer = gap_scorer("equalized_odds")
    scores = cross_val_score(_pipeline(), X, y, scoring=scorer, params=params, cv=3, error_score="raise")
    train, test = next(_splits(X, y))
    model = _pipeline().fit(X[train], y[train])
    kwargs = {"sensitive_features": group[test], "control_features": site.iloc[test]}
    assert scores[0] == -gap(y[test], model.predict(X[test]), constraint="equalized_odds", **kwargs)
    assert scores[0] == scorer(model, X[test], y[test], **kwargs)
    assert scores[0] < scorer(model, X[test], y[test], sensitive_features=group[test])
    with sklearn.config_context(enable_metadata_routing=False):
        assert scores[0] == scorer(model, X[test], y[test], **kwargs)


@every_multiclass
def test_scorer_knows_the_classes_of_the_model(constraint):
    X, _, group, weight = _classification()
    y = np.array(["high", "low", "mid"])[np.digitize(X[:, 0] + X[:, 1], [-0.7, 0.7])]
    model = LogisticRegression().fit(X, y)
    kwargs = {"sensitive_features": group, "sample_weight": weight}
    scorer = gap_scorer(constraint)
    assert scorer(model, X, y, **kwargs) == -gap(y, model.predict(X), constraint=constraint, **kwargs)
    rows = (y == "mid") & (model.predict(X) == "mid")
    assert scorer(model, X[rows], y[rows], sensitive_features=group[rows]) == 0


def test_thousands_of_strata():
    rng, n = np.random.default_rng(0), 20_000
    y, decision, group = rng.integers(0, 2, (3, n))
    block = rng.integers(0, 3000, n)
    found = gap_with_error(
        y, decision, constraint="demographic_parity", sensitive_features=group, control_features=block
    )
    frame = fm.MetricFrame(
        metrics=fm.selection_rate,
        y_true=y,
        y_pred=decision,
        sensitive_features=group,
        control_features=block,
    )
    assert found.value == pytest.approx(frame.difference().max())
    rates = group_rates(
        y, decision, constraint="demographic_parity", sensitive_features=group, control_features=block
    )
    there = rates["rate"].loc["all", found.stratum]
    assert there[found.highest] - there[found.lowest] == found.value


def test_a_score_request_adds_to_those_that_there_are():
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = gap_scorer("equalized_odds").set_score_request(sample_weight=False)
        requests = scorer.get_metadata_routing().score.requests
    assert requests == {"sensitive_features": True, "control_features": True, "sample_weight": False}
