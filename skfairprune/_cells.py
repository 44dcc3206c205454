"""Which cells (event, group) a constraint covers: those with enough samples to speak of a rate."""

import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skfairprune.constraints import Constraint

__all__ = ["Cells", "cover_cells", "require_held_out_cells"]

_SHOWN = 10  # cells that a message names
_MANY = 20  # groups that are numbers: values that were not made to be groups
_NUMBERS = (
    f"A column of sensitive_features has more than {_MANY} different numbers, each a group of its own. Ages "
    "and the like need bands, such as pandas.cut makes; codes can be passed as strings."
)


class Cells(NamedTuple):
    """The groups as the network is to learn them, and the cells under the constraint.

    Attributes
    ----------
    recode : ndarray of shape (n_labels,)
        The new code of each group. The groups without any covered cell share the last one.
    included : ndarray of shape (n_events, n_groups) of bool
        The covered cells.
    labels : list
        The groups with a covered cell, in the order of their codes.
    """

    recode: NDArray[np.intp]
    included: NDArray[np.bool_]
    labels: list[Any]


def _list(cells: list[str]) -> str:
    shown = ", ".join(cells[:_SHOWN])
    return shown if len(cells) <= _SHOWN else f"{shown} and {len(cells) - _SHOWN} more"


def _sizes(
    constraint: Constraint, kind: NDArray[np.intp], group: NDArray[np.intp], n_groups: int
) -> NDArray[np.intp]:
    """Return the number of samples in each cell, of shape (n_events, n_groups)."""
    n_cells = constraint.n_kinds * n_groups
    counts = np.bincount(kind * n_groups + group, minlength=n_cells).reshape(-1, n_groups)
    return constraint.cell_sums(counts).astype(np.intp)


def cover_cells(
    constraint: Constraint,
    kind: NDArray[np.intp],
    group: NDArray[np.intp],
    labels: Sequence[Any],
    min_cell_size: int,
) -> Cells:
    """Leave out cells with fewer than ``min_cell_size`` samples, with one warning that names them.

    Within strata, an event in which fewer than two groups are left leaves the constraint too.

    Parameters
    ----------
    constraint : Constraint
        The constraint.
    kind : ndarray of shape (n_samples,)
        Kinds, see :meth:`Constraint.kinds`.
    group : ndarray of shape (n_samples,)
        Group codes.
    labels : sequence
        The groups' labels.
    min_cell_size : int
        The least number of samples.

    Returns
    -------
    Cells

    Raises
    ------
    ValueError
        If an event has fewer than two groups left; with strata, if every event has.
    """
    sizes = _sizes(constraint, kind, group, len(labels))
    large = sizes >= min_cell_size
    compared = large.sum(axis=1) >= 2
    included = large & compared[:, None]
    # Events of the same rows (decisions one vs. rest) have the same cells: they are named once.
    _, first = np.unique(constraint.members, axis=0, return_index=True)

    def name(event: int, code: int) -> str:
        of_all = constraint.n_strata == 1 and constraint.members[event].all()
        where = "" if of_all else f"({constraint.events[event]}) "
        return f"{where}{labels[code]!r} with {sizes[event, code]}"

    small = [name(e, g) for e, g in np.argwhere(~large) if e in first]
    if not (compared.any() if constraint.n_strata > 1 else compared.all()):
        event = int(np.argmin(compared))
        where = f"in the event {constraint.events[event]!r} only {large[event].sum()}"
        if constraint.n_strata > 1:
            where = "in every stratum at most 1"
        raise ValueError(
            f"{constraint.name} compares groups, but {where} of the {len(labels)} groups in "
            f"sensitive_features has at least min_cell_size={min_cell_size} samples"
            + (f"; too small: {_list(small)}" if small else f"; the only one is {labels[0]!r}")
            + ". Give at least two groups, merge small ones, lower min_cell_size, or pass "
            "constraint=None."
        )
    alone = [repr(constraint.events[e]) for e in np.flatnonzero(~compared) if e in first]
    dropped = (
        f" The events {_list(alone)} have fewer than two groups left, and leave it whole." if alone else ""
    )
    told = [_NUMBERS] if _has_numbers(labels) else []
    if small:
        told.insert(
            0,
            f"{len(small)} cell(s) have fewer than min_cell_size={min_cell_size} samples and are left "
            f"out of {constraint.name}: {_list(small)}.{dropped} The bound says nothing about them.",
        )
    if told:
        warnings.warn(" ".join(told), UserWarning, stacklevel=6)
    covered: NDArray[np.bool_] = np.logical_or.reduce(included, axis=0)
    if covered.all():
        return Cells(np.arange(len(labels)), included, list(labels))
    recode = np.where(covered, np.cumsum(covered) - 1, covered.sum())
    pooled = np.zeros((len(included), 1), dtype=bool)
    kept = [label for label, stays in zip(labels, covered, strict=True) if stays]
    return Cells(recode, np.hstack([included[:, covered], pooled]), kept)


def _has_numbers(labels: Sequence[Any]) -> bool:
    """Tell whether some column of the groups looks like measured numbers."""
    rows = [label if isinstance(label, tuple) else (label,) for label in labels]
    columns = [set(column) for column in zip(*rows, strict=True)]
    return any(len(column) > _MANY and all(isinstance(v, Real) for v in column) for column in columns)


def require_held_out_cells(
    constraint: Constraint,
    kind: NDArray[np.intp],
    group: NDArray[np.intp],
    included: NDArray[np.bool_],
    labels: Sequence[Any],
    source: str,
) -> None:
    """Refuse held-out rows in which a covered cell has no sample.

    Parameters
    ----------
    constraint : Constraint
        The constraint.
    kind, group : ndarray of shape (n_samples,)
        Kinds and group codes of the held-out rows.
    included : ndarray of shape (n_events, n_groups) of bool
        The covered cells.
    labels : sequence
        The groups' labels.
    source : str
        What the held-out rows come from, for the message.

    Raises
    ------
    ValueError
        If there is such a cell.
    """
    empty = included & (_sizes(constraint, kind, group, included.shape[1]) == 0)
    if empty.any():
        event, code = np.argwhere(empty)[0]
        raise ValueError(
            f"{source} has {len(kind)} rows, and none in the event {constraint.events[event]!r} of the group "
            f"{labels[code]!r}, on which {constraint.name} is to be measured. Hold out more rows, or leave "
            "the group out of the constraint with a larger min_cell_size."
        )
