"""From checked data and parameters to what a fit starts from: targets, shares of the rows, knots."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from fairlearn.reductions import UtilityParity
from numpy.typing import NDArray
from sklearn.utils import compute_class_weight

from skfairprune._cells import cover_cells, require_held_out_cells
from skfairprune._data import FitData
from skfairprune._labels import encode_classes
from skfairprune.constraints import get_constraint
from skfairprune.modules import find_knots
from skfairprune.moments import take_over
from skfairprune.training.fairtask import FairTask
from skfairprune.training.splits import LevelSplit, split_levels

__all__ = [
    "Targets",
    "check_n_inputs",
    "choose_knots",
    "encode_targets",
    "output_weights",
    "resolve_device",
    "resolve_dtype",
    "resolve_lengths",
    "share_rows",
]

_N_FOLDS = 2
_UPDATES = 1000  # of the weights, that max_epochs="auto" makes at least
_MOST_INPUTS = 10_000  # their Gram matrix: time grows with the cube, minutes here
_KNOT_ROWS = 200_000  # quantiles of more rows cost time and move no knot


class Targets(NamedTuple):
    """What the network learns.

    Attributes
    ----------
    joint : ndarray of shape (n_total,)
        The joint class (label, or label and stratum; group) of each row.
    n_joint : int
        Their number: the network's outputs.
    weight : ndarray of shape (n_total,)
        Loss weights, class weights included.
    order : ndarray of shape (n_classes,)
        The label code of each class.
    task : FairTask or None
        The constraint on these rows.
    group_labels : list or None
        The labels of the groups under it.
    group_codes : dict
        The code of every group that was seen.
    """

    joint: NDArray[np.intp]
    n_joint: int
    weight: NDArray[np.float64]
    order: NDArray[np.intp]
    task: FairTask | None
    group_labels: list[Any] | None
    group_codes: dict[Hashable, int]


def encode_targets(
    data: FitData,
    rows: FitData,
    classes: NDArray,
    constraint: str | UtilityParity | None,
    *,
    feature_names: Sequence[str] | None,
    bound: float,
    with_rule: bool,
    min_cell_size: int,
    pos_label: Any,
    class_weight: dict | str | None,
) -> Targets:
    """Encode labels and groups as the joint classes that the network learns.

    Parameters
    ----------
    data, rows : FitData
        The training rows; the same with held-out rows behind them.
    classes : ndarray of shape (n_classes,)
        The sorted classes.
    constraint : str, UtilityParity or None
        The constraint's name, or a moment to take over.
    feature_names : sequence of str or None
        The columns' names, for a moment.
    bound, with_rule, min_cell_size, pos_label, class_weight
        As in :class:`skfairprune.FairPrunedClassifier`.
    """
    codes, order = encode_classes(rows.y, classes, pos_label)
    by_code = _class_weights(class_weight, data, classes)[np.argsort(order)]
    weight = rows.weight * by_code[codes]
    if constraint is None or data.group is None or rows.group is None:
        return Targets(codes, len(classes), weight, order, None, None, {})
    if isinstance(constraint, UtilityParity):
        terms, kind = take_over(
            constraint,
            rows.X,
            codes,
            rows.group,
            rows.group_labels,
            stratum=rows.stratum,
            stratum_labels=rows.stratum_labels,
            feature_names=feature_names,
        )
    else:
        terms = get_constraint(constraint, len(classes), classes[np.argsort(order)].tolist())
        if rows.stratum is not None:
            terms = terms.stratified(rows.stratum_labels)
        kind = terms.kinds(codes, rows.stratum)
    n_train = len(data.y)
    cells = cover_cells(terms, kind[:n_train], data.group, data.group_labels, min_cell_size)
    group = cells.recode[rows.group]
    included, bound = cells.included, float(bound)
    task = FairTask(terms, included, bound, kind, group, rows.weight, by_code, with_rule)
    group_codes = dict(zip(data.group_labels, cells.recode.tolist(), strict=True))
    return Targets(task.joint, task.n_joint, weight, order, task, cells.labels, group_codes)


def output_weights(targets: Targets) -> NDArray[np.float64]:
    """Return the weights of shape (n_labels, n_joint) that sum the joint classes to labels."""
    return np.eye(targets.n_joint) if targets.task is None else targets.task.unconstrained.output_weights()


def _class_weights(given: dict | str | None, data: FitData, classes: NDArray) -> NDArray[np.float64]:
    """Return the weight of each class in the loss."""
    if isinstance(given, dict):
        unknown = [label for label in given if label not in classes.tolist()]
        if unknown:
            raise ValueError(f"class_weight names {unknown}, which are not classes of y: {classes.tolist()}.")
        wrong = {
            label: value
            for label, value in given.items()
            if not (isinstance(value, int | float | np.number) and 0 < value < np.inf)
        }
        if wrong:
            raise ValueError(f"class_weight must hold positive and finite numbers; got {wrong}.")
    return compute_class_weight(given, classes=classes, y=data.y, sample_weight=data.weight)


def share_rows(
    targets: Targets, n_train: int, tiny: bool, validation_fraction: float, rng: np.random.RandomState
) -> LevelSplit:
    """Share the rows between the levels.

    Raises
    ------
    ValueError
        If a level, or a cell of the upper one, has no row.
    """
    fraction = None if tiny and targets.task is None else validation_fraction
    split = split_levels(targets.joint, n_train, fraction, _N_FOLDS, rng)
    if min(len(split.lower), len(split.upper)) == 0:
        raise ValueError(
            f"validation_fraction={validation_fraction} of {n_train} rows leaves a level without "
            "rows; choose a fraction nearer .5 or give more rows."
        )
    task, labels = targets.task, targets.group_labels
    if task is not None and labels is not None:
        upper = split.upper
        source = f"The upper part (validation_fraction={validation_fraction})"
        if not split.n_folds:
            source = "The held-out part (y_val, sensitive_features_val)"
        require_held_out_cells(
            task.constraint, task.kind[upper], task.group[upper], task.included, labels, source
        )
    return split


def check_n_inputs(n_inputs: int, n_columns: int) -> None:
    """Refuse to prune among more inputs than can be compared with each other.

    Raises
    ------
    ValueError
        If there are more than ``_MOST_INPUTS``.
    """
    if n_inputs > _MOST_INPUTS:
        raise ValueError(
            f"prune_inputs=True compares every two of the encoded inputs, and the {n_columns} columns have "
            f"{n_inputs:,} of them; at most {_MOST_INPUTS:,} are feasible. Choose fewer n_bins, select "
            "columns before, or leave prune_inputs=False."
        )


def resolve_lengths(
    n_train: int, tiny: bool, batch_size: int | str, max_epochs: int | str
) -> tuple[int, int]:
    """Return the batch size and the number of epochs."""
    if batch_size == "auto":
        batch_size = n_train if tiny else min(max(n_train // 64, 32), 512)
    if max_epochs == "auto":
        max_epochs = min(max(20, _UPDATES * int(batch_size) // n_train), 200)
    return int(batch_size), int(max_epochs)


def resolve_device(name: Any) -> torch.device:
    """Return the device of that name.

    Raises
    ------
    ValueError
        If it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device={name!r} is not available here ({reason}); use 'auto', 'cpu' or an available GPU "
            "such as 'cuda:0'."
        ) from error
    return device


def resolve_dtype(name: str, knots: list[NDArray[np.float64]], tiny: bool) -> torch.dtype:
    """Return the precision of the computations."""
    if name != "auto":
        return torch.float32 if name == "float32" else torch.float64
    # Lost in single precision: bins that are narrow beside their own values, and its range.
    fine = any(
        np.any(np.diff(k) < 1e-4 * np.abs(k[1:])) or np.diff(k).min() < 1e-30 or not np.ptp(k) < 1e30
        for k in knots
        if len(k) > 1
    )
    return torch.float64 if tiny or fine else torch.float32


def choose_knots(data: FitData, n_bins: int, rng: np.random.RandomState) -> list[NDArray[np.float64]]:
    """Choose the knots of every column.

    Raises
    ------
    ValueError
        If all columns are constant.
    """
    X, weight = data.X, data.weight
    if len(X) > _KNOT_ROWS:
        rows = np.sort(rng.permutation(len(X))[:_KNOT_ROWS])
        X, weight = X[rows], weight[rows]
    knots = [find_knots(column, weight, n_bins) for column in X.T]
    if all(len(k) == 1 for k in knots):
        raise ValueError(
            f"Every one of the {len(knots)} columns of X is constant; at least one must vary to learn from."
        )
    return knots
