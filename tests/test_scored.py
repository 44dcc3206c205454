import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skfairprune.constraints import get_constraint
from skfairprune.decision import DecisionRule
from skfairprune.gaps import GroupCounts
from skfairprune.scored import ScoredRows, decision_shares

PARITY = get_constraint("demographic_parity")
LIKELIEST = DecisionRule.unconstrained(np.arange(2), 2, 2)


def _plain():
    return ScoredRows(
        np.full((4, 2, 2), 0.25), np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), np.array([1.0, 2, 3, 4])
    )


def test_counts_and_subsets():
    rows = _plain()
    counts = rows.counts(PARITY, np.eye(2)[[0, 1, 1, 0]])
    assert_array_equal(counts.counts, [[[1, 0], [0, 2]], [[0, 0], [4, 3]]])
    assert_array_equal(counts.squares, [[[1, 0], [0, 4]], [[0, 0], [16, 9]]])
    assert rows.take(np.array([False, True, True, False])).kind.tolist() == [0, 1]
    assert rows.take(np.array([3, 0])).weight.tolist() == [4, 1]


def test_shares_by_hand():
    """The network's decision, plus that of the copy blind to the row, less the mean of the other copies."""
    own, copies = [1, 0, 2, 2], [[1, 1, 0, 2], [1, 0, 0, 1], [0, 0, 1, 1]]
    shares = decision_shares(np.array([own, *copies]), np.array([0, 0, 1, 2]), 3)
    assert_allclose(shares, [[-0.5, 1.5, 0], [0, 1, 0], [0.5, -0.5, 1], [0, 0.5, 0.5]])
    assert_array_equal(decision_shares(np.array([own]), None, 3), np.eye(3)[own])


def test_rows_take_their_copies_along():
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(4), (4, 30)).reshape(4, 30, 2, 2)
    blind, kind, group = rng.integers(0, 3, 30), rng.integers(0, 2, 30), rng.integers(0, 2, 30)
    rows = ScoredRows(proba[0], kind, group, np.ones(30), proba[1:], blind)
    decisions = proba.sum(axis=3).argmax(axis=2)
    shares = rows.decide(LIKELIEST)
    assert_allclose(shares, decision_shares(decisions, blind, 2))
    some = rng.permutation(30)[:12]
    assert_allclose(rows.take(some).decide(LIKELIEST), shares[some])


def _network(rng, seen, leaning, label):
    """Decide at random: a network leans its own way, and is drawn to the label of rows that it has seen."""
    decision = rng.random(len(label)) < leaning
    return np.where(seen & (rng.random(len(label)) < 0.3), label, decision).astype(np.intp)


def test_shares_are_those_of_unseen_rows():
    """Neither the copies, which lean otherwise, nor the network, which knows the rows, tell of new ones."""
    rng, n = np.random.default_rng(0), 200_000
    label, blind = (rng.random(n) < 0.9).astype(np.intp), np.arange(n) % 2
    own = _network(rng, np.ones(n, bool), 0.40, label)
    copies = [_network(rng, blind != k, leaning, label) for k, leaning in enumerate((0.30, 0.34))]
    shares = decision_shares(np.array([own, *copies]), blind, 2)
    # The copies lean further from the labels, so they owe a little more to having seen them.
    assert_allclose(shares[:, 1].mean(), 0.40, atol=0.03)
    assert own.mean() > 0.5
    assert np.choose(blind, copies).mean() < 0.34


def test_standard_errors_know_the_noise_of_disagreement():
    rng, constraint, n, rates, errors = np.random.default_rng(1), PARITY, 400, [], []
    kind, group, blind = np.zeros(n, np.intp), np.arange(n) // 200, np.arange(n) % 2
    for _ in range(400):
        score = rng.random(n)
        decisions = np.array([score + 0.3 * rng.normal(size=n) > 0.6 for _ in range(3)]).astype(np.intp)
        shares = decision_shares(decisions, blind, 2)
        counts = GroupCounts.from_shares(kind, shares, group, (2, 2, 2), np.ones(n))
        rates.append(counts.rates(constraint)[0, 0])
        errors.append(counts.standard_errors(constraint)[0, 0])
    spread = np.std(rates)
    assert spread > 1.15 * np.sqrt(0.4 * 0.6 / 200)  # more than that of as many decisions
    assert 0.9 < np.mean(errors) / spread < 1.25


def test_rates_stay_among_the_utilities():
    shares = np.array([[-1.0, 2.0], [0.0, 1.0], [1.0, 0.0]])
    kind, group = np.zeros(3, np.intp), np.array([0, 0, 1])
    counts = GroupCounts.from_shares(kind, shares, group, (2, 2, 2), np.ones(3))
    assert_allclose(counts.counts[0], [[-1, 3], [1, 0]])
    assert_allclose(counts.rates(PARITY), [[1, 0]])


@pytest.mark.parametrize("name", ["equalized_odds", "error_rate_parity", "degradation_parity"])
def test_standard_errors_are_those_of_the_rows_utilities(name):
    """Three classes, several kinds in an event, weights: the sandwich estimate of the rows one by one."""
    rng, constraint = np.random.default_rng(2), get_constraint(name, 3)
    n, n_kinds = 3000, constraint.n_kinds
    kind, group, weight = rng.integers(0, n_kinds, n), rng.integers(0, 2, n), rng.uniform(0, 2, n)
    shares = decision_shares(rng.integers(0, 3, (3, n)), np.arange(n) % 2, 3)
    counts = GroupCounts.from_shares(kind, shares, group, (n_kinds, 2, 3), weight)
    rates, errors = counts.rates(constraint), counts.standard_errors(constraint)
    for event in range(constraint.n_events):
        utility = np.sum(shares * constraint.utilities[event, kind], axis=1)
        for g in (0, 1):
            cell = (constraint.members[event, kind] > 0) & (group == g)
            w, u = weight[cell] / weight[cell].sum(), utility[cell]
            assert_allclose(rates[event, g], w @ u)
            assert_allclose(errors[event, g], np.sqrt(w**2 @ (u - w @ u) ** 2), rtol=0.02)
