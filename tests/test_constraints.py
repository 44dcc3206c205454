import itertools

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import zero_one_loss

from skfairprune.constraints import CONSTRAINTS, get_constraint
from skfairprune.gaps import GroupCounts

BINARY = ["true_positive_rate_parity", "false_positive_rate_parity"]
# Every constraint on two classes, and those of three, plain and within two strata.
CASES = {name: get_constraint(name) for name in CONSTRAINTS}
CASES |= {f"{name} of 3": get_constraint(name, 3) for name in CONSTRAINTS if name not in BINARY}
CASES |= {f"{name} in strata": constraint.stratified("st") for name, constraint in CASES.items()}
every_constraint = pytest.mark.parametrize("constraint", CASES.values(), ids=CASES)
plain = pytest.mark.parametrize("constraint", [CASES[name] for name in CONSTRAINTS], ids=CONSTRAINTS)


def _rows(constraint, n_groups, n_samples=400, seed=0):
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, constraint.n_kinds, n_samples)
    decision = rng.integers(0, constraint.n_decisions, n_samples)
    return kind, decision, rng.integers(0, n_groups, n_samples), rng.uniform(0.1, 3, n_samples)


def _count(constraint, kind, decision, group, n_groups, weight=None):
    shape = (constraint.n_kinds, n_groups, constraint.n_decisions)
    return GroupCounts.from_rows(kind, decision, group, shape, weight)


def _event(constraint, event, kind, decision):
    """Return which rows are of an event and their utility, from the event's name."""
    n_classes, per_stratum = constraint.n_decisions, constraint.n_kinds // constraint.n_strata
    label, stratum = constraint.labels[kind], kind // per_stratum
    event, _, within = event.partition(" | ")
    rows = np.ones(len(kind), bool) if not within else stratum == "st".index(within.strip("'"))
    if event.startswith("y"):
        rows = rows & ((label != int(event[-1])) if "!" in event else (label == int(event[-1])))
    if constraint.name == "error_rate_parity":
        return rows, (label != decision).astype(float)
    if constraint.name == "degradation_parity":
        dense = kind % n_classes
        return rows, (label == dense).astype(float) - (label == decision)
    return rows, (decision == (1 if n_classes == 2 else int(event[-1]))).astype(float)


def _cells(constraint, kind, decision, group, weight):
    """Yield the utilities and weights of each cell."""
    for event in constraint.events:
        rows, utility = _event(constraint, event, kind, decision)
        for g in range(group.max() + 1):
            cell = rows & (group == g)
            yield utility[cell], weight[cell]


@pytest.mark.parametrize("n_groups", [1, 2, 5])
@every_constraint
def test_rates_are_weighted_means_over_cells(constraint, n_groups):
    kind, decision, group, weight = _rows(constraint, n_groups)
    rates = _count(constraint, kind, decision, group, n_groups, weight).rates(constraint)
    expected = [np.average(u, weights=w) for u, w in _cells(constraint, kind, decision, group, weight)]
    assert_allclose(rates.ravel(), expected, atol=1e-12)


@every_constraint
def test_standard_errors_are_of_the_rows_and_half_one_at_each_end(constraint):
    kind, decision, group, weight = _rows(constraint, 2)
    ends = (-1, 1) if constraint.name == "degradation_parity" else (0, 1)
    expected = []
    for utility, w in _cells(constraint, kind, decision, group, weight):
        n = w.sum() ** 2 / (w**2).sum()
        centre = (n * np.average(utility, weights=w) + np.mean(ends)) / (n + 1)
        spread = np.average((utility - centre) ** 2, weights=w**2)
        expected.append(np.sqrt((n * spread + np.mean((np.array(ends) - centre) ** 2)) / (n + 1) / n))
    errors = _count(constraint, kind, decision, group, 2, weight).standard_errors(constraint)
    assert_allclose(errors.ravel(), expected, rtol=1e-10)


@plain
def test_standard_errors_are_the_spread_over_samples(constraint):
    rng = np.random.default_rng(0)
    kind = rng.integers(0, constraint.n_kinds, (3000, 200))
    decision = rng.uniform(size=kind.shape) < 0.2 + 0.5 * constraint.labels[kind]
    drawn = [_count(constraint, k, d, np.zeros(200, int), 1) for k, d in zip(kind, decision, strict=True)]
    spread = np.std([counts.rates(constraint) for counts in drawn], axis=0)
    mean_error = np.mean([counts.standard_errors(constraint) for counts in drawn], axis=0)
    assert_allclose(mean_error, spread, rtol=0.05)


@every_constraint
def test_costs_give_the_lagrangian_up_to_a_constant(constraint):
    n_groups = 4
    kind, _, group, weight = _rows(constraint, n_groups)
    rng = np.random.default_rng(2)
    multipliers = rng.normal(size=(constraint.n_events, n_groups))
    head = kind // constraint.n_dense

    def difference(decision):
        counts = _count(constraint, kind, decision, group, n_groups, weight)
        shares = constraint.cell_sums(counts.counts.sum(axis=2)) / weight.sum()
        costs = constraint.costs(multipliers, shares)
        assert costs.shape == (len(constraint.head_labels), n_groups, constraint.n_decisions)
        mean_cost = np.average(costs[head, group, decision], weights=weight)
        return mean_cost - np.sum(multipliers * counts.rates(constraint))

    n_decisions = constraint.n_decisions
    decisions = [*np.indices((n_decisions, len(kind)))[0], *rng.integers(0, n_decisions, (3, len(kind)))]
    assert_allclose([difference(d) for d in decisions], difference(decisions[0]), atol=1e-12)


def test_costs_of_cells_without_rows():
    constraint = get_constraint("equalized_odds")
    costs = constraint.costs([[0.0, 1.0], [2.0, 0.0]], [[0.0, 0.5], [0.5, 0.0]])
    assert_allclose(costs[..., 1], [[0, 2], [4, 0]])
    assert_array_equal(costs[..., 0], 0)


def test_costs_of_many_multipliers_at_once():
    constraint, rng = get_constraint("equalized_odds", 3), np.random.default_rng(0)
    multipliers, shares = rng.normal(size=(5, 6, 2)), rng.uniform(size=(6, 2))
    expected = np.stack([constraint.costs(one, shares) for one in multipliers])
    assert_allclose(constraint.costs(multipliers, shares), expected)


@plain
def test_rates_without_rows_are_nan(constraint):
    # group 1 has no positives, group 2 no negatives, group 3 no rows, group 4 no weight
    y = np.array([0, 1, 0, 1, 0, 1])
    group = [0, 0, 1, 2, 4, 4]
    counts = _count(constraint, constraint.kinds(y), [1, 1, 0, 1, 1, 1], group, 5, [1, 1, 1, 1, 0, 0])
    empty = {"y=0": [0, 0, 1, 1, 1], "y=1": [0, 1, 0, 1, 1], "all": [0, 0, 0, 1, 1]}
    expected = [empty[event] for event in constraint.events]
    assert np.isnan(counts.rates(constraint)).tolist() == np.array(expected, bool).tolist()
    assert np.isnan(counts.standard_errors(constraint)).tolist() == np.array(expected, bool).tolist()


def test_gap_names_its_event_and_groups():
    y = np.repeat([0, 1], 12)
    group = np.tile(np.repeat([0, 1, 2], 4), 2)
    decision = [0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1]
    constraint = get_constraint("equalized_odds")
    gap = _count(constraint, y, decision, group, 3).gap(constraint)
    assert gap.value == 0.5
    assert (gap.event, gap.lowest, gap.highest) == (1, 2, 0)
    # 2 of 4 is 2.5 of 5, 4 of 4 is 4.5 of 5: variances of r (1 - r) / 4
    assert_allclose(gap.standard_error, np.sqrt((0.5 * 0.5 + 0.9 * 0.1) / 4))


def test_gap_over_included_cells_only():
    constraint = get_constraint("demographic_parity")
    counts = _count(constraint, [0] * 6, [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2], 3)
    assert counts.gap(constraint).value == 1
    found = counts.gap(constraint, np.array([[False, True, True]]))
    assert (found.value, found.lowest, found.highest) == (0.5, 1, 2)
    found = counts.gap(constraint, np.array([[False, True, False]]))
    assert np.isnan(found.value)
    assert np.isnan(found.standard_error)
    assert found[2:] == (-1, -1, -1)


def test_the_upper_limit_is_over_all_pairs_of_groups():
    group = np.repeat(np.arange(4), [2000, 2000, 30, 15])
    decision = np.repeat([1, 0] * 4, [600, 1400, 1000, 1000, 12, 18, 6, 9])
    constraint = get_constraint("demographic_parity")
    counts = _count(constraint, np.zeros(len(group), int), decision, group, 4)
    (rates,), (errors,) = counts.rates(constraint), counts.standard_errors(constraint)
    pairs = list(itertools.permutations(range(4), 2))
    limits = [rates[a] - rates[b] + 1.645 * np.hypot(errors[a], errors[b]) for a, b in pairs]
    cells, found = counts.cell_rates(constraint), counts.gap(constraint)
    assert_allclose(cells.upper_limit(), max(limits))
    assert cells.upper_limit() > found.value + 2 * found.standard_error  # the extreme groups are large here
    two = counts.cell_rates(constraint, np.array([[True, True, False, False]]))
    assert_allclose(two.upper_limit(), abs(rates[1] - rates[0]) + 1.645 * np.hypot(*errors[:2]))
    one = counts.cell_rates(constraint, np.array([[True, False, False, False]]))
    assert np.isnan(one.upper_limit())


def test_gap_of_the_event_that_is_defined():
    constraint = get_constraint("equalized_odds")
    found = _count(constraint, [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1], 2).gap(constraint)
    assert (found.value, found.event) == (0.5, 1)


def _rate_of(label):
    return lambda y_true, y_pred: np.mean(y_pred == label) if len(y_pred) else np.nan


@pytest.mark.parametrize("name", ["demographic_parity", "equalized_odds", "error_rate_parity"])
def test_multi_class_gaps_in_strata_are_fairlearns(name):
    constraint = get_constraint(name, 3).stratified(["a", "b"])
    rng = np.random.default_rng(3)
    y, stratum, group, decision = rng.integers(0, [[3], [2], [4], [3]], (4, 2000))
    gap = _count(constraint, constraint.kinds(y, stratum), decision, group, 4).gap(constraint).value

    def largest(metric, rows):
        frame = MetricFrame(
            metrics=metric,
            y_true=y[rows],
            y_pred=decision[rows],
            sensitive_features=group[rows],
            control_features=stratum[rows],
        )
        return frame.difference().max()

    everything = np.ones(len(y), bool)
    if name == "error_rate_parity":
        expected = largest(zero_one_loss, everything)
    else:
        within = (everything,) if name == "demographic_parity" else (0, 1, 2)
        expected = max(
            largest(_rate_of(c), rows)
            for c in range(3)
            for rows in (within if name == "demographic_parity" else (y == c, y != c))
        )
    assert_allclose(gap, expected, atol=1e-12)


def test_degradation_is_the_accuracy_that_pruning_cost():
    constraint = get_constraint("degradation_parity", 3)
    rng = np.random.default_rng(0)
    y, dense, small, group = rng.integers(0, [[3], [3], [3], [2]], (4, 500))
    kind = constraint.with_dense_decisions(constraint.kinds(y), dense)
    rates = _count(constraint, kind, small, group, 2).rates(constraint)[0]
    lost = (dense == y).astype(float) - (small == y)
    assert_allclose(rates, [lost[group == g].mean() for g in (0, 1)])


@every_constraint
def test_kinds_know_labels_strata_and_dense_decisions(constraint):
    rng = np.random.default_rng(0)
    y, dense = rng.integers(0, constraint.n_decisions, (2, 50))
    stratum = rng.integers(0, 2, 50) if constraint.n_strata > 1 else None
    kind = constraint.kinds(y, stratum)
    assert_array_equal(constraint.labels[kind], y)
    assert_array_equal(constraint.head_labels[kind // constraint.n_dense], y)
    told = constraint.with_dense_decisions(kind, dense)
    assert_array_equal(told // constraint.n_dense, kind // constraint.n_dense)
    if constraint.n_dense > 1:
        assert_array_equal(kind % constraint.n_dense, y)
        assert_array_equal(told % constraint.n_dense, dense)
    if stratum is not None:
        assert_array_equal(kind // (constraint.n_kinds // 2), stratum)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 2), st.floats(0, 1e6, width=32)),
        min_size=1,
        max_size=40,
    )
)
def test_rates_stay_in_the_unit_interval(rows):
    y, decision, group, weight = map(np.array, zip(*rows, strict=True))
    for constraint in map(get_constraint, CONSTRAINTS):
        rates = _count(constraint, constraint.kinds(y), decision, group, 3, weight).rates(constraint)
        least = -1 if constraint.name == "degradation_parity" else 0
        assert np.all((np.isnan(rates)) | ((rates >= least) & (rates <= 1)))


def test_events_are_named_by_the_classes_and_strata():
    names = ["low", "mid", "high"]
    constraint = get_constraint("equalized_odds", 3, names)
    assert constraint.events[:2] == ("y!='low'", "y='low'")
    constraint = get_constraint("demographic_parity", 3, names).stratified(["x", ("y", 1)])
    assert constraint.events[0] == "decision 'low' | 'x'"
    assert constraint.events[-1] == "decision 'high' | ('y', 1)"
    assert get_constraint("equalized_odds", 2, ["no", "yes"]).events == ("y=0", "y=1")


@pytest.mark.parametrize("name", BINARY)
def test_constraints_of_two_classes_refuse_three(name):
    with pytest.raises(ValueError, match=f"{name} is for two classes, and y has 3. Choose equalized_odds"):
        get_constraint(name, 3)


def test_unknown_constraint():
    with pytest.raises(ValueError, match="Unknown constraint 'parity'; choose one of demographic_"):
        get_constraint("parity")
