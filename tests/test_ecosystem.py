import numpy as np
import pandas as pd
import pytest
import sklearn
from fairlearn.metrics import (
    MetricFrame,
    demographic_parity_difference,
    equalized_odds_difference,
    selection_rate,
)
from fairlearn.postprocessing import ThresholdOptimizer
from fairlearn.reductions import DemographicParity, ExponentiatedGradient
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline

from skfairprune.datasets import make_biased_classification, make_preprocessor
from skfairprune.metrics import gap, gap_scorer


@pytest.fixture
def routing():
    with sklearn.config_context(enable_metadata_routing=True):
        yield


@pytest.fixture(scope="module")
def mixed():
    """A DataFrame with categories and missing values, the labels and the groups."""
    data = make_biased_classification(1200, base_rates=(0.6, 0.2), as_frame=True, random_state=0)
    assert data.X.isna().to_numpy().any()
    assert (data.X.dtypes == "category").any()
    return data


@pytest.fixture
def pipe(small, mixed):
    return make_pipeline(make_preprocessor(mixed.X), small())


def _dp(model, data, **kwargs):
    return demographic_parity_difference(
        data.y, model.predict(data.X, **kwargs), sensitive_features=data.sensitive_features
    )


# Pipelines


def test_pipeline_without_routing(pipe, mixed):
    pipe.fit(mixed.X, mixed.y, fairprunedclassifier__sensitive_features=mixed.sensitive_features)
    assert pipe[-1].constraint_ == "demographic_parity"
    assert pipe.predict(mixed.X).shape == mixed.y.shape
    assert pipe.score(mixed.X, mixed.y) > 0.6
    assert _dp(pipe, mixed) < 0.15


@pytest.mark.usefixtures("routing")
def test_pipeline_with_routing(pipe, mixed):
    pipe.fit(mixed.X, mixed.y, sensitive_features=mixed.sensitive_features)
    assert pipe[-1].constraint_ == "demographic_parity"
    assert _dp(pipe, mixed) < 0.15


def test_routing_does_not_change_the_fit(pipe, mixed):
    first = clone(pipe).fit(
        mixed.X, mixed.y, fairprunedclassifier__sensitive_features=mixed.sensitive_features
    )
    with sklearn.config_context(enable_metadata_routing=True):
        second = clone(pipe).fit(mixed.X, mixed.y, sensitive_features=mixed.sensitive_features)
    assert_array_equal(first.predict_proba(mixed.X), second.predict_proba(mixed.X))


def test_pipeline_of_sparse_output(small, mixed):
    def fit(threshold):
        preprocessor = make_preprocessor(mixed.X)
        preprocessor.set_params(
            sparse_threshold=threshold, categorical__onehotencoder__sparse_output=bool(threshold)
        )
        model = make_pipeline(preprocessor, small())
        model.fit(mixed.X, mixed.y, fairprunedclassifier__sensitive_features=mixed.sensitive_features)
        return model.predict_proba(mixed.X)

    assert_array_equal(fit(1.0), fit(0))


def test_pipeline_of_pandas_output(pipe, mixed):
    pipe.set_output(transform="pandas")
    pipe.fit(mixed.X, mixed.y, fairprunedclassifier__sensitive_features=mixed.sensitive_features)
    assert "income" in pipe[-1].feature_names_in_
    assert pipe.predict(mixed.X).shape == mixed.y.shape


@pytest.mark.usefixtures("routing")
def test_held_out_rows_are_transformed_by_the_pipeline(small, mixed):
    X, y, A = mixed.X, mixed.y, mixed.sensitive_features
    pipe = make_pipeline(make_preprocessor(X), small(), transform_input=["X_val"])
    pipe.fit(
        X[:800],
        y[:800],
        sensitive_features=A[:800],
        X_val=X[800:],
        y_val=y[800:],
        sensitive_features_val=A[800:],
    )
    assert "400 rows of X_val" in pipe[-1].validation_gap_.rows
    by_hand = small().fit(
        pipe[:-1].transform(X[:800]),
        y[:800],
        sensitive_features=A[:800],
        X_val=pipe[:-1].transform(X[800:]),
        y_val=y[800:],
        sensitive_features_val=A[800:],
    )
    assert_array_equal(pipe.predict_proba(X), by_hand.predict_proba(pipe[:-1].transform(X)))


@pytest.mark.usefixtures("routing")
@pytest.mark.filterwarnings("ignore:X has feature names")
def test_held_out_rows_that_were_not_transformed_are_an_error(pipe, mixed):
    X, y, A = mixed.X, mixed.y, mixed.sensitive_features
    with pytest.raises(ValueError, match=r"(?s)X_val.*transform_input"):
        pipe.fit(X, y, sensitive_features=A, X_val=X, y_val=y, sensitive_features_val=A)


@pytest.mark.usefixtures("routing")
def test_sample_weight_is_delivered_on_request(small, mixed):
    pipe = make_pipeline(make_preprocessor(mixed.X), small().set_fit_request(sample_weight=True))
    weight = np.where(mixed.y == 1, 5.0, 1.0)
    pipe.fit(mixed.X, mixed.y, sample_weight=weight, sensitive_features=mixed.sensitive_features)
    assert pipe.predict(mixed.X).mean() > mixed.y.mean() + 0.1


# Searches and cross-validation


@pytest.mark.usefixtures("routing")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("rule", ["accuracy", "callable"])
def test_grid_search_over_sparsity(pipe, mixed, rule):
    def most_accurate_within_bound(results):
        accuracy, dp = (np.asarray(results[f"mean_test_{name}"]) for name in ("accuracy", "dp"))
        return int(np.where(-dp <= max(0.05, (-dp).min()), accuracy, -1).argmax())

    search = GridSearchCV(
        pipe,
        {"fairprunedclassifier__sparsity": [0.2, 0.5, 0.8]},
        scoring={"accuracy": "accuracy", "dp": gap_scorer("demographic_parity")},
        refit="accuracy" if rule == "accuracy" else most_accurate_within_bound,
        cv=2,
        n_jobs=2,
        error_score="raise",
    )
    search.fit(mixed.X, mixed.y, sensitive_features=mixed.sensitive_features)
    results = search.cv_results_
    assert (results["mean_test_accuracy"] > 0.6).all()
    assert (results["mean_test_dp"] > -0.2).all()
    assert (results["mean_test_dp"] <= 0).all()
    best = search.best_estimator_[-1]
    assert best.constraint_ == "demographic_parity"
    assert best.sparsity_ >= search.best_params_["fairprunedclassifier__sparsity"]
    assert search.predict(mixed.X).shape == mixed.y.shape


@pytest.mark.usefixtures("routing")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_cross_validation_routes_to_fit_and_score(pipe, mixed):
    X, y, A = mixed.X, mixed.y, mixed.sensitive_features
    cv = StratifiedKFold(3, shuffle=True, random_state=0)
    scores = cross_validate(
        pipe,
        X,
        y,
        params={"sensitive_features": A},
        scoring={"accuracy": "accuracy", "eo": gap_scorer("equalized_odds")},
        cv=cv,
        return_estimator=True,
        error_score="raise",
    )
    for model, score, (_, test) in zip(scores["estimator"], scores["test_eo"], cv.split(X, y), strict=True):
        assert model[-1].constraint_ == "demographic_parity"
        decision = model.predict(X.iloc[test])
        assert_allclose(
            -score, equalized_odds_difference(y.iloc[test], decision, sensitive_features=A.iloc[test])
        )


@pytest.mark.usefixtures("routing")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_several_columns_of_sensitive_features_are_routed(pipe, mixed):
    A = pd.DataFrame({"group": mixed.sensitive_features, "late": mixed.X["call_hour"] > 0})
    scores = cross_validate(
        pipe,
        mixed.X,
        mixed.y,
        params={"sensitive_features": A},
        scoring=gap_scorer("demographic_parity"),
        cv=2,
        return_estimator=True,
        error_score="raise",
    )
    assert all(len(model[-1].groups_) == 4 for model in scores["estimator"])
    assert np.isfinite(scores["test_score"]).all()


def test_cross_validation_without_routing_reaches_the_step(pipe, mixed):
    search = GridSearchCV(pipe, {"fairprunedclassifier__sparsity": [0.5]}, cv=2, error_score="raise")
    search.fit(mixed.X, mixed.y, fairprunedclassifier__sensitive_features=mixed.sensitive_features)
    assert search.best_estimator_[-1].constraint_ == "demographic_parity"


def test_a_search_that_drops_the_sensitive_features_says_how_to_pass_them(pipe, mixed):
    pipe.set_params(fairprunedclassifier__constraint="demographic_parity")
    with pytest.raises(
        ValueError,
        match=r"needs sensitive_features.*enable_metadata_routing=True.*"
        r"fairprunedclassifier__sensitive_features",
    ):
        cross_val_score(pipe, mixed.X, mixed.y, cv=2, error_score="raise")


def test_the_scorer_without_routing_says_how_to_pass_them(pipe, mixed):
    with pytest.raises(ValueError, match=r"got no sensitive_features.*enable_metadata_routing=True"):
        cross_validate(
            pipe,
            mixed.X,
            mixed.y,
            params={"fairprunedclassifier__sensitive_features": mixed.sensitive_features},
            scoring=gap_scorer("demographic_parity"),
            cv=2,
            error_score="raise",
        )


@pytest.mark.parametrize("outer", [BaggingClassifier, GridSearchCV, make_pipeline])
def test_outer_fit_without_routing_refuses_sensitive_features(small, train, outer):
    model = (
        outer(make_pipeline(small()), {}, error_score="raise") if outer is GridSearchCV else outer(small())
    )
    with pytest.raises(ValueError, match=r"enable_metadata_routing|stepname__parameter"):
        model.fit(train.X, train.y, sensitive_features=train.sensitive_features)


# Ensembles


@pytest.mark.usefixtures("routing")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("ensemble", [True, False])
def test_calibration(pipe, mixed, ensemble):
    model = CalibratedClassifierCV(pipe, cv=2, ensemble=ensemble)
    model.fit(mixed.X, mixed.y, sensitive_features=mixed.sensitive_features)
    inner = [calibrated.estimator[-1] for calibrated in model.calibrated_classifiers_]
    assert all(clf.constraint_ == "demographic_parity" for clf in inner)
    proba = model.predict_proba(mixed.X)
    assert_allclose(proba.sum(axis=1), 1)
    assert accuracy_score(mixed.y, model.predict(mixed.X)) > 0.6


@pytest.mark.usefixtures("routing")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_bagging_in_a_pipeline(small, mixed):
    bagging = BaggingClassifier(small(), n_estimators=2, random_state=0)
    model = make_pipeline(make_preprocessor(mixed.X), bagging)
    model.fit(mixed.X, mixed.y, sensitive_features=mixed.sensitive_features)
    assert all(clf.constraint_ == "demographic_parity" for clf in model[-1].estimators_)
    assert accuracy_score(mixed.y, model.predict(mixed.X)) > 0.6


@pytest.mark.usefixtures("routing")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_voting_beside_a_model_that_wants_no_sensitive_features(small, train):
    model = VotingClassifier([("fair", small()), ("linear", LogisticRegression())], voting="soft")
    model.fit(train.X, train.y, sensitive_features=train.sensitive_features)
    assert model.named_estimators_["fair"].constraint_ == "demographic_parity"
    assert model.predict(train.X).shape == train.y.shape


# fairlearn


def test_audit_with_metric_frame(fitted, fresh):
    frame = MetricFrame(
        metrics={"accuracy": accuracy_score, "selection_rate": selection_rate},
        y_true=fresh.y,
        y_pred=fitted.predict(fresh.X),
        sensitive_features=fresh.sensitive_features,
    )
    assert_allclose(frame.overall["accuracy"], fitted.score(fresh.X, fresh.y))
    assert_allclose(
        frame.difference()["selection_rate"],
        gap(
            fresh.y,
            fitted.predict(fresh.X),
            constraint="demographic_parity",
            sensitive_features=fresh.sensitive_features,
        ),
    )
    assert frame.difference()["selection_rate"] < 0.15


# fairlearn 0.15 grows Series item by item, which pandas 3 deprecates.
@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")
def test_reduction_over_an_unconstrained_classifier(small, train, unconstrained):
    model = ExponentiatedGradient(
        small(constraint=None, max_epochs=3), DemographicParity(difference_bound=0.02), max_iter=5
    )
    model.fit(train.X[:600], train.y[:600], sensitive_features=train.sensitive_features[:600])
    assert len(model.predictors_) > 1
    assert all(clf.constraint_ is None for clf in model.predictors_)
    assert _dp(model, train, random_state=0) < 0.8 * _dp(unconstrained, train)


@pytest.mark.parametrize("constraints", ["demographic_parity", "equalized_odds"])
@pytest.mark.parametrize("predict_method", ["auto", "predict_proba", "decision_function"])
def test_threshold_optimizer_over_a_fitted_classifier(unconstrained, train, predict_method, constraints):
    model = ThresholdOptimizer(
        estimator=unconstrained,
        constraints=constraints,
        prefit=True,
        predict_method=predict_method,
    )
    model.fit(train.X, train.y, sensitive_features=train.sensitive_features)
    decision = model.predict(train.X, sensitive_features=train.sensitive_features, random_state=0)
    found, before = (
        gap(train.y, d, constraint=constraints, sensitive_features=train.sensitive_features)
        for d in (decision, unconstrained.predict(train.X))
    )
    assert found < 0.1 < before
