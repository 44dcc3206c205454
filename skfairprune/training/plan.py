"""The plan of a fit: which phases run, for how many epochs, and which of them carry the constraint."""

from typing import NamedTuple

__all__ = ["CONSTRAIN", "LOTTERY_ROUNDS", "ORDERS", "Plan", "make_plan"]

#: In which order pruning and the constraint come.
ORDERS = ("joint", "prune_then_fair", "fair_then_prune")
#: Which levels of the joint order carry the constraint.
CONSTRAIN = ("both", "weights", "gates")

#: The rounds of the lottery, each of an epoch or more.
LOTTERY_ROUNDS = 3

# Shares of the epochs. What a criterion does not need goes to the fine-tuning.
_DENSE, _LOTTERY = 0.25, 0.5
# Gates of single weights are many, and no refit makes up for a poor choice (docs/design_notes.md).
_BILEVEL = {"unit": 0.1, "weight": 0.3}


class Plan(NamedTuple):
    """The epochs of the phases, and which of them carry the constraint.

    Attributes
    ----------
    dense : int
        Epochs of the dense network; of the lottery's rounds together.
    bilevel : int
        Epochs of gates and weights in turns.
    fine_tune : int
        Epochs of the small network.
    repair : int
        Epochs of the small network under the constraint, after a fine-tuning without it.
    constrained : frozenset of str
        Out of "dense", "gates", "weights" (both of the bilevel phase), "fine-tune" and "repair".
    """

    dense: int
    bilevel: int
    fine_tune: int
    repair: int
    constrained: frozenset[str]

    @property
    def n_epochs(self) -> int:
        """All epochs."""
        return self.dense + self.bilevel + self.fine_tune + self.repair


def make_plan(
    max_epochs: int,
    criterion: str,
    order: str,
    constrain: str | None,
    granularity: str = "unit",
    prunes: bool = True,
) -> Plan:
    """Share the epochs among the phases that are needed, each getting at least one.

    Parameters
    ----------
    max_epochs : int
        The epochs of all phases together: at least 3, one more for "prune_then_fair", and for a
        "lottery" that prunes.
    criterion : str
        What chooses the units: "bilevel", "lottery", "snip" (before any training), or a score of the
        dense network's units.
    order : {"joint", "prune_then_fair", "fair_then_prune"}
        In the joint order the levels named by ``constrain`` carry the constraint. Otherwise one phase does:
        a last one on the small network, or the dense one.
    constrain : {"both", "weights", "gates"} or None
        Not used in the other orders.
    granularity : {"unit", "weight"}, default="unit"
        What the gates of "bilevel" are on.
    prunes : bool, default=True
        Whether there is anything to prune; phases that choose what stays are left out without.

    Raises
    ------
    ValueError
        If there are fewer epochs than that.

    Examples
    --------
    >>> from skfairprune.training.plan import make_plan
    >>> make_plan(20, "bilevel", "joint", "both")[:4]
    (5, 2, 13, 0)
    >>> sorted(make_plan(20, "magnitude", "prune_then_fair", "both").constrained)
    ['repair']
    """
    least = 3 + (order == "prune_then_fair") + (criterion == "lottery" and prunes)
    if max_epochs < least:
        raise ValueError(
            f"order={order!r} with criterion={criterion!r} needs max_epochs >= {least}, one epoch for each "
            f"phase. Got {max_epochs} instead."
        )
    dense = max(1, int(_DENSE * max_epochs))
    if criterion == "lottery":
        dense = max(LOTTERY_ROUNDS, int(_LOTTERY * max_epochs))
    if criterion == "snip" or (criterion == "lottery" and not prunes):
        dense = 0
    bilevel = 0
    if criterion == "bilevel" and prunes:
        bilevel = max(1, round(_BILEVEL[granularity] * max_epochs + 1e-9))
    rest = max_epochs - dense - bilevel
    repair = rest // 2 if order == "prune_then_fair" else 0
    if order == "prune_then_fair":
        constrained = {"repair"}
    elif order == "fair_then_prune":
        constrained = {"dense"}
    else:
        constrained = {"gates"} if constrain in ("both", "gates") else set()
        constrained |= {"weights", "fine-tune"} if constrain in ("both", "weights") else set()
    return Plan(dense, bilevel, rest - repair, repair, frozenset(constrained))
