"""Which cells (event, group) a constraint covers: those with enough samples to speak of a rate."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skfairprune.constraints import Constraint

__all__ = ["Cells", "cover_cells", "require_held_out_cells"]

_SHOWN = 10  # cells that a message names


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


def cover_cells(
    constraint: Constraint,
    y: NDArray[np.intp],
    group: NDArray[np.intp],
    labels: Sequence[Any],
    min_cell_size: int,
) -> Cells:
    """Leave out cells with fewer than ``min_cell_size`` samples, with one warning that names them.

    Parameters
    ----------
    constraint : Constraint
        The constraint.
    y : ndarray of shape (n_samples,)
        Labels, 0 or 1.
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
        If an event has fewer than two groups left.
    """
    counts = np.bincount(y * len(labels) + group, minlength=2 * len(labels)).reshape(2, -1)
    sizes = constraint.cell_sums(counts).astype(int)
    included = sizes >= min_cell_size

    def name(event: int, code: int) -> str:
        where = "" if constraint.events == ("all",) else f"({constraint.events[event]}) "
        return f"{where}{labels[code]!r} with {sizes[event, code]}"

    small = [name(e, g) for e, g in np.argwhere(~included)]
    for event, row in enumerate(included):
        if row.sum() < 2:
            raise ValueError(
                f"{constraint.name} compares groups, but in the event "
                f"{constraint.events[event]!r} only {row.sum()} of the {len(labels)} groups in "
                f"sensitive_features has at least min_cell_size={min_cell_size} samples"
                + (f"; too small: {_list(small)}" if small else f"; the only one is {labels[0]!r}")
                + ". Give at least two groups, merge small ones, lower min_cell_size, or pass "
                "constraint=None."
            )
    if small:
        warnings.warn(
            f"{len(small)} cell(s) have fewer than min_cell_size={min_cell_size} samples and are left "
            f"out of {constraint.name}: {_list(small)}. The bound says nothing about them.",
            UserWarning,
            stacklevel=5,
        )
    covered: NDArray[np.bool_] = np.logical_or.reduce(included, axis=0)
    if covered.all():
        return Cells(np.arange(len(labels)), included, list(labels))
    recode = np.where(covered, np.cumsum(covered) - 1, covered.sum())
    pooled = np.zeros((len(included), 1), dtype=bool)
    kept = [label for label, stays in zip(labels, covered, strict=True) if stays]
    return Cells(recode, np.hstack([included[:, covered], pooled]), kept)


def require_held_out_cells(
    constraint: Constraint,
    y: NDArray[np.intp],
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
    y, group : ndarray of shape (n_samples,)
        Labels and group codes of the held-out rows.
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
    n_groups = included.shape[1]
    counts = np.bincount(y * n_groups + group, minlength=2 * n_groups).reshape(2, -1)
    empty = included & (constraint.cell_sums(counts) == 0)
    if empty.any():
        event, code = np.argwhere(empty)[0]
        raise ValueError(
            f"{source} has {len(y)} rows, and none in the event {constraint.events[event]!r} of the group "
            f"{labels[code]!r}, on which {constraint.name} is to be measured. Hold out more rows, or leave "
            "the group out of the constraint with a larger min_cell_size."
        )
