"""The solver's parameters through the estimator: criteria, orders, measures, inputs, rules, teachers."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from torch import nn

from skfairprune.datasets import make_biased_classification
from skfairprune.metrics import gap

DATA = make_biased_classification(500, base_rates=(0.6, 0.2), random_state=0)
X, y, A = DATA.X, DATA.y, DATA.sensitive_features
S = np.where(np.arange(len(y)) % 2, "north", "south")

CRITERIA = [
    "bilevel",
    "magnitude",
    "fpgm",
    "snip",
    "taylor",
    "lottery",
    "obs",
    "fairgrape",
    "fairprune",
    "random",
]
ORDERS = ["joint", "prune_then_fair", "fair_then_prune"]
NEED_NO_DENSE_PHASE, GATED = {"snip"}, {"bilevel"}
REFUSED = {("snip", "fair_then_prune")}


@pytest.fixture(scope="module")
def fit(small):
    """Fit on few rows and epochs, where the bound may be out of reach."""

    def fit(*, grouped=True, data=None, **params):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fairness = {"sensitive_features": A} if grouped else {}
            return small(**{"max_epochs": 4, **params}).fit(X, y, **fairness, **(data or {}))

    return fit


def _gap(clf):
    return gap(y, clf.predict(X), constraint="demographic_parity", sensitive_features=A)


@pytest.fixture(scope="module")
def aware(fit):
    """A model with rules that are told the group; do not fit it again."""
    return fit(attribute_aware=True, max_epochs=8)


# Criteria and orders


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_criteria_and_orders(fit, criterion, order):
    if (criterion, order) in REFUSED:
        with pytest.raises(ValueError, match="no fair dense network to prune"):
            fit(criterion=criterion, order=order)
        return
    clf = fit(criterion=criterion, order=order, max_epochs=5)
    expected = ["dense"] if criterion not in NEED_NO_DENSE_PHASE else []
    expected += ["bilevel"] if criterion in GATED else []
    expected += ["fine-tune"] + (["repair"] if order == "prune_then_fair" else [])
    assert list(dict.fromkeys(clf.history_["phase"])) == expected
    assert len(clf.history_) == clf.n_iter_ <= 5
    assert clf.sparsity_ >= 0.5
    assert_allclose(clf.predict_proba(X).sum(axis=1), 1, rtol=1e-6)
    assert np.isfinite(clf.multipliers_.to_numpy()).all()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_seed_decides_under_every_criterion(fit, criterion):
    first, second = (fit(criterion=criterion, grouped=False).predict_proba(X) for _ in range(2))
    assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"order": "fair_then_prune", "constrain": "gates"}, "Leave constrain='both'"),
        ({"criterion": "obs", "constrain": "gates"}, "criterion='obs' has no gates to train"),
        ({"criterion": "fpgm", "prune_inputs": True}, "an input has none: .* choose another criterion"),
        ({"order": "prune_then_fair", "max_epochs": 3}, "needs max_epochs >= 4, one epoch .* Got 3"),
        ({"criterion": "lottery", "max_epochs": 3}, "criterion='lottery' needs max_epochs >= 4.* Got 3"),
        (
            {"prune_inputs": True, "sparsity_measure": "units"},
            "needs sparsity_measure='parameters' or 'macs'",
        ),
        (
            {"constraint": "degradation_parity", "order": "fair_then_prune"},
            "compares with the dense network.* Choose another order",
        ),
        ({"constraint": "degradation_parity", "criterion": "snip"}, "needs a trained dense network"),
        ({"distill": "dense", "criterion": "snip"}, "distill='dense' needs a trained dense network"),
        ({"sparsity_measure": "units", "sparsity": 0.97}, "2 of the 32 hidden units.* at most that"),
    ],
)
def test_combinations_that_say_nothing_are_refused(fit, params, message):
    with pytest.raises(ValueError, match=message):
        fit(**params)


# Sparsity


@pytest.mark.parametrize("measure", ["parameters", "units", "macs"])
@pytest.mark.parametrize("sizes", [(16, 16), (20,)])
def test_sparsity_is_counted_by_its_measure(fit, measure, sizes):
    clf = fit(sparsity_measure=measure, sparsity=0.6, hidden_layer_sizes=sizes, grouped=False)
    total = clf.pruning_report_.iloc[-1]
    assert_allclose(clf.sparsity_, 1 - total[f"{measure}_after"] / total[f"{measure}_before"])
    assert 0.6 <= clf.sparsity_ < 0.75


@pytest.mark.parametrize("grouped", [False, True])
def test_auto_shows_the_sizes_it_tried(fit, grouped):
    bound = {"difference_bound": 0.2} if grouped else {}
    clf = fit(sparsity="auto", max_accuracy_drop=0.05, **bound, grouped=grouped)
    path = clf.sparsity_path_
    assert list(path) == [
        *("sparsity", "widths", "parameters", "accuracy", "accuracy_drop", "drop_standard_error"),
        *("gap", "gap_standard_error", "within", "missed", "chosen"),
    ]
    assert path["widths"][0] == (16, 16)
    assert path["sparsity"][0] == path["accuracy_drop"][0] == 0
    chosen = path[path["chosen"]]
    assert len(chosen) == 1
    assert chosen["within"].all()
    assert_array_equal(path["within"], path["missed"] == "")
    assert chosen["sparsity"].item() == path.loc[path["within"], "sparsity"].max() == clf.sparsity_
    assert chosen["widths"].item() == tuple(mask.sum() for mask in clf.masks_)
    assert np.all(path.loc[path["within"], "accuracy_drop"] <= 0.05)
    assert path["gap"].isna().all() != grouped
    assert_array_equal(clf.history_["trial"].dropna().unique(), path.index)
    assert set(clf.history_.loc[clf.history_["trial"].isna(), "phase"]) == {"dense"}


@pytest.mark.parametrize("sizes", [(2,), (3, 2)])
def test_auto_tries_no_size_twice_and_chooses_one(fit, sizes):
    clf = fit(sparsity="auto", sparsity_measure="units", hidden_layer_sizes=sizes, grouped=False)
    assert clf.sparsity_path_["chosen"].sum() == 1
    assert len(clf.sparsity_path_) <= 3


def test_auto_needs_held_out_rows(small):
    with pytest.raises(ValueError, match=r"100 rows.*too few to hold some out\. Give more rows, X_val"):
        small(sparsity="auto").fit(X[:100], y[:100])
    with pytest.warns(ConvergenceWarning, match=r"=0\.003 .* is decided by chance: .* error of 0") as told:
        clf = small(sparsity="auto").fit(X[:100], y[:100], X_val=X[100:], y_val=y[100:])
    assert len(told) == 1
    path = clf.sparsity_path_
    error = path.loc[path["chosen"], "drop_standard_error"].item()
    assert error > 3 * 0.003
    assert f"{error:.3f}" in str(told[0].message)


def test_a_fixed_sparsity_has_no_path(fitted):
    assert fitted.sparsity_path_ is None


@pytest.mark.parametrize("criterion", ["bilevel", "obs"])
@pytest.mark.parametrize("sizes", [(1,), (1, 1)])
def test_layers_of_one_unit(fit, criterion, sizes):
    """Where no unit can leave, the units' worth is of no size at all."""
    clf = fit(hidden_layer_sizes=sizes, sparsity=0, criterion=criterion, grouped=False)
    assert np.isfinite(clf.predict_proba(X)).all()


def test_dropped_columns_are_named_and_not_read(small):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(X[:, :2], columns=["a", "b"]).assign(constant=1.0)
    for number in range(8):
        frame[f"noise {number}"] = rng.integers(0, 2, len(y))
    frame["label"] = y + 0.1 * rng.normal(size=len(y))
    clf = small(prune_inputs=True, sparsity=0.98, n_bins=3, max_epochs=30).fit(frame, y)
    dropped, before = clf.dropped_columns_, clf.predict_proba(frame)
    assert "constant" in dropped
    assert len(dropped) > 1
    assert "label" not in dropped
    assert_array_equal(clf.predict_proba(frame.assign(**dict.fromkeys(dropped, 1e9))), before)
    assert_array_equal(clf.predict_proba(frame.assign(**dict.fromkeys(dropped, np.nan))), before)
    with pytest.raises(ValueError, match="NaN"):
        clf.predict(frame.assign(label=np.nan))
    for name in set(frame) - set(dropped):
        assert not np.array_equal(clf.predict_proba(frame.assign(**{name: 5 - 3 * frame[name]})), before)
    assert len(clf.masks_) == 2
    positions = (
        small(prune_inputs=True, sparsity=0.98, n_bins=3, max_epochs=30)
        .fit(frame.to_numpy(), y)
        .dropped_columns_
    )
    assert [frame.columns[position] for position in positions] == dropped


@pytest.mark.parametrize("constraint", [None, "demographic_parity"])
def test_noise_columns_leave_and_those_of_label_or_group_stay(small, constraint):
    rng = np.random.default_rng(0)
    group = rng.integers(0, 2, 6000)
    good, noise = rng.normal(size=(6000, 3)), rng.normal(size=(6000, 10))
    proxy = 1.5 * group + rng.normal(size=6000)
    chance = 1 / (1 + np.exp(-1.5 * (good @ [1.2, -1.0, 0.8] + group - 0.5)))
    label = (rng.uniform(size=6000) < chance).astype(int)
    rows = np.column_stack([good, proxy, noise, good[:, 0]])
    clf = small(prune_inputs=True, sparsity=0.98, hidden_layer_sizes=(64, 64), max_epochs=20)
    clf.set_params(constraint=constraint).fit(rows, label, sensitive_features=group)
    assert not {1, 2, 3} & set(clf.dropped_columns_)
    assert len({0, 14} & set(clf.dropped_columns_)) <= 1  # of two that are equal one is enough
    assert len(set(range(4, 14)) & set(clf.dropped_columns_)) >= 7


def test_dropped_columns_have_no_weights(small):
    clf = small(prune_inputs=True, sparsity=0.95).fit(X, y)
    first = next(module for module in clf.module_.modules() if isinstance(module, nn.Linear))
    assert first.in_features == clf.pruning_report_.iloc[0]["units_after"]


# Schedules


@pytest.mark.parametrize("schedule", [np.sqrt, lambda progress: progress, lambda progress: np.array(0.5)])
def test_a_schedule_of_ones_own(fit, schedule):
    assert fit(sparsity_schedule=schedule, grouped=False).sparsity_ >= 0.5


@pytest.mark.parametrize("value", [None, np.ones(2), "all", 1.5, np.nan])
def test_a_schedule_of_nonsense_is_refused_before_the_training(fit, monkeypatch, value):
    monkeypatch.setattr(
        "skfairprune.training.phases.PhaseRunner.run", lambda *args, **kwargs: pytest.fail("trains")
    )
    with pytest.raises(ValueError, match=r"sparsity_schedule must return the share .* it returned"):
        fit(sparsity_schedule=lambda progress: value)


@pytest.mark.parametrize(
    "temperature", [(), (1.0,), (1.0, 0.5, 0.1), (0.05, 1.0), (1, 0), (np.inf, 1), (np.nan, 0.1), ("a", "b")]
)
def test_temperatures_that_do_not_fall_are_refused(fit, temperature):
    with pytest.raises(ValueError, match=r"'gate_temperature'.*first >= last > 0\. Got"):
        fit(gate_temperature=temperature)


@pytest.mark.parametrize("hypergradient", ["closed_form", "implicit"])
def test_the_hypergradient_and_its_damping_count(fit, hypergradient):
    damped, undamped, plain = (
        fit(hypergradient=name, hypergradient_damping=damping, grouped=False).predict_proba(X)
        for name, damping in [(hypergradient, 1.0), (hypergradient, 1e-3), ("first_order", 1.0)]
    )
    assert not np.array_equal(damped, undamped)
    assert not np.array_equal(damped, plain)


@pytest.mark.parametrize("surrogate", ["sigmoid", "ramp", "linear"])
@pytest.mark.parametrize("temperature", [1e-9, 1e9])
def test_surrogates_at_any_temperature(fit, surrogate, temperature):
    clf = fit(surrogate=surrogate, surrogate_temperature=temperature)
    assert np.isfinite(clf.predict_proba(X)).all()


# Teachers


@pytest.mark.parametrize("distill", ["dense", "boosting"])
def test_a_teacher_changes_what_is_learned(fit, distill):
    assert not np.array_equal(
        fit(distill=distill, grouped=False).predict_proba(X), fit(grouped=False).predict_proba(X)
    )


@pytest.mark.parametrize("distill", ["dense", "boosting"])
@pytest.mark.parametrize("n_rows", [2, 3, 40])
def test_a_teacher_of_a_handful_of_rows(small, distill, n_rows):
    clf = small(distill=distill).fit(X[:n_rows], np.arange(n_rows) > 0)
    assert np.isfinite(clf.predict_proba(X)).all()


def test_a_class_that_is_in_one_block_only(small):
    clf = small(distill="boosting", max_epochs=4).fit(X[:300], np.arange(300) > 298)
    assert clf.score(X[:298], np.zeros(298, bool)) > 0.9


# Constraints


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("constraint", ["degradation_parity", "demographic_parity"])
def test_without_a_rule_the_network_carries_the_constraint(fit, constraint, stratified):
    data = {"control_features": S} if stratified else {}
    clf = fit(constraint=constraint, decision_rule=False, data=data)
    assert_allclose(clf.predict_proba(X), clf.predict_uncorrected_proba(X), rtol=1e-12)
    assert np.isfinite(clf.validation_gap_.value)
    with pytest.raises(ValueError, match=r"set_bound needs .*decision_rule=False"):
        clf.set_bound(0.1)


def test_an_event_that_leaves_the_constraint_leaves_the_training_alone(fit):
    """Without a rule its cells have neither rates nor a price."""
    stratum = np.where(A == "group_0", "north", S)
    with pytest.warns(UserWarning, match="fewer than two groups left"):
        clf = fit(decision_rule=False, data={"control_features": stratum}, min_cell_size=20)
    assert clf.validation_gap_.event == "all | 'north'"
    assert np.isfinite(clf.history_["train_loss"]).all()


# Bounds after the fit, and rules that are told the group


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_set_bound_moves_the_decisions_and_says_so(fit):
    clf = fit(max_epochs=8)
    wide, narrow = (_gap(clf.set_bound(b)) for b in (1.0, 0.0))
    assert narrow < wide - 0.1
    assert clf.bound_ == clf.frontier_["bound"].min() == 0
    assert clf.difference_bound == 0.05
    assert clf.validation_gap_.value == clf.frontier_["gap"].iloc[clf.frontier_["bound"].argmin()]
    assert clf.set_bound(np.float32(0.1)).bound_ == pytest.approx(0.1)
    assert type(clf.bound_) is float
    before = clf.module_.output_weights.clone()
    for bound in (np.nan, True, 2, "0.1"):
        with pytest.raises(ValueError, match="bound must be a number"):
            clf.module_.set_bound(bound)
    assert_array_equal(clf.module_.output_weights, before)


def test_columns_of_the_groups_are_taken_by_their_names(fit):
    frame = pd.DataFrame({"minority": A[0] == A, "senior": X[:, 0] > 0})
    clf = fit(attribute_aware=True, grouped=False, data={"sensitive_features": frame}, max_epochs=8)
    expected = clf.predict_proba(X, sensitive_features=frame)
    swapped = frame[["senior", "minority"]]
    assert_array_equal(clf.predict_proba(X, sensitive_features=swapped), expected)
    assert np.any(clf.predict_proba(X, sensitive_features=swapped.to_numpy()) != expected)
    with pytest.raises(ValueError, match="has the columns 'minority', 'old', and in fit they were"):
        clf.predict(X, sensitive_features=frame.set_axis(["minority", "old"], axis=1))


def test_groups_in_another_order_are_refused_by_predict(aware):
    frame, groups = pd.DataFrame(X), pd.Series(A)
    assert_array_equal(
        aware.predict(frame, sensitive_features=groups), aware.predict(X, sensitive_features=A)
    )
    for predict in (aware.predict, aware.predict_proba, aware.decision_function):
        with pytest.raises(ValueError, match="order"):
            predict(frame, sensitive_features=groups.sample(frac=1, random_state=0))


@pytest.mark.parametrize("bound", [None, "a", -0.1, 1.1, np.nan, [0.1], np.array(0.1)])
def test_bounds_of_nonsense_are_refused_and_change_nothing(aware, bound):
    before = aware.bound_, aware.predict_proba(X)
    with pytest.raises(ValueError, match=r"difference_bound must be a number in \[0, 1\]; got"):
        aware.set_bound(bound)
    assert aware.bound_ == before[0]
    assert_array_equal(aware.predict_proba(X), before[1])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_frontier_says_which_bounds_have_the_same_rule(fit):
    clf, layers = fit(), {}
    for _, bound, rule in clf.frontier_[["bound", "rule"]].itertuples():
        layers.setdefault(rule, []).append(clf.set_bound(bound).module_.output_weights.clone())
    assert min(layers) == 0
    for same in layers.values():
        assert all(np.array_equal(same[0], other) for other in same)
    firsts = [same[0] for same in layers.values()]
    assert all(not np.array_equal(one, other) for i, one in enumerate(firsts) for other in firsts[:i])


def test_set_bound_needs_a_fit(aware):
    with pytest.raises(NotFittedError):
        clone(aware).set_bound(0.1)


def test_set_bound_needs_a_constraint(unconstrained):
    with pytest.raises(ValueError, match=r"fitted with constraint_=None.*Fit it with a constraint"):
        unconstrained.set_bound(0.1)


def test_a_copy_sets_its_own_bound(aware):
    other, before = pickle.loads(pickle.dumps(aware)), aware.predict_proba(X)
    same = copy.deepcopy(aware).set_bound(1.0)
    other.set_bound(1.0)
    assert_array_equal(aware.predict_proba(X), before)
    for data in ({}, {"sensitive_features": A}):
        assert_array_equal(other.predict_proba(X, **data), same.predict_proba(X, **data))
    assert not np.array_equal(other.predict_proba(X), before)


@pytest.mark.parametrize("convert", [list, pd.Series, lambda a: pd.DataFrame({"g": a}), lambda a: a[:, None]])
def test_told_groups_of_any_kind(aware, convert):
    blind, told = aware.predict_proba(X), aware.predict_proba(X, sensitive_features=A)
    assert not np.array_equal(blind, told)
    assert_array_equal(aware.predict_proba(X, sensitive_features=convert(A)), told)
    assert_array_equal(aware.predict(X[:1], sensitive_features=convert(A[:1])), told[:1].argmax(axis=1))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            ["new"] * len(A),
            r"groups 'new', which fit has not seen; it has seen 'group_0', 'group_1'\. Predict",
        ),
        (A[:3], "has 3 values, but there are 500 samples"),
        ([None] * len(A), "Missing values: sensitive_features has 500"),
        (pd.DataFrame({"a": A, "b": A}), r"has the groups \('group_0', 'group_0'\).*same columns as in fit"),
    ],
)
def test_told_groups_of_nonsense_are_refused(aware, groups, message):
    with pytest.raises(ValueError, match=message):
        aware.predict(X, sensitive_features=groups)


def test_the_message_about_unknown_groups_stays_short(aware):
    with pytest.raises(ValueError, match="has not seen") as info:
        aware.predict(X, sensitive_features=np.arange(len(A)))
    assert len(str(info.value)) < 400


def test_only_aware_models_take_groups(fitted):
    with pytest.raises(ValueError, match=r"no attribute-aware rule was fitted.*attribute_aware=True"):
        fitted.predict(X, sensitive_features=A)


# Fits that fail


@pytest.mark.parametrize(
    ("params", "columns"), [({}, 3), ({"constraint": "auto", "lr": 1e30}, 7)], ids=["refused", "diverging"]
)
def test_a_fit_that_fails_on_other_data_leaves_no_model(small, params, columns):
    """Of other columns the old network would be asked, and its rules be taken for the new ones."""
    clf = small(constraint="auto").fit(X, y, sensitive_features=A)
    clf.set_params(**{"constraint": "equalized_odds", **params})
    with pytest.raises(ValueError, match=r"needs sensitive_features|not finite"):
        clf.fit(X[:, :columns], y)
    for use in (clf.predict, clf.predict_uncorrected_proba):
        with pytest.raises(NotFittedError):
            use(X[:, :columns])
    with pytest.raises(NotFittedError):
        clf.set_bound(0.1)


def test_a_refused_parameter_keeps_the_model(small):
    clf = small().fit(X, y)
    before = clf.predict_proba(X)
    with pytest.raises(ValueError, match="'criterion'"):
        clf.set_params(criterion="l1").fit(X, y)
    assert_array_equal(clf.predict_proba(X), before)


def test_representation_with_a_callable(small):
    clf = small(sparsity_schedule=np.sqrt)
    assert "sparsity_schedule=<ufunc 'sqrt'>" in repr(clf)
    assert clone(clf).get_params()["sparsity_schedule"] is np.sqrt
