"""The rows of a fit, checked and encoded: inputs, labels, weights, group and stratum codes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, column_or_1d, validate_data

from skfairprune._labels import GroupCodes, encode_sensitive, plain_labels, show_labels
from skfairprune._row_order import refuse_other_order

__all__ = [
    "FitData",
    "check_fit_data",
    "check_held_out_data",
    "check_inputs",
    "concatenate",
    "find_classes",
]

_FLOATS = [np.float64, np.float32]
_BLOCK_ROWS = 10_000  # looked at at once: a copy of few rows


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
    groups : GroupCodes or None
        The groups.
    strata : GroupCodes or None
        The strata that the control features form.
    """

    X: NDArray[np.floating]
    y: NDArray
    weight: NDArray[np.float64]
    groups: GroupCodes | None
    strata: GroupCodes | None = None


def check_fit_data(
    estimator: BaseEstimator,
    X: ArrayLike,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    sensitive_features: Any,
    control_features: Any = None,
) -> FitData:
    """Check training rows; rows of weight 0 are left out."""
    _refuse_masked(X, "X")
    _refuse_masked(y, "y")
    refuse_other_order(
        X=X,
        y=y,
        sample_weight=sample_weight,
        sensitive_features=sensitive_features,
        control_features=control_features,
    )
    y = plain_labels(y, "y")
    try:
        rows, classes = validate_data(estimator, X, y, accept_sparse="csr", dtype=_FLOATS)
    except (TypeError, ValueError) as error:
        _explain_columns(X, error)
        raise
    check_classification_targets(classes)
    weight = _check_weight(sample_weight, rows, "sample_weight")
    if control_features is not None and sensitive_features is None:
        raise ValueError(
            "control_features are given without sensitive_features; they form the strata within which "
            "groups are compared. Pass sensitive_features too."
        )
    counted = weight > 0
    groups = _encode(sensitive_features, "sensitive_features", counted)
    strata = _encode(control_features, "control_features", counted)
    if not counted.all():
        rows, classes, weight = rows[counted], classes[counted], weight[counted]
    return FitData(_positive_strides(_dense(rows)), classes, _scaled(weight), groups, strata)


def _check_weight(weight: ArrayLike | None, rows: Any, name: str) -> NDArray[np.float64]:
    """Return one weight for each row."""
    if isinstance(weight, str):
        raise ValueError(
            f"{name} must be one number of at least 0 for each row; got {weight!r}. Weights by class, as "
            "'balanced', are the parameter class_weight."
        )
    _refuse_masked(weight, name)
    return _check_sample_weight(weight, rows, dtype=np.float64, ensure_non_negative=True)


def _scaled(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return weights of which the largest is 1: only ratios count, and squares must not overflow."""
    return weight / weight.max()


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


def _encode(features: Any, name: str, counted: NDArray[np.bool_]) -> GroupCodes | None:
    """Encode the features of the rows that count, by the labels that occur there."""
    if features is None:
        return None
    encoded = encode_sensitive(features, len(counted), name)
    present, codes = np.unique(encoded.codes[counted], return_inverse=True)
    return GroupCodes(tuple(encoded.labels[code] for code in present), codes, encoded.names)


def check_held_out_data(
    estimator: BaseEstimator,
    data: FitData,
    constrained: bool,
    X_val: ArrayLike | None,
    y_val: ArrayLike | None,
    sample_weight_val: ArrayLike | None,
    sensitive_features_val: Any,
    control_features_val: Any,
) -> FitData | None:
    """Check held-out rows against the training rows' columns, classes, groups and strata.

    Rows of weight 0 are left out. Without a constraint groups and strata are not needed.
    """
    given = {
        "sample_weight_val": sample_weight_val,
        "sensitive_features_val": sensitive_features_val,
        "control_features_val": control_features_val,
    }
    if X_val is None and y_val is None:
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{name} is given without X_val; pass X_val and y_val too.")
        return None
    if X_val is None or y_val is None:
        one, other = ("y_val", "X_val") if X_val is None else ("X_val", "y_val")
        raise ValueError(f"{one} is given without {other}; pass both or neither.")
    try:
        X = _dense(check_inputs(estimator, X_val))
    except ValueError as error:
        raise ValueError(
            "X_val must have the columns that fit gets as X. Inside a pipeline that is X after the steps "
            "before, and X_val goes through them only with set_config(enable_metadata_routing=True) and "
            f'make_pipeline(..., transform_input=["X_val"]). What is wrong with X_val: {error}'
        ) from error
    _refuse_masked(y_val, "y_val")
    refuse_other_order(X_val=X_val, y_val=y_val, **given)
    y = column_or_1d(plain_labels(y_val, "y_val"))
    if len(y) != len(X):
        raise ValueError(f"X_val has {len(X)} rows and y_val has {len(y)}; they must be as many.")
    classes = np.unique(data.y).tolist()
    unknown = sorted(set(y.tolist()) - set(classes), key=str)
    if unknown:
        raise ValueError(f"y_val has the classes {unknown}, which y does not have; y has {classes}.")
    counted, weight = np.ones(len(y), dtype=bool), np.ones(len(y))
    if sample_weight_val is not None:
        weight = _check_weight(sample_weight_val, X, "sample_weight_val")
        counted = weight > 0
    elif np.ptp(data.weight) > 0:
        raise ValueError(
            "sample_weight is given, and X_val without sample_weight_val: the rule and the gap reported are "
            "those of the held-out rows, and would not be weighted. Pass sample_weight_val, of 1 where the "
            "held-out rows are to count alike."
        )
    groups = strata = None
    if constrained and data.groups is not None:
        groups = _encode_as(data.groups, "groups", sensitive_features_val, "sensitive_features", counted)
        if control_features_val is not None and data.strata is None:
            raise ValueError(
                "control_features_val is given, but there are no control_features of the training rows; "
                "pass both or neither."
            )
        if data.strata is not None:
            strata = _encode_as(data.strata, "strata", control_features_val, "control_features", counted)
    if not counted.all():
        X, y, weight = X[counted], y[counted], weight[counted]
    return FitData(X, y, _scaled(weight), groups, strata)


def _encode_as(
    known: GroupCodes, kind: str, features: Any, name: str, counted: NDArray[np.bool_]
) -> GroupCodes:
    """Encode the features of the held-out rows that count, by the labels of the training rows."""
    if features is None:
        raise ValueError(
            f"X_val is given without {name}_val; the constraint needs the {kind} of the held-out rows too."
        )
    encoded = encode_sensitive(features, len(counted), f"{name}_val", known.names)
    strange = [label for label in encoded.labels if label not in known.labels]
    if strange:
        raise ValueError(
            f"{name}_val has the {kind} {strange}, which {name} does not have; it has {list(known.labels)}."
        )
    position = np.array([known.labels.index(label) for label in encoded.labels], dtype=np.intp)
    return known._replace(codes=position[encoded.codes[counted]])


def check_inputs(estimator: BaseEstimator, X: ArrayLike, unread: Sequence[int] = ()) -> Any:
    """Check rows to predict against the columns seen in fit, and return an array or a CSR matrix of them.

    What stands in the columns at the positions ``unread`` does not matter.
    """
    _refuse_masked(X, "X")
    X = _without_text(X, unread)
    try:
        rows = validate_data(
            estimator, X, accept_sparse="csr", dtype=_FLOATS, reset=False, ensure_all_finite=not unread
        )
        if unread:
            read = np.delete(np.arange(rows.shape[1]), unread)
            for start in range(0, rows.shape[0], _BLOCK_ROWS):
                block = rows[start : start + _BLOCK_ROWS][:, read]
                assert_all_finite(block.data if sparse.issparse(block) else block, input_name="X")
    except (TypeError, ValueError) as error:
        _explain_columns(X, error, unread)
        raise
    return _positive_strides(rows)


def _without_text(X: Any, columns: Sequence[int]) -> Any:
    """Return a DataFrame with zeros in those of the columns that hold no numbers; all else as it is."""
    if not isinstance(X, pd.DataFrame):
        return X
    for position in columns:
        if position < X.shape[1] and X.dtypes.iloc[position].kind not in "biuf":
            X = X.copy(deep=False)
            X.isetitem(position, 0.0)
    return X


def _refuse_masked(values: Any, name: str) -> None:
    """Refuse values that are masked: behind the mask some number stands."""
    if np.ma.is_masked(values):
        raise ValueError(f"{name} is a masked array with masked values. Impute them, or drop these rows.")


def _positive_strides(rows: Any) -> Any:
    """Return rows that torch takes: it knows no negative strides, such as those of the view X[::-1]."""
    if sparse.issparse(rows) or min(rows.strides) >= 0:
        return rows
    return np.ascontiguousarray(rows)


def _explain_columns(X: Any, error: Exception, unread: Sequence[int] = ()) -> None:
    """Say which of the columns that are read are the cause of an error of numbers, if any are.

    Raises
    ------
    ValueError
        If X is a pandas DataFrame with columns that are not numbers, or that have missing values; or an array
        with NaN.
    """
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.dtype.kind == "f":
        X = pd.DataFrame(X)
    # Names and numbers of columns that do not agree are errors of their own.
    if not isinstance(X, pd.DataFrame) or any(word in str(error) for word in ("feature names", "features,")):
        return
    strange, missing = [], []
    for position in np.delete(np.arange(X.shape[1]), unread):
        name, column = X.columns[position], X.iloc[:, position]
        there = column[column.notna()]
        if len(there) and column.dtype.kind not in "biuf":
            numbers = pd.to_numeric(there.astype(object), errors="coerce")
            if column.dtype.kind in "mM" or numbers.isna().any():
                wrong = there if column.dtype.kind in "mM" else there[numbers.isna()]
                strange.append((name, wrong.iloc[0]))
                continue
        if len(there) < len(column):
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

    def join(one: GroupCodes | None, other: GroupCodes | None) -> GroupCodes | None:
        if one is None or other is None:
            return None
        return one._replace(codes=np.concatenate([one.codes, other.codes]))

    return FitData(
        np.concatenate([first.X, second.X]),
        np.concatenate([first.y, second.y]),
        np.concatenate([first.weight, second.weight]),
        join(first.groups, second.groups),
        join(first.strata, second.strata),
    )
