"""The rows of a fit, checked and encoded: inputs, labels, weights, group and stratum codes."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, column_or_1d, validate_data

from skfairprune._labels import encode_sensitive, show_labels

__all__ = [
    "FitData",
    "check_fit_data",
    "check_held_out_data",
    "check_inputs",
    "concatenate",
    "find_classes",
]

_FLOATS = [np.float64, np.float32]


class FitData(NamedTuple):
    """Checked rows.

    Attributes
    ----------
    X : ndarray of shape (n_samples, n_features)
        Finite float64 or float32.
    y : ndarray of shape (n_samples,)
        Labels as given.
    weight : ndarray of shape (n_samples,)
        Positive sample weights, the largest 1.
    group : ndarray of shape (n_samples,) or None
        Group codes.
    group_labels : tuple
        The groups' labels, in the order of their codes; empty without groups.
    stratum : ndarray of shape (n_samples,) or None
        Codes of the strata that the control features form.
    stratum_labels : tuple
        The strata's labels, in the order of their codes; empty without strata.
    """

    X: NDArray[np.floating]
    y: NDArray
    weight: NDArray[np.float64]
    group: NDArray[np.intp] | None
    group_labels: tuple[Hashable, ...]
    stratum: NDArray[np.intp] | None = None
    stratum_labels: tuple[Hashable, ...] = ()


def check_fit_data(
    estimator: BaseEstimator,
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    sensitive_features: Any,
    control_features: Any = None,
) -> FitData:
    """Check training rows; rows of weight 0 are left out."""
    try:
        rows, classes = validate_data(estimator, X, y, accept_sparse="csr", dtype=_FLOATS)
    except (TypeError, ValueError) as error:
        _explain_columns(X, error)
        raise
    check_classification_targets(classes)
    weight = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
    if control_features is not None and sensitive_features is None:
        raise ValueError(
            "control_features are given without sensitive_features; they form the strata within which "
            "groups are compared. Pass sensitive_features too."
        )
    counted = weight > 0
    if not counted.any():
        raise ValueError("All sample weights are zero; at least one row must have a positive weight.")
    group, group_labels = _encode(sensitive_features, "sensitive_features", counted)
    stratum, stratum_labels = _encode(control_features, "control_features", counted)
    if not counted.all():
        rows, classes, weight = rows[counted], classes[counted], weight[counted]
    weight = weight / weight.max()  # only ratios count, and squares must not overflow
    return FitData(_dense(rows), classes, weight, group, group_labels, stratum, stratum_labels)


def find_classes(y: NDArray) -> NDArray:
    """Return the sorted classes of labels.

    Raises
    ------
    ValueError
        If there is only one.
    """
    classes = np.unique(y)
    if len(classes) < 2:
        raise ValueError(
            f"y has one class only, {classes.tolist()[0]!r} (rows of weight 0 do not count); "
            "a classifier needs at least two classes."
        )
    return classes


def _encode(
    features: Any, name: str, counted: NDArray[np.bool_]
) -> tuple[NDArray[np.intp] | None, tuple[Hashable, ...]]:
    """Encode the features of the rows that count: codes and labels, only those that occur there."""
    if features is None:
        return None, ()
    encoded = encode_sensitive(features, len(counted), name)
    present, codes = np.unique(encoded.codes[counted], return_inverse=True)
    return codes, tuple(encoded.labels[code] for code in present)


def check_held_out_data(
    estimator: BaseEstimator,
    X_val: ArrayLike | None,
    y_val: ArrayLike | None,
    sensitive_features_val: Any,
    classes: NDArray,
    group_labels: tuple[Hashable, ...],
    control_features_val: Any = None,
    stratum_labels: tuple[Hashable, ...] = (),
) -> FitData | None:
    """Check held-out rows against the training rows' columns, classes, groups and strata.

    ``group_labels`` is empty without a constraint, ``stratum_labels`` without strata; the groups or
    the strata are then not needed.
    """
    if X_val is None and y_val is None:
        for name, features in [
            ("sensitive_features_val", sensitive_features_val),
            ("control_features_val", control_features_val),
        ]:
            if features is not None:
                raise ValueError(f"{name} is given without X_val; pass X_val and y_val too.")
        return None
    if X_val is None or y_val is None:
        given, missing = ("y_val", "X_val") if X_val is None else ("X_val", "y_val")
        raise ValueError(f"{given} is given without {missing}; pass both or neither.")
    try:
        X = check_inputs(estimator, X_val)
    except ValueError as error:
        raise ValueError(
            "X_val must have the columns that fit gets as X. Inside a pipeline that is X after the steps "
            "before, and X_val goes through them only with set_config(enable_metadata_routing=True) and "
            f'make_pipeline(..., transform_input=["X_val"]). What is wrong with X_val: {error}'
        ) from error
    y = column_or_1d(y_val)
    if len(y) != len(X):
        raise ValueError(f"X_val has {len(X)} rows and y_val has {len(y)}; they must be as many.")
    unknown = sorted(set(np.unique(y).tolist()) - set(classes.tolist()), key=str)
    if unknown:
        raise ValueError(f"y_val has the classes {unknown}, which y does not have; y has {classes.tolist()}.")
    group = stratum = None
    if group_labels:
        group = _encode_as(group_labels, "groups", sensitive_features_val, "sensitive_features", len(y))
        if control_features_val is not None and not stratum_labels:
            raise ValueError(
                "control_features_val is given, but there are no control_features of the training rows; "
                "pass both or neither."
            )
    if group_labels and stratum_labels:
        stratum = _encode_as(stratum_labels, "strata", control_features_val, "control_features", len(y))
    return FitData(X, y, np.ones(len(y)), group, group_labels, stratum, stratum_labels)


def _encode_as(
    labels: tuple[Hashable, ...], kind: str, features: Any, name: str, n_samples: int
) -> NDArray[np.intp]:
    """Encode held-out features by the labels of the training rows."""
    if features is None:
        raise ValueError(
            f"X_val is given without {name}_val; the constraint needs the {kind} of the held-out rows too."
        )
    encoded = encode_sensitive(features, n_samples, f"{name}_val")
    strange = [label for label in encoded.labels if label not in labels]
    if strange:
        raise ValueError(
            f"{name}_val has the {kind} {strange}, which {name} does not have; it has {list(labels)}."
        )
    position = np.array([labels.index(label) for label in encoded.labels], dtype=np.intp)
    return position[encoded.codes]


def check_inputs(estimator: BaseEstimator, X: ArrayLike, unread: Sequence[int] = ()) -> NDArray[np.floating]:
    """Check rows to predict against the columns seen in fit.

    What stands in the columns at the positions ``unread`` does not matter.
    """
    try:
        rows = validate_data(
            estimator, X, accept_sparse="csr", dtype=_FLOATS, reset=False, ensure_all_finite=not unread
        )
    except (TypeError, ValueError) as error:
        _explain_columns(X, error)
        raise
    rows = _dense(rows)
    if unread:
        assert_all_finite(np.delete(rows, unread, axis=1), input_name="X")
        rows = rows.copy()  # it can be the caller's own
        rows[:, unread] = 0
    return rows


def _explain_columns(X: Any, error: Exception) -> None:
    """Say which columns of a frame or an array are the cause of an error, if any are.

    Raises
    ------
    ValueError
        If X is a pandas DataFrame with columns that are not numbers, or that have missing values; or an array
        with NaN.
    """
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind == "f":
        X = pd.DataFrame(X)
    if not isinstance(X, pd.DataFrame):
        return
    strange, missing = [], []
    for position, name in enumerate(X.columns):
        column = X.iloc[:, position]
        there = column[column.notna()]
        if column.dtype.kind in "mM" or pd.to_numeric(there.astype(object), errors="coerce").isna().any():
            strange.append((name, there.iloc[0]))
        elif len(there) < len(column):
            missing.append(name)
    cure = (
        "in a pipeline: make_pipeline(make_preprocessor(X), FairPrunedClassifier()), with make_preprocessor "
        "from skfairprune.datasets, imputes missing values and one-hot encodes categories."
    )
    if strange:
        name, value = strange[0]
        names = show_labels([name for name, _ in strange])
        raise ValueError(
            f"X has columns that are not numbers: {names}; {name!r} has {value!r}. Encode them {cure}"
        ) from error
    if missing:
        raise ValueError(
            f"X has columns with missing values (NaN): {show_labels(missing)}. Impute them {cure}"
        ) from error


def _dense(X: Any) -> NDArray[np.floating]:
    return X.toarray() if sparse.issparse(X) else X


def concatenate(first: FitData, second: FitData) -> FitData:
    """Put held-out rows behind training rows."""

    def join(one: NDArray[np.intp] | None, other: NDArray[np.intp] | None) -> NDArray[np.intp] | None:
        return None if one is None or other is None else np.concatenate([one, other])

    return FitData(
        np.concatenate([first.X, second.X]),
        np.concatenate([first.y, second.y]),
        np.concatenate([first.weight, second.weight]),
        join(first.group, second.group),
        first.group_labels,
        join(first.stratum, second.stratum),
        first.stratum_labels,
    )
