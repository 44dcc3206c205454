"""Mixed columns of a DataFrame as the numbers that a network reads, and which column each number is of."""

import warnings
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder
from sklearn.utils.validation import check_is_fitted

from skfairprune._precision import MOST_ROWS, keeps_apart

__all__ = ["make_preprocessor", "source_columns"]

#: Flags come as True, as text, or as 1.
FLAGS = {"True": "1", "False": "0"}
_WHOLE = 2.0**63  # below, floats without a fraction are taken for integers


def _to_float32(X: pd.DataFrame) -> pd.DataFrame:
    return _to_floats(X, np.float32)


def _to_float64(X: pd.DataFrame) -> pd.DataFrame:
    return _to_floats(X, np.float64)


def _to_floats(X: pd.DataFrame, dtype: type[np.floating]) -> pd.DataFrame:
    """Return numbers, NaN where missing; columns of objects may hold any missing value of pandas."""
    X = X.copy(deep=False)
    for column in [column for column, given in X.dtypes.items() if not _is_number(given)]:
        values = X[column].astype(object).where(X[column].notna(), np.nan)
        X[column] = [_to_float(value, column) for value in values]
    return X.astype(dtype)


def _to_float(value: Any, column: Hashable) -> float:
    try:
        return float(value)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            f"The column {column!r} is one of numbers, and has {value!r}. Give it numbers."
        ) from error


def _is_number(dtype: Any) -> bool:
    return getattr(dtype, "kind", "O") in "iuf"


def _is_unusable(dtype: Any) -> bool:
    """Tell whether a type is one of dates, durations or complex numbers."""
    return getattr(dtype, "kind", "O") in "mMc"


def _to_strings(X: pd.DataFrame) -> pd.DataFrame:
    """Return texts, "missing" where missing, that do not depend on the dtype that values came in.

    A missing value in a column of integers makes pandas keep 2 as 2.0, and flags come as True or as 1.
    """
    return _to_raw_strings(X).replace(FLAGS)


def _to_raw_strings(X: pd.DataFrame) -> pd.DataFrame:
    """Return texts, "missing" where missing, flags as they are written."""
    texts = {}
    for column, values in X.items():
        there = values.notna()
        texts[column] = [
            _to_text(value) if known else "missing"
            for value, known in zip(values.astype(object), there, strict=True)
        ]
    return pd.DataFrame(texts, index=X.index, columns=X.columns, dtype=object)


def _to_text(value: Any) -> str:
    if isinstance(value, float | np.floating):
        number = float(value)
        if number.is_integer() and abs(number) < _WHOLE:
            return str(int(number))
    return str(value)


def make_preprocessor(X: pd.DataFrame, *, min_frequency: int | float = 0.01) -> ColumnTransformer:
    """Make an unfitted transformer of mixed columns into a matrix of floats without missing values.

    It is of float32, or of float64 if float32 cannot tell a column's values apart, as seconds since 1970.

    Numeric columns get their median where missing and stay otherwise as they are: networks of
    this package encode them themselves. Categorical columns (category, string, object, bool) get
    the category "missing" where missing and are one-hot encoded; a category unknown at fit time is
    all zeros.

    Parameters
    ----------
    X : DataFrame of shape (n_samples, n_features)
        The columns to choose transformations for, by their dtypes.
    min_frequency : int or float, default=0.01
        Categories rarer than this, as a count (int, at least 1) or as a share of the rows (float in
        (0, 1)), are merged into one column, as in
        :class:`~sklearn.preprocessing.OneHotEncoder`.

    Returns
    -------
    ColumnTransformer
        Unfitted; numeric columns come first in its output.

    Raises
    ------
    ValueError
        If X is not a DataFrame or has columns of dates, durations or complex numbers.

    Warns
    -----
    UserWarning
        If all categories of a column of X are rare, so that nothing is left of it, as of dates or numbers
        that are stored as text; or if float64 cannot tell the values of a numeric column apart, as of
        identifiers of 19 digits.

    Examples
    --------
    >>> from skfairprune.datasets import make_biased_classification, make_preprocessor
    >>> X = make_biased_classification(100, as_frame=True, random_state=0).X
    >>> make_preprocessor(X).fit_transform(X).shape
    (100, 15)
    """
    if not isinstance(X, pd.DataFrame):
        raise ValueError(f"X must be a DataFrame, whose dtypes are read; got {type(X).__name__}.")
    if unusable := [column for column, dtype in X.dtypes.items() if _is_unusable(dtype)]:
        raise ValueError(
            f"Columns {unusable} are dates, durations or complex; drop them or turn them into real numbers."
        )
    numeric = [column for column, dtype in X.dtypes.items() if _is_number(dtype)]
    categorical = [column for column in X.columns if column not in numeric]
    _warn_of_rare(X[categorical], min_frequency)
    _warn_of_lost(X[numeric])
    to_float = _to_float32 if _told_apart(X[numeric], np.float32).all() else _to_float64
    to_numeric = make_pipeline(
        FunctionTransformer(to_float, feature_names_out="one-to-one"),
        SimpleImputer(strategy="median", keep_empty_features=True),
    )
    to_categories = make_pipeline(
        FunctionTransformer(_to_strings, feature_names_out="one-to-one"),
        OneHotEncoder(
            handle_unknown="ignore",
            min_frequency=min_frequency,
            sparse_output=False,
            dtype=np.float32,
        ),
    )
    return ColumnTransformer(
        [
            ("numeric", to_numeric, numeric),
            ("categorical", to_categories, categorical),
        ],
        verbose_feature_names_out=False,
    )


def _told_apart(X: pd.DataFrame, dtype: type[np.floating]) -> NDArray[np.bool_]:
    """Tell of which numeric columns a type keeps most values apart, on up to 10,000 rows, (n_columns,)."""
    some = X.iloc[:: -(-len(X) // MOST_ROWS) or 1]
    return np.array([keeps_apart(values.dropna().unique(), dtype) for _, values in some.items()], bool)


def _warn_of_lost(X: pd.DataFrame) -> None:
    """Warn of numeric columns whose values float64 cannot tell apart, either."""
    lost = X.columns[~_told_apart(X, np.float64)].tolist()
    if lost:
        warnings.warn(
            f"float64 cannot tell the values of the columns {lost} apart: subtract a constant from them, "
            "such as their least value, or drop them, if they are only names of rows.",
            UserWarning,
            stacklevel=3,
        )


def _warn_of_rare(X: pd.DataFrame, min_frequency: Any) -> None:
    """Warn of columns of which every category would be merged with the others."""
    if not isinstance(min_frequency, int | float):  # the encoder says what is wrong with it
        return
    least = min_frequency if min_frequency >= 1 else min_frequency * len(X)
    counts = {column: values.astype(object).value_counts(dropna=False) for column, values in X.items()}
    lost = [column for column, count in counts.items() if len(count) > 1 and count.iloc[0] < least]
    if lost:
        warnings.warn(
            f"The columns {lost} have only values that are rarer than min_frequency={min_frequency}: all are "
            "merged into one, and nothing is left of them. Turn dates and numbers stored as text into "
            "numbers, merge the values, set a smaller min_frequency, or drop the columns.",
            UserWarning,
            stacklevel=3,
        )


def source_columns(preprocessor: ColumnTransformer) -> list[Hashable]:
    """Return which column of the DataFrame each output of a preprocessor is of.

    With ``prune_inputs=True`` the network's ``dropped_columns_`` are outputs of the preprocessor. A column of
    the DataFrame of which all are dropped is needed no more.

    Parameters
    ----------
    preprocessor : ColumnTransformer
        From :func:`make_preprocessor`, fitted.

    Returns
    -------
    list of length n_outputs
        The columns' names.

    Raises
    ------
    NotFittedError
        If it is not fitted.
    ValueError
        If it has other parts than those of :func:`make_preprocessor`.

    Examples
    --------
    >>> from skfairprune.datasets import make_biased_classification, make_preprocessor, source_columns
    >>> X = make_biased_classification(100, as_frame=True, random_state=0).X[["income", "district"]]
    >>> preprocessor = make_preprocessor(X).fit(X)
    >>> preprocessor.get_feature_names_out().tolist()
    ['income', 'district_east', 'district_north', 'district_south', 'district_west']
    >>> source_columns(preprocessor)
    ['income', 'district', 'district', 'district', 'district']
    """
    check_is_fitted(preprocessor)
    parts = [part for part in preprocessor.transformers_ if part[1] != "drop"]  # columns it does not know
    columns = {name: list(given) for name, _, given in parts}
    if columns.keys() != {"numeric", "categorical"}:
        raise ValueError(
            "source_columns knows the preprocessors of make_preprocessor; this one has the parts "
            f"{[*columns]}."
        )
    found = columns["numeric"]
    if columns["categorical"]:
        encoder = preprocessor.named_transformers_["categorical"][-1]
        known = zip(columns["categorical"], encoder.categories_, encoder.infrequent_categories_, strict=True)
        for column, categories, merged in known:
            n_merged = 0 if merged is None else len(merged)
            found += [column] * (len(categories) - n_merged + bool(n_merged))
    return found
