import numpy as np
import pytest

from skfairprune.training.plan import CONSTRAIN, LOTTERY_ROUNDS, ORDERS, make_plan

CRITERIA = ["bilevel", "lottery", "snip", "magnitude"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("max_epochs", [*range(3, 40), 200])
def test_every_phase_that_runs_gets_epochs_and_none_is_lost(max_epochs, criterion, order):
    least = 3 + (order == "prune_then_fair") + (criterion == "lottery")
    if max_epochs < least:
        with pytest.raises(ValueError, match=f"needs max_epochs >= {least}.* Got {max_epochs} instead"):
            make_plan(max_epochs, criterion, order, "both")
        return
    plan = make_plan(max_epochs, criterion, order, "both")
    assert all(type(n) is int for n in plan[:4])
    assert sum(plan[:4]) == plan.n_epochs == max_epochs
    assert (plan.dense > 0) == (criterion != "snip")
    assert criterion != "lottery" or plan.dense >= LOTTERY_ROUNDS
    assert (plan.bilevel > 0) == (criterion == "bilevel")
    assert plan.fine_tune > 0
    assert (plan.repair > 0) == (order == "prune_then_fair")


def test_shares_are_a_quarter_a_tenth_and_the_rest():
    for max_epochs in range(20, 201):
        plan = make_plan(max_epochs, "bilevel", "joint", "both")
        assert abs(plan.dense - 0.25 * max_epochs) <= 1
        assert abs(plan.bilevel - 0.1 * max_epochs) <= 0.5 + 1e-9
    assert make_plan(100, "bilevel", "joint", "both")[:4] == (25, 10, 65, 0)
    assert make_plan(100, "magnitude", "joint", "both")[:4] == (25, 0, 75, 0)
    assert make_plan(100, "snip", "joint", "both")[:4] == (0, 0, 100, 0)
    assert make_plan(100, "lottery", "joint", "both")[:4] == (50, 0, 50, 0)


def test_no_phase_shrinks_with_more_epochs():
    shares = np.array([make_plan(n, "bilevel", "joint", "both")[:2] for n in range(3, 201)])
    assert np.all(np.diff(shares, axis=0) >= 0)


def test_the_constraint_is_where_the_ablation_says():
    found = {constrain: make_plan(20, "bilevel", "joint", constrain).constrained for constrain in CONSTRAIN}
    assert found == {
        "both": {"gates", "weights", "fine-tune"},
        "weights": {"weights", "fine-tune"},
        "gates": {"gates"},
    }
    assert make_plan(20, "bilevel", "joint", None).constrained == set()
    assert make_plan(20, "bilevel", "prune_then_fair", "both").constrained == {"repair"}
    assert make_plan(20, "bilevel", "fair_then_prune", "both").constrained == {"dense"}


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("granularity", ["unit", "weight"])
def test_without_anything_to_prune_all_epochs_train_weights(criterion, granularity):
    assert make_plan(3, criterion, "joint", "both", granularity, prunes=False).n_epochs == 3
    plan = make_plan(20, criterion, "joint", "both", granularity, prunes=False)
    assert plan.bilevel == 0
    assert plan.n_epochs == 20
    assert plan.fine_tune >= 15
