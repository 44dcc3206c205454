"""What the network learns: joint classes under the constraint in force, and the rows of each level."""

import warnings
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from fairlearn.reductions import Moment, UtilityParity
from numpy.typing import NDArray
from sklearn.utils import compute_class_weight

from skfairprune._cells import cover_cells, require_held_out_cells
from skfairprune._data import FitData
from skfairprune._labels import encode_classes
from skfairprune.constraints import get_constraint
from skfairprune.moments import check_moment, take_over
from skfairprune.training.fairtask import FairTask
from skfairprune.training.splits import LevelSplit, split_levels

__all__ = ["Targets", "encode_targets", "resolve_constraint", "share_rows"]

_N_FOLDS = 2
# The numbers in the largest table of a rule for many classes: half a gigabyte.
_LARGEST_TABLE = 2**26


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
    group_names : tuple or None
        The names of the columns that the groups are of.
    """

    joint: NDArray[np.intp]
    n_joint: int
    weight: NDArray[np.float64]
    order: NDArray[np.intp]
    task: FairTask | None
    group_labels: list[Any] | None
    group_codes: dict[Hashable, int]
    group_names: tuple[Hashable, ...] | None

    @property
    def head_labels(self) -> NDArray[np.intp]:
        """The label of each head class, of shape (n_head_classes,)."""
        return np.arange(self.n_joint) if self.task is None else self.task.constraint.head_labels

    @property
    def output_weights(self) -> NDArray[np.float64]:
        """The weights of shape (n_classes, n_joint) that sum the joint classes to classes, without a rule."""
        weights = np.eye(self.n_joint) if self.task is None else self.task.unconstrained.output_weights()
        return weights[self.order]


def resolve_constraint(
    constraint: str | Moment | None, data: FitData, bound: float, usual_bound: float, attribute_aware: bool
) -> str | UtilityParity | None:
    """Return the constraint that is in force on these rows.

    Parameters
    ----------
    constraint : str, UtilityParity or None
        What was asked for; "auto" depends on whether there are groups.
    data : FitData
        The training rows.
    bound, usual_bound : float
        The bound asked for, and that of who asks for none.
    attribute_aware : bool
        Whether rules are wanted that are told the group.

    Raises
    ------
    ValueError
        If it needs groups and there are none, or is a moment that cannot be taken over.
    """
    if isinstance(constraint, Moment):
        check_moment(constraint, bound)
    if constraint == "auto":
        if data.groups is None and attribute_aware:
            raise ValueError(
                "attribute_aware=True fits decision rules that are told the group, and fit got no "
                "sensitive_features. Pass them, or leave attribute_aware=False."
            )
        constraint = None if data.groups is None else "demographic_parity"
        if constraint is None and bound not in (usual_bound, 1):
            warnings.warn(
                f"difference_bound={bound} bounds nothing: fit got no sensitive_features, so there is no "
                "constraint. Pass them (inside a search or cross-validation with "
                "sklearn.set_config(enable_metadata_routing=True)), or say constraint=None.",
                UserWarning,
                stacklevel=4,
            )
    if constraint is None:
        return None
    if data.groups is None:
        raise ValueError(
            f"constraint={constraint!r} needs sensitive_features in fit, and got none. Inside a "
            "search, cross-validation or ensemble they arrive only with metadata routing: call "
            "sklearn.set_config(enable_metadata_routing=True) and pass sensitive_features to the "
            "outer fit. In a pipeline without routing pass "
            "fairprunedclassifier__sensitive_features (the step's name, two underscores)."
        )
    return constraint


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
    if constraint is None or data.groups is None or rows.groups is None:
        return Targets(codes, len(classes), weight, order, None, None, {}, None)
    if isinstance(constraint, UtilityParity):
        terms, kind = take_over(
            constraint,
            rows.X,
            codes,
            rows.groups.codes,
            rows.groups.labels,
            stratum=None if rows.strata is None else rows.strata.codes,
            stratum_labels=() if rows.strata is None else rows.strata.labels,
            feature_names=feature_names,
        )
    else:
        terms = get_constraint(constraint, len(classes), classes[np.argsort(order)].tolist())
        if rows.strata is not None:
            terms = terms.stratified(rows.strata.labels)
        kind = terms.kinds(codes, None if rows.strata is None else rows.strata.codes)
    n_train = len(data.y)
    cells = cover_cells(terms, kind[:n_train], data.groups.codes, data.groups.labels, min_cell_size)
    n_groups = cells.included.shape[1]
    n_events, n_kinds, n_decisions = terms.utilities.shape
    # The prices of decisions in each cell by joint class, and what standard errors of rows with shares read.
    prices = n_events * n_groups * n_decisions * len(terms.head_labels) * n_groups
    squares = n_kinds * n_decisions * max(n_events * n_decisions, n_groups * n_decisions, n_events * n_groups)
    if max(prices, squares) > _LARGEST_TABLE:
        raise ValueError(
            f"{terms.name} of {len(classes)} classes and {n_groups} groups has too many rates. Merge "
            "rare classes (is y a column of class labels?) or groups, or pass constraint=None."
        )
    group = cells.recode[rows.groups.codes]
    included, bound = cells.included, float(bound)
    task = FairTask(terms, included, bound, kind, group, rows.weight, by_code, with_rule)
    group_codes = dict(zip(data.groups.labels, cells.recode.tolist(), strict=True))
    names = data.groups.names
    return Targets(task.joint, task.n_joint, weight, order, task, cells.labels, group_codes, names)


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
