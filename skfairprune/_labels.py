"""From labels of any kind to codes: sensitive and control features to groups, classes to 0, 1, ...

Every error message about values that cannot be labels lives here.
"""

from collections.abc import Hashable, Iterable, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = [
    "GroupCodes",
    "align_labels",
    "encode_classes",
    "encode_labels",
    "encode_sensitive",
    "plain_labels",
    "show_labels",
]

Codes = NDArray[np.intp]


class GroupCodes(NamedTuple):
    """The groups of some rows.

    Attributes
    ----------
    labels : tuple of length n_groups
        The group labels in sorted order: the values of the column, or, for several intersected
        columns, a tuple of the column values each.
    codes : ndarray of shape (n_samples,)
        The position in ``labels`` of the group of each row.
    names : tuple or None
        The column names; None if the columns have none.
    """

    labels: tuple[Hashable, ...]
    codes: Codes
    names: tuple[Hashable, ...] | None


def encode_sensitive(
    sensitive_features: Any,
    n_samples: int,
    name: str = "sensitive_features",
    known: tuple[Hashable, ...] | None = None,
) -> GroupCodes:
    """Encode sensitive features, or control features, as group codes.

    Parameters
    ----------
    sensitive_features : list, array, Series, DataFrame or dict of columns, with n_samples rows
        Values of any type. Several columns are intersected: the groups are the combinations of
        their values that occur.
    n_samples : int
        The number of rows needed.
    name : str, default="sensitive_features"
        How the error messages call the features.
    known : tuple, default=None
        The names of the columns of other rows, such as those of fit: several columns with names are taken in
        the order of these.

    Returns
    -------
    GroupCodes

    Raises
    ------
    ValueError
        If the features are not one or more columns of ``n_samples`` values each, if values are
        missing (None, NaN, NaT, NA), or if they cannot be labels (lists); or if the columns have other names
        than the known ones.

    Examples
    --------
    >>> from skfairprune._labels import encode_sensitive
    >>> encode_sensitive(["f", "m", "f"], 3)
    GroupCodes(labels=('f', 'm'), codes=array([0, 1, 0]), names=None)
    >>> encode_sensitive({"sex": ["f", "m", "f"], "senior": [False, True, False]}, 3).labels
    (('f', False), ('m', True))
    """
    columns, names = _columns(sensitive_features, name)
    if not columns:
        raise ValueError(f"{name} has no columns; pass at least one value per sample.")
    if names is not None and known is not None and names != known and max(len(names), len(known)) > 1:
        if len(names) != len(known) or set(names) != set(known):
            raise ValueError(
                f"{name} has the columns {show_labels(names)}, and in fit they were {show_labels(known)}. "
                "Pass the same columns."
            )
        columns, names = [columns[names.index(key)] for key in known], known
    titles = [name]
    if names is not None or len(columns) > 1:
        titles = [f"column {key!r} of {name}" for key in names or range(len(columns))]
    for column, title in zip(columns, titles, strict=True):
        if len(column) != n_samples:
            raise ValueError(
                f"{title} has {len(column)} values, but there are {n_samples} samples; pass one "
                "value per sample, in the order of the samples (in a search or cross-validation as a "
                "DataFrame: a dict of columns is not split with the rows)."
            )
    encoded = [_encode(column, title) for column, title in zip(columns, titles, strict=True)]
    _refuse_missing(
        encoded,
        titles,
        'Every row needs a value: give these rows a label of their own, such as "unknown", or drop them.',
    )
    if len(encoded) == 1:
        labels, codes = encoded[0]
        return GroupCodes(tuple(labels), codes, names)
    # Column by column, and only what occurs: the number of all combinations may overflow.
    crossed = [(label,) for label in encoded[0][0]]
    codes = encoded[0][1]
    for labels, column in encoded[1:]:
        cells, codes = np.unique(codes * len(labels) + column, return_inverse=True)
        crossed = [(*crossed[cell // len(labels)], labels[cell % len(labels)]) for cell in cells.tolist()]
    return GroupCodes(tuple(crossed), codes, names)


def encode_labels(
    y_true: Any,
    y_pred: Any,
    pos_label: Hashable = None,
    classes: Iterable[Hashable] = (),
    symmetric: bool = False,
) -> tuple[Codes, Codes, tuple[Hashable, ...]]:
    """Encode true labels and decisions as class codes, the positive class of two as 1.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples,)
        Labels of any type.
    pos_label : str, int, float or bool, default=None
        The label to encode as 1 when there are at most two in both together. None means the greater
        of the two in sorted order, as ``classes_[1]`` of a classifier; if only one of -1, 0,
        False, 1 and True occurs, it means 1. A label that does not occur is allowed next to a
        single one that does: then every row is negative.
    classes : iterable, default=()
        Further classes, more than two with those that occur.
    symmetric : bool, default=False
        Whether it is all the same which of two labels is the positive one: then a single label need not tell.

    Returns
    -------
    y_true, y_pred : ndarray of shape (n_samples,)
        Class codes.
    classes : tuple of length n_classes
        The classes in the order of their codes where there are more than two, else ``(0, 1)``.

    Raises
    ------
    ValueError
        As :func:`align_labels`; if ``pos_label`` is not one of two labels or given with more; or if
        there is a single label that does not tell whether it is the positive one.

    Examples
    --------
    >>> from skfairprune._labels import encode_labels
    >>> encode_labels(["no", "yes", "no"], ["yes", "yes", "no"])
    (array([0, 1, 0]), array([1, 1, 0]), (0, 1))
    >>> encode_labels(["a", "b", "c"], ["a", "c", "c"])
    (array([0, 1, 2]), array([0, 2, 2]), ('a', 'b', 'c'))
    """
    (y, decision), found = align_labels({"y_true": y_true, "y_pred": y_pred}, classes)
    if len(found) > 2:
        if pos_label is not None:
            raise ValueError(
                f"pos_label={pos_label!r} is for two classes, and there are {len(found)}: "
                f"{show_labels(found)}. Leave it None: every class is compared with the rest."
            )
        return y, decision, found
    if pos_label is None:
        if len(found) == 1 and found[0] not in (-1, 0, 1) and not symmetric:
            raise ValueError(
                f"y_true and y_pred hold the single label {found[0]!r}, so it is not known whether "
                "it is the positive one; pass pos_label."
            )
        pos_label = found[1] if len(found) == 2 else 1
    elif pos_label not in found and (
        len(found) == 2 or isinstance(pos_label, str) != isinstance(found[0], str)
    ):
        raise ValueError(
            f"pos_label={pos_label!r} is not one of the labels in y_true and y_pred, "
            f"{show_labels(found)}. Pass one of them."
        )
    positive = np.array([label == pos_label for label in found], dtype=np.intp)
    return positive[y], positive[decision], (0, 1)


def encode_classes(y: NDArray, classes: NDArray, pos_label: Hashable) -> tuple[Codes, Codes]:
    """Encode labels as codes, the positive one of a binary problem as 1.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Labels, all of them in ``classes``.
    classes : ndarray of shape (n_classes,)
        The sorted classes, at least two.
    pos_label : object
        The positive class; None means ``classes[1]``.

    Returns
    -------
    codes : ndarray of shape (n_samples,)
        Codes in [0, n_classes).
    order : ndarray of shape (n_classes,)
        The code of each class.

    Raises
    ------
    ValueError
        If ``pos_label`` is not a class, or there are more than two classes.
    """
    order = np.arange(len(classes))
    if pos_label is not None:
        if len(classes) > 2:
            raise ValueError(
                f"pos_label={pos_label!r} is for two classes, and y has {len(classes)}; leave it None."
            )
        if not isinstance(pos_label, Hashable) or pos_label not in classes.tolist():
            encoded = isinstance(pos_label, str) and classes.tolist() == [0, 1]
            advice = " Ensembles such as voting or bagging encode y: give 0 or 1 there." if encoded else ""
            raise ValueError(f"pos_label={pos_label!r} is not a class of y: {classes.tolist()}.{advice}")
        if pos_label == classes[0]:
            order = order[::-1]
    return order[np.searchsorted(classes, y)], order


def align_labels(
    columns: dict[str, Any], classes: Iterable[Hashable] = ()
) -> tuple[list[Codes], tuple[Hashable, ...]]:
    """Encode columns of labels by the same codes.

    Parameters
    ----------
    columns : dict of array-like of shape (n_samples,)
        Labels of any type, by the name that the error messages call them.
    classes : iterable, default=()
        Labels to know besides those that occur.

    Returns
    -------
    codes : list of ndarray of shape (n_samples,)
        Positions in ``labels``, one array for each column.
    labels : tuple
        The labels in sorted order.

    Raises
    ------
    ValueError
        If the lengths differ or are 0, if values are missing, if the labels are of different kinds, or
        if there are fractions among them.
    """
    names = list(columns)
    series = [_single_column(column, name) for name, column in columns.items()]
    for name, column in zip(names[1:], series[1:], strict=True):
        if len(column) != len(series[0]) or not len(column):
            raise ValueError(
                f"{names[0]} has {len(series[0])} rows and {name} has {len(column)}; need the same number "
                "in both, and at least one."
            )
    encoded = [_encode(column, name) for name, column in zip(names, series, strict=True)]
    _refuse_missing(encoded, names, "Drop these rows.")
    labels = _sorted({*(label for found, _ in encoded for label in found), *classes})
    mixed = len({isinstance(label, str) for label in labels}) > 1
    if mixed or any(isinstance(label, float) and label % 1 for label in labels):
        raise ValueError(
            f"{', '.join(names[:-1])} and {names[-1]} must hold labels of one type and no scores, got "
            f"{show_labels(labels)}. Pass decisions, as returned by predict, and the same labels in all."
        )
    position = {label: code for code, label in enumerate(labels)}
    codes = [np.array([position[label] for label in found], dtype=np.intp)[code] for found, code in encoded]
    return codes, tuple(labels)


def plain_labels(values: Any, name: str) -> Any:
    """Return labels that stand in a list, or as objects, without the objects: numbers as an array of numbers.

    Parameters
    ----------
    values : array-like of shape (n_samples,)
        The labels; what is no list, nor of dtype object, is returned as it is.
    name : str
        How the error messages call them.

    Raises
    ------
    ValueError
        If some of them are missing, or they are of types that have no common order.
    """
    # A list of one type is what NumPy makes of it; of several it would turn None and numbers into strings.
    if isinstance(values, list) and len({type(value) for value in values}) > 1:
        values = pd.Series(values, dtype=object)
    if getattr(getattr(values, "dtype", None), "kind", None) != "O" or values.ndim != 1:
        return values
    column = pd.Series(np.asarray(values))
    labels, codes = _encode(column, name)
    _refuse_missing([(labels, codes)], [name], "Drop these rows, or give them a label of their own.")
    kinds = {next((kind for kind in (Real, str) if isinstance(label, kind)), type(label)) for label in labels}
    if len(kinds) > 1:
        found = ", ".join(sorted({type(label).__name__ for label in labels}))
        raise ValueError(f"{name} has labels of several types: {found}. Give all the same type.")
    return np.array(column.tolist()) if kinds == {Real} else values


def show_labels(labels: Sequence[Any]) -> str:
    """List the first five labels for a message."""
    return show_some([repr(label) for label in labels])


def show_some(words: Sequence[str]) -> str:
    """List the first five words for a message."""
    return ", ".join(words[:5]) + (", ..." if len(words) > 5 else "")


def _columns(values: Any, name: str) -> tuple[list[pd.Series], tuple[Hashable, ...] | None]:
    """Split input of any kind into columns and their names, None if it has none."""
    if isinstance(values, dict):
        columns = [_single_column(column, f"{name}[{key!r}]") for key, column in values.items()]
        return columns, tuple(values)
    if isinstance(values, pd.Series):
        return [values], None if values.name is None else (values.name,)
    names = None
    if isinstance(values, pd.DataFrame):
        names = tuple(values.columns)
    else:
        # object: NumPy would turn the None and the numbers of a list with strings into strings
        dtype = object if isinstance(values, list | tuple) else None
        array = np.asarray(values, dtype=dtype)
        if np.ma.is_masked(values):  # behind a mask some value stands
            array = array.astype(object)
            array[np.ma.getmaskarray(values)] = None
        if array.ndim not in (1, 2):
            got = f"{array.ndim}-d values" if array.ndim else f"{values!r:.50}"
            raise ValueError(
                f"{name} must have one or two dimensions, (n_samples,) or (n_samples, n_columns), "
                f"got {got}; pass the values of each sample."
            )
        values = pd.DataFrame(array).infer_objects()
    return [values.iloc[:, position] for position in range(values.shape[1])], names


def _single_column(values: Any, name: str) -> pd.Series:
    columns, _ = _columns(values, name)
    if len(columns) != 1:
        raise ValueError(f"{name} must be a single column, got {len(columns)} columns.")
    return columns[0]


def _encode(column: pd.Series, name: str) -> tuple[list[Hashable], Codes]:
    """Return the sorted labels of a column and the code of each row, -1 where it is missing."""
    try:
        codes, index = pd.factorize(column)
        kinds = {type(label) for label in index if isinstance(label, tuple)}
    except TypeError:
        kinds = {type(value) for value in column if not isinstance(value, Hashable)}
    if kinds:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(
            f"{name} holds values of type {found}, which cannot be labels; pass strings, numbers "
            "or booleans, and several values per row as columns."
        )
    labels = index.tolist()
    ordered = _sorted(labels)
    rank = {label: position for position, label in enumerate(ordered)}
    # one more entry, -1, that the code -1 of missing values picks
    recode = np.array([*(rank[label] for label in labels), -1], dtype=np.intp)
    return ordered, recode[codes]


def _refuse_missing(encoded: list[tuple[list[Hashable], Codes]], names: list[str], advice: str) -> None:
    counts = [np.count_nonzero(codes < 0) for _, codes in encoded]
    if any(counts):
        found = (f"{name} has {n}" for name, n in zip(names, counts, strict=True) if n)
        raise ValueError(f"Missing values: {', '.join(found)}. {advice}")


def _sorted(labels: Iterable[Any]) -> list[Any]:
    """Sort labels; without a common order, numbers come first, others by type and text."""
    labels = list(labels)
    try:
        return sorted(labels)
    except TypeError:
        return sorted(
            labels,
            key=lambda x: ("", x) if isinstance(x, Real) else (type(x).__name__, str(x)),
        )
