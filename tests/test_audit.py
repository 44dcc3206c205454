"""The audit: fairlearn's and scikit-learn's figures, and verdicts with the error rates that they state."""

import html.parser
import re

import fairlearn.metrics as fm
import numpy as np
import pandas as pd
import pytest
import torch
from fairlearn.reductions import DemographicParity, UtilityParity
from numpy.testing import assert_allclose
from pandas.testing import assert_frame_equal
from scipy.stats import binom, binomtest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, zero_one_loss
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skfairprune._measured import measure
from skfairprune.audit import audit, comparison
from skfairprune.audit.comparison import Comparison
from skfairprune.audit.limits import RateLimits, rate_limits
from skfairprune.constraints import get_constraint
from skfairprune.gaps import GroupCounts
from skfairprune.metrics import degradation_gap, gap_with_error, group_rates

DP, EO, ERP = "demographic_parity", "equalized_odds", "error_rate_parity"


def _draw(rates, n_rows, seed, shares=None):
    """Draw decisions of groups 0, 1, ... with given selection rates; every label is negative."""
    rng = np.random.default_rng(seed)
    group = rng.choice(len(rates), n_rows, p=shares)
    return np.zeros(n_rows, int), (rng.random(n_rows) < np.take(rates, group)).astype(int), group


def _labelled(n_rows=1500, seed=0, n_classes=2):
    rng = np.random.default_rng(seed)
    y = rng.integers(n_classes, size=n_rows)
    decided = np.where(rng.random(n_rows) < 0.7, y, rng.integers(n_classes, size=n_rows))
    A = pd.DataFrame({"sex": rng.choice(["f", "m"], n_rows), "event": rng.choice(["x|y", "<b>"], n_rows)})
    return y, decided, A, rng.random(n_rows)


class _Own(UtilityParity):
    """Selection rates under another name."""

    def load_data(self, X, y, *, sensitive_features):
        super().load_data(X, y, sensitive_features=sensitive_features, event=pd.Series("all", index=y.index))


class _Page(html.parser.HTMLParser):
    """Reads a page: its text, the cells of each table row, and that every tag is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.text = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def _markdown_rows(text):
    """Return the cells of the lines of tables, without escapes."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[re.sub(r"\\(.)", r"\1", cell.strip()) for cell in row] for row in cells]


@pytest.mark.parametrize("weighted", [False, True])
def test_figures_are_those_of_fairlearn_and_scikit_learn(weighted):
    y, decided, A, weight = _labelled()
    sample = {"sample_weight": weight} if weighted else {}
    found = audit(y, decided, sensitive_features=A, constraint=EO, difference_bound=0.1, **sample)
    assert_allclose(found.overall["accuracy"], accuracy_score(y, decided, **sample))
    assert_allclose(found.overall["balanced_accuracy"], balanced_accuracy_score(y, decided, **sample))
    metrics = {
        (DP, "all"): fm.selection_rate,
        (EO, "y=0"): fm.false_positive_rate,
        (EO, "y=1"): fm.true_positive_rate,
        (ERP, "all"): zero_one_loss,
    }
    for key, metric in metrics.items():
        params = {"sample_params": sample} if weighted else {}
        frame = fm.MetricFrame(
            metrics=metric,
            y_true=y,
            y_pred=decided,
            sensitive_features=A.set_axis(["a", "b"], axis=1),
            **params,
        )
        assert_allclose(found.gaps.loc[key, "gap"], frame.difference())
        rates = found.rates[[index[:2] == key for index in found.rates.index]]
        assert_allclose(rates["rate"], frame.by_group)
        assert rates["n_samples"].sum() == len(y) if key[1] == "all" else (y == int(key[1][-1])).sum()
    whole = gap_with_error(y, decided, constraint=EO, sensitive_features=A, **sample)
    assert (found.gap, found.standard_error) == (whole.value, whole.standard_error)


def test_multiclass_and_strata():
    y, decided, A, _ = _labelled(3000, n_classes=3)
    site = np.where(A["sex"] == "f", "north", "south")
    for control in (None, site):
        found = audit(
            y,
            decided,
            sensitive_features=A["event"],
            control_features=control,
            constraint=DP,
            difference_bound=1,
        )
        whole = gap_with_error(
            y, decided, constraint=DP, sensitive_features=A["event"], control_features=control
        )
        assert found.gap == whole.value == found.gaps.loc[DP, "gap"].max()
        rates = group_rates(
            y, decided, constraint=EO, sensitive_features=A["event"], control_features=control
        )
        assert sorted(found.rates.loc[EO, "rate"]) == sorted(rates["rate"])
        assert found.verdict == "within"
        _Page(found.to_html())


def test_weighted_accuracy_has_the_error_of_repeated_draws():
    rng = np.random.default_rng(0)
    n_rows, estimates, errors = 400, [], []
    for _ in range(200):
        weight = rng.choice([0.2, 1.0, 3.0], n_rows)
        y = rng.integers(2, size=n_rows)
        decided = np.where(rng.random(n_rows) < 0.8, y, 1 - y)
        overall = audit(
            y, decided, sensitive_features=np.arange(n_rows) % 2, constraint=DP, sample_weight=weight
        ).overall
        estimates.append(overall["accuracy"])
        errors.append(overall["standard_error"])
    assert_allclose(np.std(estimates), np.mean(errors), rtol=0.15)


def test_limits_of_a_rate_are_exact():
    rule = get_constraint(DP)
    positive, n_rows = np.array([0, 1, 7, 30, 12]), np.array([30, 40, 50, 30, 2000])
    counts = np.stack([n_rows - positive, positive], axis=1)[None].astype(float)
    counts = np.concatenate([counts, np.zeros_like(counts)])  # all rows have the first label
    lower, upper = rate_limits(GroupCounts(counts, counts), rule, 0.05)
    heavy = rate_limits(GroupCounts(3 * counts, 9 * counts), rule, 0.05)
    for side, found, weighted in (("greater", lower, heavy[0]), ("less", upper, heavy[1])):
        known = [
            binomtest(k, n, alternative=side).proportion_ci(0.95, method="exact")[side == "less"]
            for k, n in zip(positive.tolist(), n_rows.tolist(), strict=True)
        ]
        assert_allclose(found[0], known, atol=1e-12)
        assert_allclose(weighted[0], known, atol=1e-12)


@pytest.mark.parametrize(
    ("sizes", "rates"),
    [
        ((30, 300), (0.992, 0.84)),
        ((30, 300), (0.995, 0.832)),
        ((40, 200), (0.993, 0.702)),
        ((60, 40), (0.203, 0.015)),
        ((30, 30), (0.972, 0.026)),
        ((60, 200), (0.05, 0.05)),
    ],
)
def test_limits_of_a_difference_are_wrong_in_five_per_cent_of_all_samples_at_most(sizes, rates):
    """Every sample of two groups counts by its probability."""
    rule, drawn = get_constraint(DP), []
    for n, rate in zip(sizes, rates, strict=True):
        x = np.arange(n + 1.0)
        counts = np.stack([n - x, x], axis=1)[None]
        counts = np.concatenate([counts, np.zeros_like(counts)])  # a group for each number of positives
        drawn.append((GroupCounts(counts, counts), binom.pmf(x, n, rate)))
    true = abs(rates[0] - rates[1])
    below, above = 0.0, 0.0
    ends = [[rate_limits(counts, rule, alpha) for counts, _ in drawn] for alpha in (comparison._ALPHA, 0.025)]
    for one, other in np.ndindex(sizes[0] + 1, sizes[1] + 1):
        probability = drawn[0][1][one] * drawn[1][1][other]
        if probability < 1e-7:
            continue
        found = []
        for (first, second), sign in zip(ends, (1, -1), strict=True):
            lower, upper = (np.array([first[end][0, one], second[end][0, other]]) for end in (0, 1))
            shares = np.array([one / sizes[0], other / sizes[1]])
            found.append(RateLimits(np.arange(2), shares, lower, upper, 1.0).largest(sign).limit)
        below += probability * (found[0] < true)
        above += probability * (found[1] > true)
    assert below <= 0.05
    assert above <= 0.05


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_limit_is_that_of_all_pairs(sign):
    rng = np.random.default_rng(0)
    rates = rng.random(6)
    lower, upper = rates * rng.random(6), rates + (1 - rates) * rng.random(6) * 0.3
    limits = {}
    for g in range(6):
        for h in range(6):
            if g != h:
                ends = (upper[g] - rates[g], rates[h] - lower[h])
                if sign < 0:
                    ends = (rates[g] - lower[g], upper[h] - rates[h])
                limits[(h, g)] = rates[g] - rates[h] + sign * np.hypot(*ends)
    found = RateLimits(np.arange(6) + 10, rates, lower, upper, 1.0).largest(sign)
    place = max(limits, key=limits.get)
    assert_allclose(found.limit, min(limits[place], 1))
    assert (found.smaller - 10, found.larger - 10) == place


def _wrong(draw, n_draws, verdict, constraint, bound):
    """Return how often draws get a verdict, in sampling errors above 5 %."""
    n, rule = 0, get_constraint(constraint)
    for seed in range(n_draws):
        y, decided, group, more = draw(np.random.default_rng(seed))
        rows = measure(rule, y, decided, group, more.get("strata"), more.get("weight"), more.get("dense"))
        n += Comparison(rows, 30).judge(bound).verdict == verdict
    return (n / n_draws - 0.05) / (0.05 * 0.95 / n_draws) ** 0.5


def _selection(rates, sizes, sigma=0.0):
    """Return a function that draws decisions with given selection rates, with weights of a spread."""
    group = np.repeat(np.arange(len(sizes)), sizes)

    def draw(rng):
        decided = (rng.random(len(group)) < np.take(rates, group)).astype(int)
        more = {"weight": rng.lognormal(sigma=sigma, size=len(group))} if sigma else {}
        return np.zeros(len(group), int), decided, group, more

    return draw


def _degradation(changes, sizes):
    """Return a function that draws decisions of two networks; changes are the shares that lose and win."""
    group = np.repeat([0, 1], sizes)

    def draw(rng):
        kind = rng.random(len(group))
        lost, won = (
            np.take([pair[0] for pair in changes], group),
            np.take([pair[1] for pair in changes], group),
        )
        decided, dense = (kind < lost).astype(int), ((kind >= lost) & (kind < lost + won)).astype(int)
        return np.zeros(len(group), int), decided, group, {"dense": dense}

    return draw


@pytest.mark.parametrize(
    ("rates", "sizes", "bound", "sigma"),
    [
        ((0.3, 0.4), (600, 600), 0.0999, 0),
        ((0, 0.0501), (2000, 30), 0.05, 0),
        ((0.005, 0.0551), (400, 30), 0.05, 0),
        ((1, 0.979), (2000, 100), 0.02, 0),
        ((0.05, 0.1501), (1000, 100), 0.1, 1.0),
        ((0.3, 0.35, 0.4, 0.3, 0.33, 0.36), (200,) * 6, 0.0999, 0),
    ],
)
def test_a_broken_bound_is_seldom_called_kept(rates, sizes, bound, sigma):
    draw = _selection(rates, sizes, sigma)
    assert _wrong(draw, 400, "within", DP, bound) < 3


@pytest.mark.parametrize(
    ("rates", "sizes", "bound", "sigma"),
    [
        ((0.3, 0.3), (600, 600), 0, 0),
        ((0.05, 0.05), (2000, 30), 0, 0),
        ((0.15, 0.05), (1000, 30), 0.1, 0),
        ((0.3, 0.3), (60, 60), 0, 1.5),
        ((0.3, 0.35, 0.4, 0.3, 0.33, 0.36), (200,) * 6, 0.1, 0),
        ((0.3,) * 50, (30,) * 50, 0, 0),
    ],
)
def test_a_kept_bound_is_seldom_called_broken(rates, sizes, bound, sigma):
    draw = _selection(rates, sizes, sigma)
    assert _wrong(draw, 400, "above", DP, bound) < 3


@pytest.mark.parametrize(
    ("changes", "sizes", "bound"),
    [
        (((0, 0), (0.0551, 0)), (2000, 30), 0.055),
        (((0, 0), (0.034, 0)), (2000, 100), 0.0339),
        (((0.2, 0.3), (0.3, 0.2)), (300, 300), 0.1999),
    ],
)
def test_a_broken_bound_on_the_accuracy_lost_is_seldom_called_kept(changes, sizes, bound):
    assert _wrong(_degradation(changes, sizes), 400, "within", "degradation_parity", bound) < 3


def test_weights_that_depend_on_the_decision_widen_the_limits():
    def draw(rng):
        group = np.repeat([0, 1], [2000, 400])
        decided = (rng.random(2400) < np.where(group == 1, 0.05, 0)).astype(int)
        return np.zeros(2400, int), decided, group, {"weight": np.where(decided, 3.0, 1.0)}

    bound = 3 * 0.05 / (3 * 0.05 + 0.95) - 1e-4  # the weighted rate of group 1
    assert _wrong(draw, 400, "within", DP, bound) < 3


@pytest.mark.parametrize("n_strata", [1, 4])
def test_all_events_and_strata_share_the_probability_of_error(n_strata):
    def draw(rng):
        group, y = np.repeat([0, 1], 600), np.tile([0, 1], 600)
        more = {"strata": np.arange(1200) // 2 % n_strata} if n_strata > 1 else {}
        return y, (rng.random(1200) < 0.4).astype(int), group, more

    assert _wrong(draw, 400, "above", EO, 0.0) < 3


@pytest.mark.parametrize(("rates", "verdict"), [((0.3, 0.32), "within"), ((0.3, 0.5), "above")])
def test_many_rows_tell(rates, verdict):
    y, decided, group = _draw(rates, 50_000, 0)
    found = audit(y, decided, sensitive_features=group, constraint=DP, difference_bound=0.1)
    assert found.verdict == verdict
    assert (found.upper <= 0.1) == (verdict == "within")
    assert (found.lower > 0.1) == (verdict == "above")
    assert (found.rows_needed == np.inf) == (verdict == "above")


def test_a_small_group_without_a_row_of_the_event_is_named():
    y, decided, group = _draw((0.3, 0.31, 0.5), 2000, 0, (0.5, 0.49, 0.01))
    y[::2], y[group == 2] = True, False
    ask = {"sensitive_features": group, "constraint": "true_positive_rate_parity", "difference_bound": 0.3}
    found = audit(y, decided, **ask)
    assert found.rates.loc[("true_positive_rate_parity", "y=1"), "n_samples"].loc[2] == 0
    assert "**Groups left out, for fewer than 30 rows:** 2." in found.to_markdown()
    # with enough rows, and none of the event, it is not left out: the rate is wanting
    every = audit(y, decided, **ask, min_cell_size=5)
    assert every.not_compared == [("y=1", 2)]
    assert every.verdict == "undecided"
    assert np.isnan(every.rows_needed)
    assert "true positive rate of 2" in every.to_markdown()
    assert "Not all that the bound is for could be compared.\n" in every.to_markdown()


def test_as_many_rows_as_are_said_to_be_needed_do_in_most_samples():
    rates = (0.3, 0.35)
    group = np.repeat([0, 1], 300)
    decided = np.arange(600) % 300 < np.take(rates, group) * 300
    y = np.zeros(600, bool)
    found = audit(y, decided, sensitive_features=group, constraint=DP, difference_bound=0.1)
    assert found.verdict == "undecided"
    n_rows = int(found.rows_needed)
    assert 1000 < n_rows < 10_000
    kept = []
    for seed in range(100):
        y, drawn, group = _draw(rates, n_rows, seed)
        more = audit(y, drawn, sensitive_features=group, constraint=DP, difference_bound=0.1)
        kept.append(more.verdict == "within")
    assert 0.8 < np.mean(kept) < 0.97
    over = audit(y, drawn, sensitive_features=group, constraint=DP, difference_bound=more.gap)
    assert over.rows_needed == np.inf
    assert "would not show that it is kept" in over.to_markdown()


def test_a_group_with_few_rows_is_left_out_and_named():
    y, decided, group = _draw((0.3, 0.31, 1.0), 2000, 0, (0.5, 0.49, 0.01))
    found = audit(y, decided, sensitive_features=group, constraint=DP, difference_bound=0.1)
    assert found.verdict == "within"
    assert found.rates.loc[(DP, "all"), "status"].tolist() == ["compared", "compared", "left out"]
    assert found.n_samples == np.count_nonzero(group < 2)
    assert (
        "**Groups left out, for fewer than 30 rows:** 2. The verdict is not about them."
        in found.to_markdown()
    )
    assert "1.000 ± " not in found.to_markdown()  # what few rows got is nobody's business
    every = audit(y, decided, sensitive_features=group, constraint=DP, difference_bound=0.1, min_cell_size=1)
    assert every.verdict == "above"
    assert "left out" not in every.to_markdown()
    none = audit(
        y, decided, sensitive_features=group, constraint=DP, difference_bound=0.1, min_cell_size=3000
    )
    assert none.verdict is None
    assert np.isnan(none.upper)
    assert "no two groups to compare in any rate, with at least 3000 rows" in none.to_html()


def test_a_constraint_that_is_half_compared_is_not_kept():
    # All positives of one group are accepted and none of the other, but there are only 29.
    group = np.repeat(["a", "b"], 1000)
    y = np.zeros(2000, int)
    y[:200] = y[1000:1029] = 1
    decided = y.copy()
    decided[1000:1029] = 0
    found = audit(y, decided, sensitive_features=group, constraint=EO, difference_bound=0.05)
    assert found.upper < 0.05
    assert found.verdict == "undecided"
    assert 2000 * 30 / 29 <= found.rows_needed < 2070  # so that 30 of them can be expected
    assert "as many):** true positive rate of b. So the verdict" in found.to_markdown()
    assert "could be compared: that would take about 2,100 rows at least." in found.to_markdown()
    larger = audit(
        y, decided, sensitive_features=group, constraint=EO, difference_bound=0.05, min_cell_size=29
    )
    assert larger.verdict == "above"
    assert larger.surest == ("y=1", None, "b", "a")
    assert "the true positive rate of a less that of b" in larger.to_markdown()
    # The same by the constraint on that rate alone: it has two groups, and the third is not passed over.
    three = np.where(np.arange(2000) % 5 == 4, "c", group)
    decided[three == "c"] = y[three == "c"]
    for constraint in (EO, "true_positive_rate_parity"):
        found = audit(y, decided, sensitive_features=three, constraint=constraint, difference_bound=0.5)
        assert found.verdict == "undecided"
        assert "true positive rate of b" in found.to_markdown()
        assert "left out" not in found.to_markdown()
    # no positive at all: nothing is said of their rates, and groups that are numbers stay what they are
    none = audit(
        0 * y, decided, sensitive_features=np.repeat([0, 1], 1000), constraint=EO, difference_bound=0.5
    )
    assert none.verdict == "undecided"
    assert none.gaps.loc[EO, "highest"].tolist()[0] in (0, 1)
    assert not {"0.0", "1.0", "nan", "None"} & {
        cell for row in _markdown_rows(none.to_markdown()) for cell in row
    }
    assert none.gaps.loc[EO, "highest"].tolist()[1] is None


def test_what_is_not_given_comes_from_the_model(fitted, fresh):
    decided = fitted.predict(fresh.X)
    A = fresh.sensitive_features
    found = audit(fresh.y, decided, sensitive_features=A, model=fitted)
    given = audit(fresh.y, decided, sensitive_features=A, constraint=DP, difference_bound=fitted.bound_)
    assert found.constraint == fitted.constraint_
    assert found.difference_bound == fitted.bound_
    assert (found.verdict, found.upper) == (given.verdict, given.upper)
    other = audit(fresh.y, decided, sensitive_features=A, model=fitted, constraint=EO)
    assert other.difference_bound is None
    assert other.verdict is None
    assert "No bound was given" in other.to_markdown()
    same = audit(fresh.y, decided, sensitive_features=A, model=fitted, constraint=DP)
    assert same.difference_bound == fitted.bound_
    text = found.to_markdown()
    assert f"gap foreseen by the fit: {fitted.validation_gap_.value:.3f} (standard error " in text
    assert f"{fitted.pruning_report_.loc['total', 'parameters_after']:,.0f} of " in text


def test_pipelines_and_searches_are_unwrapped(small, train, fresh):
    pipe = make_pipeline(StandardScaler(), small(max_epochs=3))
    search = GridSearchCV(pipe, {"fairprunedclassifier__sparsity": [0.5]}, cv=2, error_score="raise")
    search.fit(train.X, train.y)
    A = fresh.sensitive_features
    found = audit(fresh.y, search.predict(fresh.X), sensitive_features=A, model=search, constraint=DP)
    assert found.model["constraint of the fit"] == "none"


def test_a_group_of_the_fit_without_rows_leaves_the_bound_open(small, train, fresh):
    def mark(A):
        return np.where(np.arange(len(A)) % 6 == 1, "third", A)

    clf = small(max_epochs=3, difference_bound=1).fit(
        train.X, train.y, sensitive_features=mark(train.sensitive_features)
    )
    decided = clf.predict(fresh.X)
    assert (
        audit(fresh.y, decided, sensitive_features=mark(fresh.sensitive_features), model=clf).verdict
        == "within"
    )
    for A in (fresh.sensitive_features, np.char.capitalize(mark(fresh.sensitive_features))):
        found = audit(fresh.y, decided, sensitive_features=A, model=clf)
        absent = ["third"] if A is fresh.sensitive_features else []
        assert found.not_compared == [("all", group) for group in absent]
        assert found.verdict == ("undecided" if absent else "within")
        told = "no other group with as many):** selection rate of third. So the verdict"
        assert (told in found.to_markdown()) == bool(absent)
        assert set(found.rates["status"]) == {"compared"}  # also groups that the fit does not know
    rare = np.where(np.arange(len(fresh.y)) < 20, "third", fresh.sensitive_features)
    assert audit(fresh.y, decided, sensitive_features=rare, model=clf).not_compared == [("all", "third")]


def test_a_bound_within_strata_is_audited_within_strata(small, train, fresh):
    def strata(data):
        return np.where(data.X[:, 2] > 0, "north", "south")

    clf = small(max_epochs=3, difference_bound=0.5).fit(
        train.X, train.y, sensitive_features=train.sensitive_features, control_features=strata(train)
    )
    plain = small(max_epochs=3, difference_bound=0.5).fit(
        train.X, train.y, sensitive_features=train.sensitive_features
    )
    rows = {"y_true": fresh.y, "y_pred": clf.predict(fresh.X), "sensitive_features": fresh.sensitive_features}
    with pytest.raises(ValueError, match="is on the gap within strata, and no control_features are given"):
        audit(**rows, model=clf)
    with pytest.raises(ValueError, match="without strata, and control_features are given"):
        audit(**rows, control_features=strata(fresh), model=plain)
    found = audit(**rows, control_features=strata(fresh), model=clf)
    assert found.difference_bound == 0.5
    assert found.not_compared == []
    north = strata(fresh) == "north"
    part = {name: column[north] for name, column in rows.items()}
    half = audit(**part, control_features=strata(fresh)[north], model=clf)
    assert half.not_compared == [("all | 'south'", group) for group in clf.groups_]
    assert half.verdict == "undecided"
    assert "selection rate of group_0 in 'south'" in half.to_markdown()
    few = np.flatnonzero(strata(fresh) == "south")[:40]
    part = {name: np.concatenate([column[north], column[few]]) for name, column in rows.items()}
    sites = np.repeat(["north", "south"], [north.sum(), len(few)])
    most = audit(**part, control_features=sites, model=clf)
    assert (
        re.search(r"Groups left out, for fewer than 30 rows:\*\* group_1 in south\.", most.to_markdown())
        is None
    )
    told = (
        "as many):** selection rate of group_0 in south; selection rate of group_1 in south. So the verdict"
    )
    assert told in most.to_markdown()
    open_ended = audit(**part, control_features=sites, constraint=DP)
    assert "Groups left out, for fewer than 30 rows:** group_1 in south." in open_ended.to_markdown()
    assert "no other group to compare:** selection rate of group_0 in south." in open_ended.to_markdown()
    for other in ("is south", "is north"):
        with pytest.raises(ValueError, match="strata are others than those of the fit"):
            audit(**rows, control_features=np.where(strata(fresh) == other[3:], "yes", "no"), model=clf)
    assert "within strata" in found.model["constraint of the fit"]
    assert audit(**rows, model=clf, difference_bound=0.1).difference_bound == 0.1
    three = small(max_epochs=3, difference_bound=0.5).fit(
        train.X, train.X[:, 0].round().clip(-1, 1), sensitive_features=train.sensitive_features
    )
    labels = fresh.X[:, 0].round().clip(-1, 1)
    found = audit(labels, three.predict(fresh.X), sensitive_features=fresh.sensitive_features, model=three)
    assert "strata" not in found.model["constraint of the fit"]


def test_the_bound_in_force_is_told_beside_that_of_the_fit(fitted, fresh):
    A, bound = fresh.sensitive_features, fitted.bound_
    try:
        fitted.set_bound(0.9)
        found = audit(fresh.y, fitted.predict(fresh.X), sensitive_features=A, model=fitted)
        assert (found.difference_bound, found.model["bound in force"]) == (0.9, "0.9")
        assert found.model["constraint of the fit"] == f"demographic parity, bound {bound:g}"
        assert found.model["decided by"] == "the network alone"
        fitted.module_.set_bound(0.0)
        with pytest.raises(ValueError, match="module_ has another rule"):
            audit(fresh.y, fitted.predict(fresh.X), sensitive_features=A, model=fitted)
    finally:
        fitted.set_bound(bound)


def test_groups_of_the_fit_in_another_type_are_refused(small, train, fresh):
    def mark(data):
        return pd.DataFrame({"group": data.sensitive_features, "side": data.X[:, 0] > 0})

    clf = small(max_epochs=3, difference_bound=1).fit(train.X, train.y, sensitive_features=mark(train))
    A = mark(fresh)
    for other in (
        A.astype(str),
        A[["side", "group"]].to_numpy(),
        A.set_axis(["x", "y"], axis=1).iloc[:, ::-1],
    ):
        with pytest.raises(ValueError, match=r"The groups are .*, and in fit they were .* of the same type"):
            audit(fresh.y, clf.predict(fresh.X), sensitive_features=other, model=clf)


def test_labels_of_another_number_type_are_those_of_the_model(small, train, fresh):
    def label(data):
        return data.X[:, 0].round().clip(-1, 1).astype(int)

    clf = small(max_epochs=3, difference_bound=1).fit(
        train.X, label(train), sensitive_features=train.sensitive_features
    )
    decided = clf.predict(fresh.X)
    pages = {
        audit(y, decided, sensitive_features=fresh.sensitive_features, model=clf).to_html()
        for y in (label(fresh), label(fresh).astype(float))
    }
    assert len(pages) == 1


def test_a_group_alone_in_its_stratum_is_compared_with_nobody():
    group, site = np.repeat(["a", "b", "c"], 1000), np.repeat(["north", "south"], [2000, 1000])
    y = np.arange(3000) % 2
    decided = np.where(group == "c", 1, y)
    asked = {"sensitive_features": group, "control_features": site, "difference_bound": 0.1}
    found = audit(y, decided, constraint=EO, **asked)
    assert found.verdict == "within"
    assert found.n_samples == 2000
    assert set(found.rates.loc[(EO, "y=0", "south"), "status"]) == {"alone", "left out"}
    told = "no other group to compare:** false positive rate of c in south; true positive rate of c in south."
    assert told in found.to_markdown()


def test_rates_of_which_none_can_be_compared_leave_the_bound_open():
    group, y = np.repeat(["a", "b"], 1000), np.repeat([1, 0], [500, 1500])
    y[1000:1010] = 1
    found = audit(
        y, y, sensitive_features=group, constraint="true_positive_rate_parity", difference_bound=0.1
    )
    assert found.verdict == "undecided"
    assert np.isnan(found.upper)
    assert "no two groups to compare in any rate" in found.to_markdown()


def test_rows_without_weight_are_not_counted():
    y, decided, A, _ = _labelled()
    weight = np.arange(len(y)) % 2
    found = audit(y, decided, sensitive_features=A["sex"], constraint=DP, sample_weight=weight)
    assert (
        found.n_samples
        == found.overall["n_samples"]
        == found.rates.loc[(DP, "all"), "n_samples"].sum()
        == 750
    )


def test_limits_are_rounded_to_the_safe_side():
    group = np.repeat([0, 1], 20_000)
    decided = np.r_[np.arange(20_000) < 948, np.zeros(20_000, bool)]
    found = audit(0 * group, decided, sensitive_features=group, constraint=DP, difference_bound=0.05)
    assert 0.05 < found.upper < 0.05005
    assert "as large as 0.0501, above the bound of 0.05" in found.to_markdown()
    assert any("0.051" in row for row in _markdown_rows(found.to_markdown()))


@pytest.mark.parametrize("label", ["yes", 5])
def test_a_single_label_needs_to_be_named(label):
    rows = ([label] * 100, [label] * 100)
    group = np.repeat([0, 1], 50)
    with pytest.raises(ValueError, match=r"single label .* pass pos_label"):
        audit(*rows, sensitive_features=group, constraint=ERP)
    found = audit(*rows, sensitive_features=group, constraint=DP, pos_label=label, difference_bound=0.2)
    assert found.verdict == "within"
    assert f"- positive decision: {label}" in found.to_markdown()


def test_rows_in_another_order_are_refused():
    y, decided, A, _ = _labelled()
    y = pd.Series(y, index=range(100, 100 + len(y)))
    A.index = y.index
    with pytest.raises(ValueError, match="sensitive_features has the index of y_true in another order"):
        audit(y, decided, sensitive_features=A["sex"].sample(frac=1, random_state=0), constraint=DP)


def test_weights_are_told_and_their_scale_does_not_matter():
    y, decided, A, weight = _labelled()
    plain = audit(y, decided, sensitive_features=A["sex"], constraint=DP, difference_bound=0.1)
    assert "effective rows" not in plain.to_markdown()
    tables = []
    for scale in (1, 1e-200, 1e200):
        found = audit(
            y,
            decided,
            sensitive_features=A["sex"],
            constraint=DP,
            difference_bound=0.1,
            sample_weight=scale * weight,
        )
        tables.append(found.to_markdown())
    assert tables[0] == tables[1] == tables[2]
    assert f"{weight.sum() ** 2 / (weight**2).sum():,.0f} |" in tables[0]
    # one row has all the weight: no rate of the others is known
    weight[0] = 1e300
    lone = audit(
        y, decided, sensitive_features=A["sex"], constraint=DP, difference_bound=0.1, sample_weight=weight
    )
    assert lone.verdict == "undecided"
    assert lone.upper == 1


def test_classes_are_named_as_they_are():
    y, decided, A, _ = _labelled(3000, n_classes=3)
    text = audit(y, decided, sensitive_features=A["sex"], constraint=EO, difference_bound=0.1).to_markdown()
    assert "positive rate" not in text
    assert {row[1] for row in _markdown_rows(text)} >= {
        f"y{sign}{c}" for sign in ("=", "!=") for c in range(3)
    }
    text = audit(
        np.array(["bad", "good"])[y % 2],
        np.array(["bad", "good"])[decided % 2],
        sensitive_features=A["sex"],
        constraint=EO,
        pos_label="bad",
    ).to_markdown()
    assert "- positive decision: bad" in text


def test_the_same_decision_for_all_is_told():
    y, _, A, _ = _labelled()
    found = audit(y, np.ones_like(y), sensitive_features=A["sex"], constraint=DP, difference_bound=0.1)
    assert found.verdict == "within"
    assert "All rows got the same decision" in found.to_markdown()
    for seed in range(20):
        weight = np.random.default_rng(seed).random(len(y))
        found = audit(y, np.ones_like(y), sensitive_features=A["sex"], constraint=DP, sample_weight=weight)
        assert "All rows got the same decision" in found.to_markdown()


def test_columns_of_the_fit_are_taken_by_their_names(small, train, fresh):
    def mark(data):
        side = np.where(data.X[:, 0] > 0, "b", "a")
        return pd.DataFrame({"group": data.sensitive_features, "side": side})

    clf = small(max_epochs=3, difference_bound=1).fit(train.X, train.y, sensitive_features=mark(train))
    rows = {"y_true": fresh.y, "y_pred": clf.predict(fresh.X), "model": clf}
    A = mark(fresh)
    found = audit(**rows, sensitive_features=A)
    assert found.rates.index.names[2:] == ["group", "side"]
    for other in (A[["side", "group"]], {"side": A["side"], "group": A["group"]}):
        assert_frame_equal(audit(**rows, sensitive_features=other).rates, found.rates)
    # other columns are groups of their own
    own = audit(**rows, sensitive_features=A["side"].rename("half"))
    assert own.not_compared == []
    assert own.model["groups that are audited"] == "others than these"


def test_the_documents_hold_every_figure_and_escape_labels():
    y, decided, A, _ = _labelled()
    found = audit(y, decided, sensitive_features=A, constraint=EO, difference_bound=0.1)
    page, rows = _Page(found.to_html("A <title>")), _markdown_rows(found.to_markdown())
    assert "A <title>" in "".join(page.text)
    assert [row for row in rows if not set(row[0]) <= set("-:")] == page.rows
    assert {row[1] for row in rows} >= {"<b>", "x|y"}
    for gap, error in zip(found.gaps["gap"], found.gaps["standard_error"], strict=True):
        assert f"{gap:.3f} ± {error:.3f}" in "".join(page.text)
    assert found.date in found.to_markdown()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "neither a constraint nor a model"),
        ({"constraint": "parity"}, "one of demographic_parity, .*; got 'parity'"),
        ({"constraint": "degradation_parity"}, "y_pred_dense"),
        ({"constraint": DemographicParity()}, "one of demographic_parity, .*; got <fair"),
        ({"constraint": DP, "difference_bound": 1.5}, r"in \[0, 1\]; got 1.5"),
        ({"constraint": DP, "difference_bound": True}, r"in \[0, 1\]; got True"),
        ({"constraint": DP, "min_cell_size": 0}, "min_cell_size"),
        ({"constraint": DP, "model": LogisticRegression()}, "got LogisticRegression"),
        ({"constraint": DP, "pos_label": 7}, "pos_label=7"),
        ({"constraint": DP, "sample_weight": np.zeros(200)}, "weight"),
    ],
)
def test_bad_input_is_named(params, message):
    y, decided, group = _draw((0.3, 0.4), 200, 0)
    with pytest.raises(ValueError, match=message):
        audit(y, decided, sensitive_features=group, **params)


def test_models_that_cannot_say_the_constraint_are_refused(small, unconstrained, fitted, train):
    A = train.sensitive_features
    decided = unconstrained.predict(train.X)
    with pytest.raises(ValueError, match="fitted without one"):
        audit(train.y, decided, sensitive_features=A, model=unconstrained)
    with pytest.raises(NotFittedError):
        audit(train.y, decided, sensitive_features=A, model=small())
    with pytest.raises(ValueError, match=r"labels 7, and the model has the classes 0, 1. Pass labels as in"):
        audit(np.where(train.y == 1, 7, 0), decided, sensitive_features=A, model=fitted)
    with pytest.raises(ValueError, match="pos_label is 0, and that of the model is 1"):
        audit(train.y, decided, sensitive_features=A, model=fitted, pos_label=0)
    clf = small(constraint=_Own(), max_epochs=3).fit(train.X, train.y, sensitive_features=A)
    with pytest.raises(ValueError, match="under _Own, a moment that the metrics do not have"):
        audit(train.y, clf.predict(train.X), sensitive_features=A, model=clf)


def test_degradation_is_audited_with_the_decisions_of_the_dense_network(small, train, fresh):
    A = fresh.sensitive_features
    clf = small(constraint="degradation_parity", max_epochs=3)
    clf.fit(train.X, train.y, sensitive_features=train.sensitive_features)
    decided = clf.predict(fresh.X)
    rows = torch.tensor(fresh.X, dtype=clf.module_.output_weights.dtype)
    dense = clf.classes_[clf.dense_module_(rows).argmax(dim=1).numpy()]
    found = audit(fresh.y, decided, y_pred_dense=dense, sensitive_features=A, model=clf)
    lost = degradation_gap(fresh.y, decided, dense, sensitive_features=A)
    assert (found.constraint, found.gap, found.standard_error) == ("degradation_parity", *lost[:2])
    by_group = found.rates.loc[("degradation_parity", "all"), "rate"]
    accuracies = [
        fm.MetricFrame(metrics=accuracy_score, y_true=fresh.y, y_pred=pred, sensitive_features=A).by_group
        for pred in (dense, decided)
    ]
    assert_allclose(by_group, accuracies[0] - accuracies[1], atol=1e-12)
    assert "accuracy lost" in found.to_markdown()
    with pytest.raises(ValueError, match="pass its decisions as y_pred_dense"):
        audit(fresh.y, decided, sensitive_features=A, model=clf)


def test_the_bound_of_a_moment_is_audited_under_its_name(small, train, fresh):
    clf = small(constraint=DemographicParity(), max_epochs=3)
    clf.fit(train.X, train.y, sensitive_features=train.sensitive_features)
    found = audit(fresh.y, clf.predict(fresh.X), sensitive_features=fresh.sensitive_features, model=clf)
    assert (found.constraint, found.difference_bound) == (DP, 0.05)
