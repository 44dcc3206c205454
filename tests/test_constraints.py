import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from skfairprune.constraints import CONSTRAINTS, GroupCounts, get_constraint

CASES = [pytest.param(constraint, id=name) for name, constraint in CONSTRAINTS.items()]


def _rows(n_groups, n_samples=300, seed=0):
    rng = np.random.default_rng(seed)
    y, decision = rng.integers(0, 2, (2, n_samples))
    return y, decision, rng.integers(0, n_groups, n_samples), rng.uniform(0.1, 3, n_samples)


def _cell_rates(constraint, y, decision, group, weight):
    """Compute the rates cell by cell, from the definition."""
    utility = (y != decision) if constraint.name == "error_rate_parity" else decision
    rows_of = {"all": y >= 0, "y=0": y == 0, "y=1": y == 1}
    return np.array(
        [
            [
                np.average(utility[cell], weights=weight[cell])
                for g in range(group.max() + 1)
                if (cell := rows_of[event] & (group == g)).any()
            ]
            for event in constraint.events
        ]
    )


@pytest.mark.parametrize("n_groups", [1, 2, 5])
@pytest.mark.parametrize("constraint", CASES)
def test_rates_are_weighted_means_over_cells(constraint, n_groups):
    y, decision, group, weight = _rows(n_groups)
    counts = GroupCounts.from_rows(y, decision, group, n_groups, weight)
    assert_allclose(counts.rates(constraint), _cell_rates(constraint, y, decision, group, weight), atol=1e-12)


@pytest.mark.parametrize("constraint", CASES)
def test_soft_decisions_give_expected_rates(constraint):
    y, _, group, weight = _rows(3)
    rng = np.random.default_rng(1)
    soft = rng.uniform(size=len(y))
    drawn = np.mean(
        [
            GroupCounts.from_rows(y, rng.uniform(size=len(y)) < soft, group, 3, weight).rates(constraint)
            for _ in range(4000)
        ],
        axis=0,
    )
    expected = GroupCounts.from_rows(y, soft, group, 3, weight).rates(constraint)
    assert_allclose(drawn, expected, atol=5e-3)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("constraint", CASES)
def test_costs_give_the_lagrangian_up_to_a_constant(constraint, weighted):
    n_groups = 4
    y, _, group, weight = _rows(n_groups)
    if not weighted:
        weight = np.ones_like(weight)
    rng = np.random.default_rng(2)
    multipliers = rng.normal(size=(constraint.n_events, n_groups))

    def difference(decision):
        counts = GroupCounts.from_rows(y, decision, group, n_groups, weight)
        shares = constraint.cell_sums(counts.totals) / weight.sum()
        costs = constraint.costs(multipliers, shares)
        mean_cost = np.average(costs[y, group] * decision, weights=weight)
        return mean_cost - np.sum(multipliers * counts.rates(constraint))

    decisions = [np.zeros(len(y)), np.ones(len(y)), *rng.uniform(size=(3, len(y)))]
    assert_allclose([difference(h) for h in decisions], difference(decisions[0]), atol=1e-12)


def test_costs_of_cells_without_rows():
    constraint = get_constraint("equalized_odds")
    costs = constraint.costs([[0.0, 1.0], [2.0, 0.0]], [[0.0, 0.5], [0.5, 0.0]])
    assert_allclose(costs, [[0, 2], [4, 0]])


@pytest.mark.parametrize("constraint", CASES)
def test_rates_without_rows_are_nan(constraint):
    # group 1 has no positives, group 2 no negatives, group 3 no rows, group 4 no weight
    y = [0, 1, 0, 1, 0, 1]
    group = [0, 0, 1, 2, 4, 4]
    counts = GroupCounts.from_rows(y, [1, 1, 0, 1, 1, 1], group, 5, [1, 1, 1, 1, 0, 0])
    empty = {"y=0": [0, 0, 1, 1, 1], "y=1": [0, 1, 0, 1, 1], "all": [0, 0, 0, 1, 1]}
    expected = [empty[event] for event in constraint.events]
    assert np.isnan(counts.rates(constraint)).tolist() == np.array(expected, bool).tolist()
    assert np.isnan(counts.standard_errors(constraint)).tolist() == np.array(expected, bool).tolist()


def test_gap_names_its_event_and_groups():
    y = np.repeat([0, 1], 12)
    group = np.tile(np.repeat([0, 1, 2], 4), 2)
    decision = [0, 0, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1]
    gap = GroupCounts.from_rows(y, decision, group, 3).gap(get_constraint("equalized_odds"))
    assert gap.value == 0.5
    assert (gap.event, gap.lowest, gap.highest) == (1, 2, 0)
    assert_allclose(gap.standard_error, 0.25)  # se of 2 of 4 is 1/4, of 4 of 4 is 0


def test_gap_over_included_cells_only():
    constraint = get_constraint("demographic_parity")
    counts = GroupCounts.from_rows([0] * 6, [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2], 3)
    assert counts.gap(constraint).value == 1
    found = counts.gap(constraint, np.array([[False, True, True]]))
    assert (found.value, found.lowest, found.highest) == (0.5, 1, 2)
    found = counts.gap(constraint, np.array([[False, True, False]]))
    assert np.isnan(found.value)
    assert np.isnan(found.standard_error)
    assert found[2:] == (-1, -1, -1)


def test_gap_of_the_event_that_is_defined():
    counts = GroupCounts.from_rows([1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1], 2)
    found = counts.gap(get_constraint("equalized_odds"))
    assert (found.value, found.event) == (0.5, 1)


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
    counts = GroupCounts.from_rows(y, decision, group, 3, weight)
    for constraint in CONSTRAINTS.values():
        rates = counts.rates(constraint)
        assert np.all((np.isnan(rates)) | ((rates >= 0) & (rates <= 1)))


def test_unknown_constraint():
    with pytest.raises(ValueError, match="Unknown constraint 'parity'; choose one of demographic_"):
        get_constraint("parity")
