"""Rows counted by event, group and stratum: what the metrics read their rates and gaps from."""

from collections.abc import Hashable, Iterable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import _check_sample_weight

from skfairprune._labels import GroupCodes, encode_labels, encode_sensitive
from skfairprune.constraints import Constraint, Floats, get_constraint
from skfairprune.gaps import GroupCounts

__all__ = ["GapWithError", "Measured", "check_size", "encode", "measure", "resolve"]


class GapWithError(NamedTuple):
    """A gap with its sampling error and the two groups between which it lies.

    Attributes
    ----------
    value : float
        Largest minus smallest rate, in [0, 1]; NaN if undefined.
    standard_error : float
        Sampling standard error of ``value``; NaN if undefined.
    event : str or None
        The event with the largest gap: "all", "y=0" (negatives) or "y=1" (positives); with more
        than two classes as in :func:`skfairprune.metrics.group_rates`.
    lowest : group label or None
        The group with the smallest rate in that event.
    highest : group label or None
        The group with the largest rate in that event.
    stratum : stratum label or None
        The stratum with the largest gap; None without control features.
    """

    value: float
    standard_error: float
    event: str | None
    lowest: Hashable
    highest: Hashable
    stratum: Hashable = None


def check_size(min_cell_size: Any) -> int:
    """Return the least number of rows of a cell."""
    if isinstance(min_cell_size, bool) or not isinstance(min_cell_size, Integral) or min_cell_size < 1:
        raise ValueError(f"min_cell_size must be an integer of at least 1; got {min_cell_size!r}.")
    return int(min_cell_size)


def resolve(constraint: str, classes: Sequence[Any] = (0, 1)) -> Constraint:
    """Return a constraint on the decisions of one classifier."""
    if constraint == "degradation_parity":
        raise ValueError(
            "degradation_parity needs the decisions of the dense network, too; call "
            "skfairprune.metrics.degradation_gap."
        )
    return get_constraint(constraint, len(classes), classes)


def encode(
    constraint: str,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    pos_label: Hashable,
    classes: Iterable[Hashable] = (),
    symmetric: bool = False,
) -> tuple[Constraint, NDArray[np.intp], NDArray[np.intp]]:
    """Return the constraint on the classes that occur, and labels and decisions as their codes."""
    y, decision, labels = encode_labels(y_true, y_pred, pos_label, classes, symmetric)
    return resolve(constraint, labels), y, decision


class Measured(NamedTuple):
    """Rows counted by stratum, and the labels of the codes.

    Attributes
    ----------
    constraint : Constraint
        The constraint within a stratum.
    counts : list of GroupCounts
        The weighted counts in each stratum.
    n_rows, n_weighted : ndarray of shape (n_strata, n_kinds, n_groups)
        The numbers of rows, and of those that have weight.
    groups : GroupCodes
        The groups.
    strata : GroupCodes or None
        The strata.
    """

    constraint: Constraint
    counts: list[GroupCounts]
    n_rows: Floats
    n_weighted: Floats
    groups: GroupCodes
    strata: GroupCodes | None

    def gap(self, min_cell_size: int = 1) -> GapWithError:
        """Return the largest gap between cells of at least so many rows, and the labels of where it lies."""
        gaps = [
            counts.gap(self.constraint, self.constraint.cell_sums(rows) >= min_cell_size)
            for counts, rows in zip(self.counts, self.n_weighted, strict=True)
        ]
        stratum = int(np.argmax([np.nan_to_num(gap.value, nan=-1.0) for gap in gaps]))
        found = gaps[stratum]
        if found.event < 0:
            return GapWithError(found.value, found.standard_error, None, None, None)
        return GapWithError(
            found.value,
            found.standard_error,
            self.constraint.events[found.event],
            self.groups.labels[found.lowest],
            self.groups.labels[found.highest],
            None if self.strata is None else self.strata.labels[stratum],
        )

    def frame(self, **columns: list[NDArray]) -> pd.DataFrame:
        """Tabulate the cells, one row for each event, stratum and group.

        Parameters
        ----------
        **columns : list of n_strata arrays of shape (n_events, n_groups)
            The values.

        Returns
        -------
        DataFrame
            Its index has a level for the event, for each control feature and for each sensitive one, named
            as they are. Events are in sorted order: pandas warns of an index that is not sorted.
        """
        keys, names = _column_labels(self.groups, "sensitive_feature")
        strata: list[tuple[Hashable, ...]] = [()]
        if self.strata is not None:
            strata, stratum_names = _column_labels(self.strata, "control_feature")
            names = [*stratum_names, *names]
        events = self.constraint.events
        order = np.argsort(events)
        # from stratum, event, group to event, stratum, group
        values = {name: np.stack(tables)[:, order].swapaxes(0, 1).ravel() for name, tables in columns.items()}
        index = [(events[e], *stratum, *key) for e in order for stratum in strata for key in keys]
        return pd.DataFrame(values, index=pd.MultiIndex.from_tuples(index, names=["event", *names]))


def measure(
    constraint: Constraint,
    y: NDArray[np.intp],
    decision: NDArray[np.intp],
    sensitive_features: Any,
    control_features: Any,
    sample_weight: ArrayLike | None,
    dense: NDArray[np.intp] | None = None,
) -> Measured:
    """Count the rows by group, within the strata that control features form."""
    groups, strata = encode_sensitive(sensitive_features, len(y)), None
    kind = constraint.kinds(y)
    if dense is not None:
        kind = constraint.with_dense_decisions(kind, dense)
    n_kinds, n_strata = constraint.n_kinds, 1
    if control_features is not None:
        strata = encode_sensitive(control_features, len(y), "control_features")
        kind, n_strata = kind + n_kinds * strata.codes, len(strata.labels)
    shape = (n_strata * n_kinds, len(groups.labels), constraint.n_decisions)
    counts = unweighted = weighted = GroupCounts.from_rows(kind, decision, groups.codes, shape)
    if sample_weight is not None:
        weight = _check_sample_weight(
            sample_weight, y, dtype=np.float64, ensure_non_negative=True, allow_all_zero_weights=True
        )
        weight = weight / (weight.max() or 1.0)  # squares of huge or tiny ones are no numbers
        counts = GroupCounts.from_rows(kind, decision, groups.codes, shape, weight)
        weighted = GroupCounts.from_rows(kind, decision, groups.codes, shape, weight > 0)
    each = (n_strata, n_kinds, *shape[1:])
    by_stratum = [
        GroupCounts(*part)
        for part in zip(counts.counts.reshape(each), counts.squares.reshape(each), strict=True)
    ]
    rows = [table.counts.reshape(each).sum(axis=3) for table in (unweighted, weighted)]
    return Measured(constraint, by_stratum, rows[0], rows[1], groups, strata)


def _column_labels(encoded: GroupCodes, prefix: str) -> tuple[list[tuple[Hashable, ...]], list[Hashable]]:
    """Return labels as tuples, one value for each column, and the columns' names."""
    keys = [label if isinstance(label, tuple) else (label,) for label in encoded.labels]
    return keys, list(encoded.names or (f"{prefix}_{position}" for position in range(len(keys[0]))))
