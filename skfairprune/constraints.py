"""Group-fairness constraints: kinds of rows, events and utilities, and the rates, gaps and costs they give.

A constraint tells rows apart by their *kind* :math:`k`: their label, or their label and stratum. Every
constraint here is linear in the decision: an event :math:`e` is a set of kinds, and a decision :math:`d` has
the utility :math:`U_e(k, d)` there. The rate of the cell (event, group) is the mean utility of its rows,

.. math:: r_{e,g} = E[U_e(k, h(x)) \\mid k \\in e,\\ group = g],

the gap of an event is the largest minus the smallest rate over the groups, and the gap of the constraint
is the largest over the events (as fairlearn's ``*_difference`` metrics with ``method="between_groups"``).
Nothing about a row but its kind, group and decision matters, so a constraint is three small tables, and all
rates follow from the weighted counts of the rows by (kind, group, decision).

Degradation parity (Dai et al., "Integrating Fairness and Model Pruning Through Bi-level Optimization",
Def. 3) compares what pruning cost each group in accuracy. Its kinds also know what the dense network decided;
that is a constant in the decision, so kinds that differ in it alone need not be told apart by a network.
They share one *head class*: what the joint head predicts is (head class, group).

The utilities of binary decisions are those of Agarwal et al., "A Reductions Approach to Fair
Classification" (2018), as in :mod:`fairlearn.reductions`; the bound is on max − min, not on the deviation
from the mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["CONSTRAINTS", "Constraint", "get_constraint"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Constraint:
    """A group-fairness constraint on decisions among two or more classes.

    Parameters
    ----------
    name : str
        The name in fairlearn's vocabulary.
    events : tuple of str
        The names of the events.
    labels : ndarray of shape (n_kinds,) of int
        The label code of each kind of row.
    members : ndarray of shape (n_events, n_kinds)
        1 where rows of a kind belong to an event, else 0.
    utilities : ndarray of shape (n_events, n_kinds, n_decisions)
        :math:`U_e(k, d)`, the utility of each decision.
    n_strata : int, default=1
        The strata that the kinds tell apart: kinds are grouped by stratum.
    n_dense : int, default=1
        The decisions of the dense network that the kinds tell apart; 1 where it does not matter. Each head
        class has so many kinds, one after the other in the order of that decision. They belong to the same
        events, and their utilities differ by a constant in the decision.
    """

    name: str
    events: tuple[str, ...]
    labels: NDArray[np.intp]
    members: Floats
    utilities: Floats
    n_strata: int = 1
    n_dense: int = 1

    @property
    def n_events(self) -> int:
        """The number of events."""
        return len(self.events)

    @property
    def n_kinds(self) -> int:
        """The number of kinds of rows."""
        return len(self.labels)

    @property
    def head_labels(self) -> NDArray[np.intp]:
        """The label code of each head class, of shape (n_head_classes,)."""
        return self.labels[:: self.n_dense]

    @property
    def n_decisions(self) -> int:
        """The number of decisions: the classes."""
        return self.utilities.shape[2]

    @property
    def prices_errors(self) -> bool:
        """Whether, within an event, what a decision is priced at depends on the label, as for error rates."""
        steps = self.utilities - self.utilities[:, :, :1]
        events = zip(self.members > 0, steps, strict=True)
        return any(bool(np.ptp(step[inside], axis=0).any()) for inside, step in events if inside.any())

    def cell_sums(self, table: ArrayLike) -> Floats:
        """Sum a table by kind over the kinds of each event.

        Parameters
        ----------
        table : array-like of shape (n_kinds, n_groups)
            One number per (kind, group), for instance weighted counts.

        Returns
        -------
        ndarray of shape (n_events, n_groups)
        """
        return self.members @ np.asarray(table, dtype=np.float64)

    def rates(self, counts: ArrayLike) -> Floats:
        """Compute the rate of each cell from counts.

        Parameters
        ----------
        counts : array-like of shape (n_kinds, n_groups, n_decisions)
            The weight of the rows, by kind, group and decision (or the sum of soft decisions).

        Returns
        -------
        ndarray of shape (n_events, n_groups)
            Mean utilities; NaN in a cell without weight.
        """
        counts = np.asarray(counts, dtype=np.float64)
        utility = np.einsum("ek,ekd,kgd->eg", self.members, self.utilities, counts)
        weight = self.cell_sums(counts.sum(axis=2))
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(weight > 0, utility / weight, np.nan)

    def costs(self, multipliers: ArrayLike, cell_weights: ArrayLike) -> Floats:
        r"""Compute what each decision costs under given multipliers.

        The Lagrangian's constraint term :math:`\sum_{e,g} \lambda_{e,g} r_{e,g}` is, up to a constant, the
        mean over the rows of :math:`V_{k,g,h(x)}` with

        .. math:: V_{k,g,d} = \sum_{e \ni k} U_e(k, d)\, \lambda_{e,g} / P(e, g)

        for a kind :math:`k` of the row's head class.

        Parameters
        ----------
        multipliers : array-like of shape (..., n_events, n_groups)
            Any real numbers. Those of cells without weight do not count.
        cell_weights : array-like of shape (n_events, n_groups)
            :math:`P(e, g)`, the share of all rows that lie in the cell, in [0, 1].

        Returns
        -------
        ndarray of shape (..., n_head_classes, n_groups, n_decisions)
            :math:`V_{k,g,d}`, in units of accuracy.
        """
        multipliers = np.asarray(multipliers, dtype=np.float64)
        cell_weights = np.broadcast_to(np.asarray(cell_weights, dtype=np.float64), multipliers.shape)
        price = np.divide(multipliers, cell_weights, out=np.zeros_like(multipliers), where=cell_weights > 0)
        members, utilities = self.members[:, :: self.n_dense], self.utilities[:, :: self.n_dense]
        return np.einsum("ekd,...eg->...kgd", members[:, :, None] * utilities, price)

    def kinds(self, label: NDArray[np.intp], stratum: NDArray[np.intp] | None = None) -> NDArray[np.intp]:
        """Return the kinds of rows.

        Parameters
        ----------
        label : ndarray of shape (n_samples,)
            Label codes.
        stratum : ndarray of shape (n_samples,), default=None
            Stratum codes; None without strata.

        Returns
        -------
        ndarray of shape (n_samples,)
            Kinds in [0, n_kinds), as if the dense network always decided right;
            :meth:`with_dense_decisions` says what it did.
        """
        kind = label * self.n_dense + (label if self.n_dense > 1 else 0)
        return kind if stratum is None else stratum * (self.n_kinds // self.n_strata) + kind

    def with_dense_decisions(self, kind: NDArray[np.intp], decision: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the kinds of rows given what the dense network decided on them.

        Parameters
        ----------
        kind : ndarray of shape (n_samples,)
            Kinds, whatever they say of the dense network.
        decision : ndarray of shape (n_samples,)
            Its decisions.
        """
        return kind if self.n_dense == 1 else kind - kind % self.n_dense + decision

    def stratified(self, strata: Sequence[Any]) -> "Constraint":
        """Return the constraint within strata: its gap is the largest over them.

        Parameters
        ----------
        strata : sequence
            The labels of the strata, for the events' names. A row of kind k in stratum number s has the
            kind ``s * n_kinds + k`` of the new constraint, whose events are those of every stratum in turn.

        Returns
        -------
        Constraint
        """
        n = len(strata)
        utilities = np.zeros((n, self.n_events, n, self.n_kinds, self.n_decisions))
        for s in range(n):
            utilities[s, :, s] = self.utilities
        return Constraint(
            self.name,
            tuple(f"{event} | {stratum!r}" for stratum in strata for event in self.events),
            np.tile(self.labels, n),
            np.kron(np.eye(n), self.members).astype(np.float64),
            utilities.reshape(n * self.n_events, n * self.n_kinds, self.n_decisions),
            n,
            self.n_dense,
        )


def _one_decision(name: str, events: dict[str, tuple[int, int]]) -> Constraint:
    """Return a binary constraint on the rate of positive decisions in events of labels."""
    members = np.array(list(events.values()), dtype=np.float64)
    utilities = np.broadcast_to([0.0, 1.0], (len(events), 2, 2))
    return Constraint(name, tuple(events), np.arange(2), members, utilities)


def _demographic_parity(classes: Sequence[Any]) -> Constraint:
    n = len(classes)
    if n == 2:
        return _one_decision("demographic_parity", {"all": (1, 1)})
    events = tuple(f"decision {c!r}" for c in classes)
    utilities = np.repeat(np.eye(n)[:, None, :], n, axis=1)
    return Constraint("demographic_parity", events, np.arange(n), np.ones((n, n)), utilities)


def _equalized_odds(classes: Sequence[Any]) -> Constraint:
    n = len(classes)
    if n == 2:
        return _one_decision("equalized_odds", {"y=0": (1, 0), "y=1": (0, 1)})
    events = tuple(f"y{sign}{c!r}" for c in classes for sign in ("!=", "="))
    own = np.eye(n)
    members = np.stack([1 - own, own], axis=1).reshape(-1, n)
    utilities = np.repeat(own, 2, axis=0)[:, None, :].repeat(n, axis=1)
    return Constraint("equalized_odds", events, np.arange(n), members, utilities)


def _error_rate_parity(classes: Sequence[Any]) -> Constraint:
    n = len(classes)
    return Constraint("error_rate_parity", ("all",), np.arange(n), np.ones((1, n)), 1 - np.eye(n)[None])


def _degradation_parity(classes: Sequence[Any]) -> Constraint:
    n = len(classes)
    wrong = 1 - np.eye(n)
    # By label, the dense network's decision and the decision: the errors that it adds to the dense one's.
    utilities = (wrong[:, None, :] - wrong[:, :, None]).reshape(1, n * n, n)
    labels = np.repeat(np.arange(n), n)
    return Constraint("degradation_parity", ("all",), labels, np.ones((1, n * n)), utilities, n_dense=n)


def _binary_only(name: str, events: dict[str, tuple[int, int]]) -> Callable[[Sequence[Any]], Constraint]:
    def build(classes: Sequence[Any]) -> Constraint:
        if len(classes) != 2:
            raise ValueError(
                f"{name} is for two classes, and y has {len(classes)}. Choose equalized_odds (one class "
                "against the rest), demographic_parity, error_rate_parity, or constraint=None."
            )
        return _one_decision(name, events)

    return build


#: The constraints by name: functions of the classes.
CONSTRAINTS: dict[str, Callable[[Sequence[Any]], Constraint]] = {
    "demographic_parity": _demographic_parity,
    "equalized_odds": _equalized_odds,
    "true_positive_rate_parity": _binary_only("true_positive_rate_parity", {"y=1": (0, 1)}),
    "false_positive_rate_parity": _binary_only("false_positive_rate_parity", {"y=0": (1, 0)}),
    "error_rate_parity": _error_rate_parity,
    "degradation_parity": _degradation_parity,
}


def get_constraint(name: str, n_classes: int = 2, classes: Sequence[Any] | None = None) -> Constraint:
    """Return the constraint of that name.

    With more than two classes demographic parity and equalized odds are one-vs-rest: the rate of every
    decision is compared between groups, over all rows, or over the rows of its class and over the
    others.

    Parameters
    ----------
    name : str
        One of the keys of ``CONSTRAINTS``.
    n_classes : int, default=2
        The number of classes.
    classes : sequence of length n_classes, default=None
        The class labels in the order of their codes, for the names of multi-class events; None names them
        by their codes. Binary events are always "all", "y=0" and "y=1".

    Raises
    ------
    ValueError
        If there is none of that name, or it is for two classes and there are more.

    Examples
    --------
    >>> from skfairprune.constraints import get_constraint
    >>> get_constraint("equalized_odds").events
    ('y=0', 'y=1')
    >>> get_constraint("demographic_parity", 3, ["low", "mid", "high"]).events
    ("decision 'low'", "decision 'mid'", "decision 'high'")
    """
    if name not in CONSTRAINTS:
        raise ValueError(f"Unknown constraint {name!r}; choose one of {', '.join(CONSTRAINTS)}.")
    return CONSTRAINTS[name](range(n_classes) if classes is None else classes)
