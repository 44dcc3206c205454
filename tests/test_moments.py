import pickle
import warnings

import fairlearn
import fairlearn.metrics as fm
import numpy as np
import pandas as pd
import pytest
from fairlearn.reductions import (
    BoundedGroupLoss,
    DemographicParity,
    EqualizedOdds,
    ErrorRate,
    ErrorRateParity,
    FalsePositiveRateParity,
    SquareLoss,
    TruePositiveRateParity,
    UtilityParity,
)
from numpy.testing import assert_allclose
from sklearn.utils._param_validation import InvalidParameterError

from skfairprune.constraints import get_constraint
from skfairprune.gaps import GroupCounts
from skfairprune.moments import MAX_KINDS, check_moment, take_over


class ParityByAge(UtilityParity):
    """Decisions compared within bands of age, the first column; from 60 on not at all."""

    def load_data(self, X, y, *, sensitive_features, control_features=None):
        age = np.asarray(X)[:, 0]
        band = pd.Series(np.select([age < 30, age < 60], ["young", "middle"], None))
        super().load_data(X, y, sensitive_features=sensitive_features, event=band)


class CostParity(UtilityParity):
    """An error costs a group 3 when missed and 1 when a false alarm; it also depends on a column by name."""

    def load_data(self, X, y, *, sensitive_features):
        price = np.where(X["urgent"] > 0, 2.0, 1.0)
        utilities = np.column_stack([3 * y, 1 - y]) * price[:, None]
        event = pd.Series("all", index=y.index)
        super().load_data(X, y, sensitive_features=sensitive_features, event=event, utilities=utilities)


class ByGroup(UtilityParity):
    """Utilities that depend on the group."""

    def load_data(self, X, y, *, sensitive_features):
        worth = sensitive_features.map({"f": 1.0, "m": 2.0, "x": 0.5}).to_numpy()
        event = y.map({0: "bad", 1: "good"})
        utilities = np.column_stack([1 - worth, worth])
        super().load_data(X, y, sensitive_features=sensitive_features, event=event, utilities=utilities)


class Inherited(EqualizedOdds):
    """A subclass that changes nothing."""


CUSTOM = [ParityByAge, CostParity, ByGroup, Inherited]
BUILT_IN = [
    (DemographicParity, "demographic_parity"),
    (EqualizedOdds, "equalized_odds"),
    (TruePositiveRateParity, "true_positive_rate_parity"),
    (FalsePositiveRateParity, "false_positive_rate_parity"),
    (ErrorRateParity, "error_rate_parity"),
]
GROUPS = ("f", "m", "x")
NAMES = ("age", "urgent")


def _rows(n_samples=500, seed=0):
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.integers(18, 80, n_samples), rng.integers(0, 2, n_samples)]).astype(float)
    group = rng.integers(0, 3, n_samples)
    y = (rng.uniform(size=n_samples) < 0.3 + 0.1 * group).astype(int)
    decision = (rng.uniform(size=n_samples) < 0.3 + 0.2 * y + 0.1 * group).astype(int)
    return X, y, group, decision


def _load(moment, X, y, group, **features):
    sex = pd.Series(np.array(GROUPS)[group])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="fairlearn")
        moment.load_data(pd.DataFrame(X, columns=NAMES), pd.Series(y), sensitive_features=sex, **features)
    return moment


def _counts(constraint, kind, decision, group, n_groups=3):
    shape = (constraint.n_kinds, n_groups, constraint.n_decisions)
    return GroupCounts.from_rows(kind, decision, group, shape)


@pytest.mark.parametrize("moment_class", [*(known for known, _ in BUILT_IN), *CUSTOM])
def test_rates_are_those_of_the_moment(moment_class):
    X, y, group, decision = _rows()
    constraint, kind = take_over(moment_class(), X, y, group, GROUPS, feature_names=NAMES)
    counts = _counts(constraint, kind, decision, group)
    rates, weight = counts.rates(constraint), constraint.cell_sums(counts.counts.sum(axis=2))

    moment = _load(moment_class(), X, y, group)
    utility = pd.Series(np.asarray(moment.utilities)[np.arange(len(y)), decision])
    cells = {"event": moment.tags["event"], "group": moment.tags["group_id"], "utility": utility}
    means = pd.DataFrame(cells).pivot_table("utility", "event", "group", observed=True)
    assert_allclose(rates, means.to_numpy())
    assert means.columns.tolist() == list(GROUPS)
    if moment_class in CUSTOM:
        assert list(constraint.events) == means.index.tolist()
        assert constraint.name == moment_class.__name__

    # what fairlearn's own solver sees: a group's rate less the rate of all
    gamma = moment.gamma(lambda X: decision)["+"].to_numpy().reshape(rates.shape)
    overall = (rates * weight).sum(axis=1, keepdims=True) / weight.sum(axis=1, keepdims=True)
    assert_allclose(rates - overall, gamma, atol=1e-12)
    assert np.abs(gamma).max() <= counts.gap(constraint).value + 1e-12


@pytest.mark.parametrize(("moment_class", "name"), BUILT_IN)
def test_the_classes_of_fairlearn_are_the_constraints_of_that_name(moment_class, name):
    X, y, group, _ = _rows()
    constraint, kind = take_over(moment_class(), X, y, group, GROUPS)
    known = get_constraint(name)
    assert (constraint.name, constraint.events) == (name, known.events)
    assert_allclose(constraint.utilities, known.utilities)
    assert kind.tolist() == y.tolist()


@pytest.mark.parametrize(("moment_class", "name"), [*BUILT_IN, (Inherited, "equalized_odds")])
def test_strata_are_formed_here(moment_class, name):
    X, y, group, decision = _rows(1500)
    site = np.random.default_rng(5).integers(0, 2, len(y))
    constraint, kind = take_over(
        moment_class(), X, y, group, GROUPS, stratum=site, stratum_labels=("east", "west")
    )
    assert len(constraint.events) == 2 * get_constraint(name).n_events
    found = _counts(constraint, kind, decision, group).gap(constraint)
    metric = {
        "demographic_parity": {"all": fm.selection_rate},
        "equalized_odds": {"fpr": fm.false_positive_rate, "tpr": fm.true_positive_rate},
        "true_positive_rate_parity": {"tpr": fm.true_positive_rate},
        "false_positive_rate_parity": {"fpr": fm.false_positive_rate},
        "error_rate_parity": {"error": lambda true, predicted: np.mean(true != predicted)},
    }[name]
    frame = fm.MetricFrame(
        metrics=metric, y_true=y, y_pred=decision, sensitive_features=group, control_features=site
    )
    assert_allclose(found.value, frame.difference().max().max())


@pytest.mark.skipif(not fairlearn.__version__.startswith("0.15"), reason="shows a bug of fairlearn 0.15")
@pytest.mark.parametrize("moment_class", [TruePositiveRateParity, FalsePositiveRateParity])
def test_fairlearn_makes_an_event_of_the_rows_in_none(moment_class):
    X, y, group, _ = _rows()
    site = np.where(X[:, 1] > 0, "east", "west")
    moment = _load(moment_class(), X, y, group, control_features=site)
    wrong = [event for event in moment.prob_event.index if event.endswith(",nan")]
    assert wrong == ["control=east,nan", "control=west,nan"]
    constraint, kind = take_over(
        moment_class(), X, y, group, GROUPS, stratum=(site == "west") * 1, stratum_labels=("east", "west")
    )
    assert constraint.n_events == len(moment.prob_event) - len(wrong)
    own = 1 if moment_class is TruePositiveRateParity else 0
    sizes = constraint.cell_sums(_counts(constraint, kind, y, group).counts.sum(axis=2)).sum(axis=1)
    assert sizes.tolist() == [np.sum((site == place) & (y == own)) for place in ("east", "west")]


def test_kinds_are_label_event_and_utilities():
    X, y, group, _ = _rows()
    constraint, kind = take_over(ParityByAge(), X, y, group, GROUPS)
    assert constraint.events == ("middle", "young")
    assert constraint.n_kinds == 6  # by label: in no event, middle, young
    assert constraint.labels[kind].tolist() == y.tolist()
    in_event = constraint.members[:, kind].astype(bool)
    assert in_event[0].tolist() == ((X[:, 0] >= 30) & (X[:, 0] < 60)).tolist()
    assert in_event[1].tolist() == (X[:, 0] < 30).tolist()

    constraint, kind = take_over(CostParity(), X, y, group, GROUPS, feature_names=NAMES)
    assert constraint.n_kinds == 4  # by label: urgent or not
    paid = constraint.utilities[0, kind]
    assert_allclose(paid, np.column_stack([3 * y, 1 - y]) * (1 + X[:, 1:]))


def test_rows_loaded_together_have_the_same_kinds():
    X, y, group, _ = _rows()
    order = np.random.default_rng(1).permutation(len(y))
    first, kind = take_over(ParityByAge(), X, y, group, GROUPS)
    second, shuffled = take_over(ParityByAge(), X[order], y[order], group[order], GROUPS)
    assert shuffled.tolist() == kind[order].tolist()
    assert second.events == first.events
    assert_allclose(second.utilities, first.utilities)


def test_intersected_groups_reach_the_moment_as_in_fairlearn():
    class Known(ByGroup):
        def load_data(self, X, y, *, sensitive_features):
            seen.extend(sensitive_features.unique())
            super().load_data(X, y, sensitive_features=sensitive_features.str[0])

    seen = []
    X, y, group, _ = _rows()
    take_over(Known(), X, y, group, [("f", 1), ("m", 2), ("x", 3)])
    assert sorted(seen) == ["f,1", "m,2", "x,3"]


def test_the_moment_of_the_user_stays_as_it_is():
    X, y, group, _ = _rows()
    moment = ParityByAge(difference_bound=0.1)
    before = pickle.dumps(moment)
    take_over(moment, X, y, group, GROUPS)
    assert not moment.data_loaded
    assert pickle.dumps(moment) == before
    loaded = _load(DemographicParity(), X, y, group)
    check_moment(loaded, 0.05)
    assert take_over(loaded, X, y, group, GROUPS)[0].name == "demographic_parity"


@pytest.mark.parametrize(
    ("moment", "message"),
    [
        (BoundedGroupLoss(SquareLoss(0, 1)), r"\w+ is not a fairlearn.reductions.UtilityParity.*Pass one of"),
        (ErrorRate(), "ErrorRate is not a fairlearn.reductions.UtilityParity"),
        (
            DemographicParity(ratio_bound=0.8),
            r"DemographicParity has ratio_bound=0.8.*not supported. Pass DemographicParity\(\)",
        ),
        (ParityByAge(ratio_bound=0.8), "ParityByAge has ratio_bound=0.8"),
    ],
)
def test_moments_that_cannot_be_taken_over(moment, message):
    with pytest.raises(InvalidParameterError, match=message):
        check_moment(moment, 0.05)


def test_a_moment_with_its_own_gamma_is_refused():
    class Squared(DemographicParity):
        def gamma(self, predictor):
            return super().gamma(predictor) ** 2

    with pytest.raises(InvalidParameterError, match="Squared has its own gamma; only events and utilities"):
        check_moment(Squared(), 0.05)


def test_a_loaded_moment_is_refused():
    X, y, group, _ = _rows()
    with pytest.raises(InvalidParameterError, match=r"ParityByAge has data loaded already.*pass a new one"):
        check_moment(_load(ParityByAge(), X, y, group), 0.05)


def test_a_bound_of_the_moment_that_does_not_count_is_said():
    with pytest.warns(UserWarning, match="difference_bound=0.02 of DemographicParity is not used.*=0.05 of"):
        check_moment(DemographicParity(difference_bound=0.02), 0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_moment(DemographicParity(difference_bound=0.02), 0.02)
        check_moment(DemographicParity(), 0.05)
        check_moment(ParityByAge(), 0.05)


class _Custom(UtilityParity):
    def __init__(self, event, utilities):
        super().__init__()
        self.event, self.given = event, utilities

    def load_data(self, X, y, *, sensitive_features):
        super().load_data(X, y, sensitive_features=sensitive_features, event=self.event, utilities=self.given)


def _noise(n_values):
    return np.column_stack([np.zeros(500), np.arange(500) % n_values])


ALL = pd.Series("all", index=range(500))


@pytest.mark.parametrize(
    ("event", "utilities", "message"),
    [
        (None, None, "_Custom puts no row in any event, so it compares nothing"),
        (ALL.where(ALL != "all"), None, "_Custom puts no row in any event"),
        (ALL, np.zeros((500, 3)), r"_Custom has utilities of shape \(500, 3\).*the shape \(500, 2\)"),
        (ALL, np.full((500, 2), np.nan), "or not finite; need two finite numbers"),
        (ALL, _noise(99), f"_Custom tells 198 kinds of rows apart.*at most {MAX_KINDS} are supported"),
    ],
)
def test_error_messages_of_events_and_utilities(event, utilities, message):
    X, y, group, _ = _rows()
    y = np.repeat([0, 1], 250)
    with pytest.raises(ValueError, match=message):
        take_over(_Custom(event, utilities), X, y, group, GROUPS)


def test_utilities_of_rows_in_no_event_do_not_count():
    X, y, group, _ = _rows()
    event = ALL.where(np.arange(500) % 99 == 1)
    constraint, _ = take_over(_Custom(event, _noise(99)), X, y, group, GROUPS)
    assert constraint.n_kinds == 4


def test_more_than_two_classes_are_refused():
    X, _, group, _ = _rows()
    with pytest.raises(ValueError, match=r"EqualizedOdds is for two classes, and y has 3. Name a constraint"):
        take_over(EqualizedOdds(), X, np.arange(500) % 3, group, GROUPS)
