"""The synthetic law against brute force and samples; the benchmarks against their catalog."""

import json
import os
import sys
import warnings
from pathlib import Path

import fairlearn.metrics as fl
import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score

from skfairprune.datasets import (
    BiasedDistribution,
    load_benchmark,
    make_biased_classification,
    make_preprocessor,
    source_columns,
)

LAWS = {
    "default": {},
    "label_bias": {"label_bias": 0.3},
    "heavy_label_bias": {"label_bias": 0.8, "base_rates": (0.4, 0.8), "proxy_strength": 0.7},
    "three_groups": {
        "group_probs": (0.5, 0.3, 0.2),
        "base_rates": (0.5, 0.2, 0.6),
        "label_bias": 0.1,
        "proxy_strength": 0.5,
    },
    "no_proxies": {"n_proxies": 0, "n_informative": 5, "n_noise": 0, "class_sep": 0.4},
    "frame": {"as_frame": True},
    "frame_hard": {
        "as_frame": True,
        "missing_rate": 0.5,
        "label_bias": 0.4,
        "group_probs": (0.4, 0.35, 0.25),
        "base_rates": (0.3, 0.6, 0.5),
        "n_proxies": 1,
        "proxy_strength": 0.4,
    },
}


@pytest.fixture(params=LAWS.values(), ids=LAWS)
def law_params(request):
    return request.param


def _category_probability(mean, code):
    weights = np.exp(mean * np.array([-1, -1 / 3, 1 / 3, 1]))
    return weights[code] / weights.sum()


def _brute_force_joint(row, law):
    """P(y, group | x) by Bayes' rule over every (group, true label, flip), in Python loops."""
    n_groups, n_informative = len(law.group_probs), law.n_informative
    joint = np.zeros((2, n_groups))
    for g in range(n_groups):
        shift = law.proxy_strength * (2 * g - n_groups + 1)
        flip = law.label_bias if g == n_groups - 1 else 0.0
        for t in (0, 1):
            centre = law.class_sep if t else -law.class_sep
            weight = law.group_probs[g] * (law.base_rates[g] if t else 1 - law.base_rates[g])
            for j, value in enumerate(row[: n_informative + law.n_proxies + law.n_noise]):
                is_proxy = n_informative <= j < n_informative + law.n_proxies
                mean = centre if j < n_informative else shift if is_proxy else 0.0
                weight *= 1.0 if pd.isna(value) else stats.norm.pdf(value, loc=mean)
            if law.as_frame:
                occupation = ["manual", "service", "office", "technical"].index(row[-2])
                district = ["north", "east", "south", "west"].index(row[-1])
                weight *= _category_probability(centre, occupation)
                weight *= _category_probability(shift, district)
            joint[0, g] += weight * (flip if t else 1.0)
            joint[1, g] += weight * (1 - flip if t else 0.0)
    return joint / joint.sum()


def test_posterior_equals_brute_force(law_params):
    data = make_biased_classification(12, random_state=3, **law_params)
    rows = data.X.to_numpy() if data.distribution.as_frame else data.X
    expected = np.array([_brute_force_joint(row, data.distribution) for row in rows])
    joint = data.distribution.joint_proba(data.X)
    np.testing.assert_allclose(joint, expected, rtol=1e-10)
    np.testing.assert_allclose(data.distribution.predict_proba(data.X), expected.sum(axis=2))
    np.testing.assert_array_equal(data.distribution.predict(data.X), expected.sum(axis=2).argmax(axis=1))


def test_posterior_is_calibrated_on_samples(law_params):
    data = make_biased_classification(40_000, random_state=4, **law_params)
    law = data.distribution
    joint = law.joint_proba(data.X)
    for y in (0, 1):
        for g, group in enumerate(law.groups):
            observed = np.asarray((data.y == y) & (data.sensitive_features == group), dtype=float)
            error = observed - joint[:, y, g]
            assert abs(error.mean()) < 4 * error.std() / np.sqrt(len(error)) + 1e-12


def _audit_by_fairlearn(data):
    """Bayes rule's figures on a sample by fairlearn, with standard errors of the rates."""
    y, decision = np.asarray(data.y), data.distribution.predict(data.X)
    metrics = {
        "selection_rate": fl.selection_rate,
        "true_positive_rate": fl.true_positive_rate,
        "false_positive_rate": fl.false_positive_rate,
    }
    frame = fl.MetricFrame(
        metrics=metrics,
        y_true=y,
        y_pred=decision,
        sensitive_features=np.asarray(data.sensitive_features),
    )
    counts = pd.crosstab(np.asarray(data.sensitive_features), y)
    cells = {
        "selection_rate": counts.sum(axis=1),
        "true_positive_rate": counts[1],
        "false_positive_rate": counts[0],
    }
    errors = pd.DataFrame(
        {m: np.sqrt(frame.by_group[m] * (1 - frame.by_group[m]) / n) for m, n in cells.items()}
    )
    return accuracy_score(y, decision), frame, errors


def test_bayes_report_equals_fairlearn_audit_of_a_sample(law_params):
    n = 100_000
    data = make_biased_classification(n, random_state=5, **law_params)
    report = data.distribution.bayes_report()
    accuracy, frame, errors = _audit_by_fairlearn(data)
    assert abs(report.accuracy - accuracy) < 4 * np.sqrt(accuracy * (1 - accuracy) / n)
    gaps = frame.difference()
    for metric, rates in frame.by_group.items():
        np.testing.assert_array_less(np.abs(report.by_group[metric] - rates), 4 * errors[metric] + 1e-12)
    # A gap is a difference of two independent rates.
    gap_error = 4 * np.sqrt(2) * errors.max() + 1e-12
    odds = ["true_positive_rate", "false_positive_rate"]
    parity_error = abs(report.demographic_parity_difference - gaps["selection_rate"])
    odds_error = abs(report.equalized_odds_difference - gaps[odds].max())
    assert parity_error < gap_error["selection_rate"]
    assert odds_error < gap_error[odds].max()


@pytest.mark.parametrize("label_bias", [0.0, 0.2, 0.6])
def test_bayes_report_equals_adaptive_quadrature_of_a_bisected_boundary(label_bias):
    """One proxy, one informative column: the rule's boundary found from the posterior alone."""
    law = BiasedDistribution(n_informative=1, n_proxies=1, n_noise=0, class_sep=1.0, label_bias=label_bias)

    def smallest_accepted(q):
        def excess(m):
            return law.predict_proba(np.array([[m, q]]))[0, 1] - 0.5

        low, high = -30.0, 30.0
        if excess(high) <= 0:
            return np.inf
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (low, middle) if excess(middle) > 0 else (middle, high)
        return high

    by_group = law.bayes_report().by_group
    for g, shift in enumerate((-1.0, 1.0)):
        tpr, _ = integrate.quad(
            lambda q, shift=shift: stats.norm.pdf(q - shift) * stats.norm.sf(smallest_accepted(q) - 1),
            shift - 6,
            shift + 6,
            epsabs=1e-7,
            limit=40,
        )
        assert by_group["true_positive_rate"].iloc[g] == pytest.approx(tpr, abs=1e-6)


def test_defaults_have_visible_gaps():
    report = BiasedDistribution().bayes_report()
    assert report.accuracy == pytest.approx(0.8592, abs=5e-4)
    assert report.demographic_parity_difference == pytest.approx(0.2033, abs=5e-4)
    assert report.equalized_odds_difference == pytest.approx(0.0978, abs=5e-4)


def test_bayes_rule_beats_other_rules():
    data = make_biased_classification(50_000, label_bias=0.2, random_state=0)
    merit, proxy = data.X[:, :3].sum(axis=1), data.X[:, 3:5].sum(axis=1)
    best = accuracy_score(data.y, data.distribution.predict(data.X))
    for slope in (0.0, 0.2, 0.4, 0.6):
        for cut in (0.0, 0.3, 0.6, 0.9):
            assert accuracy_score(data.y, merit - slope * proxy > cut) < best + 0.002


@pytest.mark.parametrize("as_frame", [False, True])
def test_proxies_of_strength_zero_say_nothing_of_the_group(as_frame):
    data = make_biased_classification(
        5000, proxy_strength=0.0, base_rates=(0.4, 0.4), as_frame=as_frame, random_state=0
    )
    group_posterior = data.distribution.joint_proba(data.X).sum(axis=1)
    np.testing.assert_allclose(group_posterior, np.tile([0.7, 0.3], (5000, 1)))
    X = data.X[["commute", "rent_area"]].to_numpy() if as_frame else data.X[:, 3:5]
    other = data.sensitive_features == "group_1"
    assert stats.ks_2samp(X[other].ravel(), X[~other].ravel()).pvalue > 1e-3
    report = data.distribution.bayes_report()
    assert report.demographic_parity_difference == pytest.approx(0, abs=1e-12)
    assert report.equalized_odds_difference == pytest.approx(0, abs=1e-12)


def test_proxies_reveal_the_group():
    data = make_biased_classification(5000, random_state=0)
    group_posterior = data.distribution.joint_proba(data.X).sum(axis=1)
    guess = data.distribution.groups[group_posterior.argmax(axis=1)]
    assert np.mean(guess == data.sensitive_features) > 0.9


@pytest.mark.parametrize("label_bias", [0.0, 0.25, 0.7])
def test_label_bias_flips_true_positives_of_the_last_group(label_bias):
    data = make_biased_classification(
        40_000,
        group_probs=(0.3, 0.3, 0.4),
        base_rates=(0.5, 0.4, 0.5),
        label_bias=label_bias,
        random_state=1,
    )
    last = data.sensitive_features == "group_2"
    positive = data.true_label == 1
    assert np.all(data.y[~(last & positive)] == data.true_label[~(last & positive)])
    flipped = np.mean(data.y[last & positive] == 0)
    error = np.sqrt(label_bias * (1 - label_bias) / np.sum(last & positive))
    assert abs(flipped - label_bias) <= 4 * error


def test_sample_follows_group_shares_and_base_rates():
    data = make_biased_classification(50_000, random_state=0)
    for g, (share, rate) in enumerate([(0.7, 0.45), (0.3, 0.25)]):
        member = data.sensitive_features == f"group_{g}"
        assert abs(member.mean() - share) < 4 * np.sqrt(share * (1 - share) / 50_000)
        error = np.sqrt(rate * (1 - rate) / member.sum())
        assert abs(data.y[member].mean() - rate) < 4 * error


def test_same_seed_same_data(law_params):
    first, second, other = (
        make_biased_classification(50, random_state=seed, **law_params) for seed in (0, 0, 1)
    )
    assert first.distribution == second.distribution
    for key in ("X", "y", "sensitive_features", "true_label"):
        pd.testing.assert_frame_equal(pd.DataFrame(first[key]), pd.DataFrame(second[key]))
    assert not pd.DataFrame(first.X).equals(pd.DataFrame(other.X))


def test_global_generator_is_untouched():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    make_biased_classification(20, random_state=0, as_frame=True)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_array_output():
    data = make_biased_classification(30, n_informative=4, n_proxies=3, n_noise=1, random_state=0)
    assert data.X.shape == (30, 8)
    assert len(data.distribution.feature_names) == 8
    assert set(data.y) <= {0, 1}
    assert isinstance(data.sensitive_features, np.ndarray)
    assert set(data.sensitive_features) <= {"group_0", "group_1"}
    assert np.isfinite(data.X).all()


def test_frame_output():
    data = make_biased_classification(5000, as_frame=True, missing_rate=0.2, random_state=0)
    numeric = make_biased_classification(5000, random_state=0)
    assert list(data.X) == data.distribution.feature_names
    assert abs(data.X["income"].isna().mean() - 0.2) < 4 * np.sqrt(0.16 / 5000)
    assert data.X.drop(columns="income").notna().all(axis=None)
    assert (data.X[["occupation", "district"]].dtypes == "category").all()
    assert (data.y.name, data.sensitive_features.name) == ("repaid", "group")
    np.testing.assert_array_equal(data.y, numeric.y)
    np.testing.assert_array_equal(data.X.iloc[:, 1:7], numeric.X[:, 1:])


def test_missing_and_unknown_values_carry_no_information():
    law = BiasedDistribution(as_frame=True)
    X = make_biased_classification(4, as_frame=True, random_state=0).X
    X.loc[:, X.columns[:7]] = np.nan
    X["occupation"] = ["pilot", None, "pilot", None]
    X["district"] = None
    prior = [[0.7 * 0.55, 0.3 * 0.75], [0.7 * 0.45, 0.3 * 0.25]]
    np.testing.assert_allclose(law.joint_proba(X), np.tile(prior, (4, 1, 1)))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_samples": 0}, r"'n_samples'.*Got 0"),
        ({"n_informative": 0}, r"'n_informative'.*Got 0"),
        ({"n_proxies": -1}, r"'n_proxies'.*Got -1"),
        ({"n_noise": 1.5}, r"'n_noise'.*Got 1.5"),
        ({"class_sep": 0}, r"'class_sep'.*Got 0"),
        ({"label_bias": 1.0}, r"'label_bias'.*Got 1.0"),
        ({"proxy_strength": -0.1}, r"'proxy_strength'.*Got -0.1"),
        ({"missing_rate": np.nan}, r"'missing_rate'.*Got nan"),
        ({"as_frame": "yes"}, r"'as_frame'.*Got 'yes'"),
        ({"random_state": "seed"}, r"'random_state'.*Got 'seed'"),
        ({"group_probs": 0.5}, r"'group_probs'.*Got 0.5"),
        ({"group_probs": [[0.5], [0.5]]}, r"sequence of numbers; got \[\[0.5\]"),
        ({"base_rates": ("a", "b")}, r"base_rates must be a sequence of numbers; got \('a'"),
        ({"group_probs": (1.0,), "base_rates": (0.5,)}, r"two or more .*got \(1.0,\)"),
        ({"group_probs": (0.7, 0.4)}, r"sum 1; got \(0.7, 0.4\) with sum 1.1"),
        ({"group_probs": (1.2, -0.2)}, r"positive probabilities"),
        ({"base_rates": (0.5, 0.5, 0.5)}, r"must hold 2 rates .*got \(0.5, 0.5, 0.5\)"),
        ({"base_rates": (0.0, 0.5)}, r"strictly between 0 and 1.*got \(0.0, 0.5\)"),
        ({"as_frame": True, "n_informative": 1}, r"at least 2 with as_frame=True.*got 1"),
    ],
)
def test_bad_parameters_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        make_biased_classification(**params)


def test_distribution_rejects_foreign_columns():
    with pytest.raises(ValueError, match=r"shape \(n, 7\); got \(3, 6\)"):
        BiasedDistribution().predict(np.zeros((3, 6)))
    law = BiasedDistribution(as_frame=True)
    with pytest.raises(ValueError, match=r"DataFrame with the columns \['income'.*got ndarray"):
        law.predict(np.zeros((3, 9)))
    with pytest.raises(ValueError, match=r"got \['income'\]"):
        law.predict(pd.DataFrame({"income": [0.0]}))


MIXED = {
    "int": [1, 2, 3, 4],
    "half_missing": [1.0, np.nan, 3.0, np.nan],
    "nothing": [np.nan] * 4,
    "nullable": pd.array([1, None, 3, 8], dtype="Int64"),
    "category": pd.Categorical(["a", None, "b", "a"]),
    "int_category": pd.Categorical([1, 2, 2, None]),
    "string": pd.array(["x", None, "x", "y"], dtype="string"),
    "object": np.array(["u", np.nan, None, "v"], dtype=object),
    "plain": ["k", "l", "k", "k"],
    "bool": [True, False, True, True],
    "boolean": pd.array([True, None, False, True], dtype="boolean"),
}


def test_preprocessor_makes_finite_float32():
    X = pd.DataFrame(MIXED)
    transformer = make_preprocessor(X)
    Z = transformer.fit_transform(X)
    names = list(transformer.get_feature_names_out())
    assert Z.dtype == np.float32
    assert np.isfinite(Z).all()
    assert names[:4] == ["int", "half_missing", "nothing", "nullable"]
    assert Z[1, 1] == 2.0
    assert Z[1, 3] == 3.0
    assert {"category_missing", "boolean_missing", "bool_1", "int_category_2"} <= set(names)
    np.testing.assert_array_equal(Z[:, names.index("object_missing")], [0, 1, 1, 0])
    np.testing.assert_array_equal(clone(transformer).fit(X).transform(X), Z)


def test_preprocessor_knows_a_category_in_whatever_dtype_it_comes():
    """One missing value makes integers floats, and flags come as True, as 1, or from a nullable column."""
    X = pd.DataFrame({"code": pd.Categorical([1, 2, 3] * 20), "own": [True, False] * 30})
    transformer = make_preprocessor(X).fit(X)
    expected = transformer.transform(X.iloc[:2])
    assert expected.sum(axis=1).tolist() == [2, 2]
    for code in (pd.Categorical([1.0, 2.0]), pd.array([1, 2], "Int64"), [1.0, 2.0], ["1", "2"]):
        for own in (
            [1, 0],
            [1.0, 0.0],
            ["True", "False"],
            pd.array([True, False], "boolean"),
            np.array([True, False], object),
        ):
            Z = transformer.transform(pd.DataFrame({"code": code, "own": own}))
            np.testing.assert_array_equal(Z, expected)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_preprocessor_takes_any_missing_value_among_numbers(missing):
    X = pd.DataFrame({"age": [20.0, 30.0, 40.0], "job": ["a", "b", "b"]})
    transformer = make_preprocessor(X).fit(X)
    one = pd.DataFrame([{"age": missing, "job": "a"}])
    assert transformer.transform(one)[0, 0] == 30
    given = pd.DataFrame({"age": np.array([missing, 35], object), "job": "a"})
    assert transformer.transform(given)[:, 0].tolist() == [30, 35]
    assert given["age"].dtype == object  # not changed


def test_preprocessor_names_the_column_that_has_no_numbers():
    X = pd.DataFrame({"age": [20.0, 30.0], "job": ["a", "b"]})
    transformer = make_preprocessor(X).fit(X)
    with pytest.raises(ValueError, match=r"The column 'age' is one of numbers, and has 'old'"):
        transformer.transform(pd.DataFrame({"age": ["20", "old"], "job": ["a", "b"]}))


@pytest.mark.parametrize("dtype", [np.int64, np.float64, "Int64"])
def test_preprocessor_keeps_what_float32_cannot_tell_apart(dtype):
    seconds = pd.Series(1_600_000_000 + np.arange(200) % 100).astype(dtype)
    X = pd.DataFrame({"seconds": seconds, "town": ["a", "b"] * 100})
    Z = make_preprocessor(X).fit_transform(X)
    assert Z.dtype == np.float64
    np.testing.assert_array_equal(Z[:, 0], np.asarray(seconds, float))
    wide = X.assign(seconds=1_600_000_000 + 10_000 * (X["seconds"] - 1_600_000_000))  # twelve days
    for plain in (X.drop(columns="seconds"), wide, wide.iloc[:1]):
        assert make_preprocessor(plain).fit_transform(plain).dtype == np.float32


def test_preprocessor_tells_of_numbers_too_large_for_any_float():
    ids = pd.Series(np.arange(500, dtype=np.uint64) + np.uint64(2**63))
    X = pd.DataFrame({"id": ids, "age": np.arange(500)})
    with pytest.warns(UserWarning, match=r"float64 cannot tell the values of the columns \['id'\]") as caught:
        make_preprocessor(X)
    assert caught[0].filename == __file__


def test_preprocessor_ignores_unknown_and_merges_rare_categories():
    X = pd.DataFrame({"city": ["a"] * 60 + ["b"] * 39 + ["c", "d"]})
    transformer = make_preprocessor(X, min_frequency=5).fit(X)
    names = list(transformer.get_feature_names_out())
    assert names == ["city_a", "city_b", "city_infrequent_sklearn"]
    Z = transformer.transform(pd.DataFrame({"city": ["c", "elsewhere", None]}))
    np.testing.assert_array_equal(Z, [[0, 0, 1], [0, 0, 0], [0, 0, 0]])


def test_preprocessor_takes_the_synthetic_frame():
    X = make_biased_classification(500, as_frame=True, random_state=0).X
    Z = make_preprocessor(X).fit_transform(X)
    assert Z.shape == (500, 7 + 4 + 4)
    assert np.isfinite(Z).all()


def test_preprocessor_tells_of_columns_of_which_nothing_is_left():
    days = pd.date_range("2020-01-01", periods=200).astype(str)
    X = pd.DataFrame({"day": days, "town": ["a", "b"] * 100, "one": ["x"] * 200, "age": range(200)})
    with pytest.warns(UserWarning, match=r"The columns \['day'\] have only values that are rarer") as caught:
        transformer = make_preprocessor(X)
    assert caught[0].filename == __file__
    assert np.ptp(transformer.fit_transform(X), axis=0).astype(bool).tolist() == [
        True,
        False,
        True,
        True,
        False,
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_preprocessor(X.drop(columns="day"))
        make_preprocessor(X.iloc[:0])


@pytest.mark.parametrize("min_frequency", [1, 2, 0.3])
def test_source_columns_are_what_the_outputs_are_of(min_frequency):
    X = pd.DataFrame(MIXED)
    preprocessor = make_preprocessor(X, min_frequency=min_frequency).fit(X)
    sources = source_columns(preprocessor)
    names = preprocessor.get_feature_names_out()
    assert len(sources) == preprocessor.transform(X).shape[1]
    assert all(
        name == source or name.startswith(f"{source}_") for name, source in zip(names, sources, strict=True)
    )
    assert set(sources) == set(X.columns)
    some = make_preprocessor(X[["int", "plain"]], min_frequency=1).fit(X)  # a frame with further columns
    assert source_columns(some) == ["int", "plain", "plain"]
    numbers = pd.DataFrame({"a": [1.0, 2.0]})
    assert source_columns(make_preprocessor(numbers).fit(numbers)) == ["a"]
    with pytest.raises(NotFittedError):
        source_columns(make_preprocessor(X))
    with pytest.raises(
        ValueError, match=r"knows the preprocessors of make_preprocessor; .* parts \['other'\]"
    ):
        source_columns(ColumnTransformer([("other", "passthrough", ["a"])]).fit(numbers))


def test_preprocessor_names_what_it_cannot_read():
    with pytest.raises(ValueError, match=r"DataFrame.*got ndarray"):
        make_preprocessor(np.zeros((2, 2)))
    X = pd.DataFrame({"age": [1], "since": pd.to_datetime(["2020-01-01"])})
    with pytest.raises(ValueError, match=r"\['since'\] are dates"):
        make_preprocessor(X)


@pytest.fixture
def toy_home(tmp_path):
    """A folder with one small set that has every peculiarity of the catalog."""
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame(
        {
            "age": [20, 30, 40, 50, 60],
            "race": pd.Categorical(["a", "b", "c", "a", "b"]),
            "sex": pd.Categorical(["f", "m", "f", "m", "f"]),
            "leak": [0, 1, 0, 1, 1],
            "weight": [1.0, 2.0, 1.0, 1.0, 1.0],
            "split": pd.Categorical(["train", "train", "train", "test", "test"]),
            "target": np.array([0, 1, 0, 1, 1], dtype=np.int8),
        }
    )
    entry = {
        "title": "Toy",
        "licence": "none",
        "positive": "good",
        "notes": "made up",
        "sensitive": ["race", "sex"],
        "main": "race",
        "main_groups": ["a", "b"],
        "exclude": ["leak", "split"],
        "weight": "weight",
    }
    frame.to_parquet(tmp_path / "toy.parquet")
    (tmp_path / "catalog.json").write_text(json.dumps({"toy": entry, "gone": entry}))
    return tmp_path


@pytest.mark.parametrize("through_environment", [True, False])
def test_benchmark_is_read_as_the_catalog_says(toy_home, monkeypatch, through_environment):
    monkeypatch.delenv("SKFAIRPRUNE_DATA", raising=False)
    if through_environment:
        monkeypatch.setenv("SKFAIRPRUNE_DATA", str(toy_home))
    data = load_benchmark("toy", data_home=None if through_environment else toy_home)
    assert list(data.X) == ["age", "sex"]
    assert data.y.tolist() == [0, 1, 1, 1]
    assert data.sensitive_features.name == "race"
    assert list(data.sensitive_features.cat.categories) == ["a", "b"]
    assert data.split.tolist() == ["train", "train", "test", "test"]
    assert list(data.X.index) == list(data.y.index) == list(range(4))
    assert (data.name, data.positive) == ("toy", "good")


def test_benchmark_with_other_sensitive_columns(toy_home):
    one = load_benchmark("toy", data_home=toy_home, sensitive="sex")
    assert list(one.X) == ["age"]
    assert one.sensitive_features.name == "sex"
    both = load_benchmark("toy", data_home=str(toy_home), sensitive=["sex", "race"])
    assert list(both.X) == ["age"]
    assert list(both.sensitive_features) == ["sex", "race"]
    assert list(both.sensitive_features["race"].cat.categories) == ["a", "b"]
    with pytest.raises(ValueError, match=r"among \['race', 'sex'\]; got 'age'"):
        load_benchmark("toy", data_home=toy_home, sensitive="age")


def test_benchmark_errors_say_what_to_do(toy_home, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="Unknown benchmark 'mars'; available: toy, gone"):
        load_benchmark("mars", data_home=toy_home)
    with pytest.raises(FileNotFoundError, match=r"gone.parquet does not exist.*SKFAIRPRUNE_DATA"):
        load_benchmark("gone", data_home=toy_home)
    with pytest.raises(FileNotFoundError, match=r"catalog.json does not exist.*archive.ics.uci"):
        load_benchmark("adult", data_home=tmp_path / "empty")
    monkeypatch.delenv("SKFAIRPRUNE_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"no data folder is set.*SKFAIRPRUNE_DATA"):
        load_benchmark("adult")


def test_benchmark_without_pyarrow_names_the_extra(toy_home, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install skfairprune\[data\]"):
        load_benchmark("toy", data_home=toy_home)


@pytest.mark.real_data
@pytest.mark.skipif(
    "SKFAIRPRUNE_DATA" not in os.environ, reason="SKFAIRPRUNE_DATA, the data folder, is not set"
)
@pytest.mark.parametrize(
    "name", ["adult", "compas", "german_credit", "bank_marketing", "law_school", "acs_income"]
)
def test_real_benchmark(name):
    entry = json.loads(Path(os.environ["SKFAIRPRUNE_DATA"], "catalog.json").read_text())[name]
    data = load_benchmark(name)
    hidden = {"target", "split", "fnlwgt", entry["main"], *entry["exclude"]}
    assert set(data.X) == set(entry["columns"]) - hidden
    assert len(data.X) == len(data.y) == len(data.sensitive_features)
    assert data.sensitive_features.name == entry["main"]
    assert data.sensitive_features.value_counts().min() > 0
    assert (data.split is not None) == ("split" in entry["columns"])
    if "main_groups" in entry:
        assert set(data.sensitive_features.unique()) == set(entry["main_groups"])
        assert len(data.X) < entry["rows"]
    else:
        assert len(data.X) == entry["rows"]
        assert data.y.mean() == pytest.approx(entry["base_rate"])
    part = data.X.sample(min(2000, len(data.X)), random_state=0)
    Z = make_preprocessor(part).fit(part).transform(part)
    assert Z.dtype == np.float32
    assert Z.shape[0] == len(part)
    assert np.isfinite(Z).all()


def test_a_distribution_and_the_draw_from_it_name_themselves():
    with pytest.raises(ValueError, match="parameter of BiasedDistribution must"):
        BiasedDistribution(class_sep=-1)
    with pytest.raises(ValueError, match="parameter of make_biased_classification must"):
        make_biased_classification(class_sep=-1)
