"""The public benchmarks of algorithmic fairness, read from a local folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder
from sklearn.utils import Bunch

__all__ = ["load_benchmark", "make_preprocessor"]

_ORIGINS = {
    "adult": "https://archive.ics.uci.edu/dataset/2/adult",
    "compas": "https://github.com/propublica/compas-analysis",
    "german_credit": "https://archive.ics.uci.edu/dataset/144/statlog+german+credit+data",
    "bank_marketing": "https://archive.ics.uci.edu/dataset/222/bank+marketing",
    "law_school": "https://github.com/tailequy/fairness_dataset",
    "acs_income": "https://github.com/socialfoundations/folktables",
}


def _find(folder: str | os.PathLike[str] | None, file: str, name: str) -> Path:
    folder = folder or os.environ.get("SKFAIRPRUNE_DATA")
    path = Path(folder) / file if folder else None
    if path is not None and path.is_file():
        return path
    problem = f"{path} does not exist" if path else "no data folder is set"
    raise FileNotFoundError(
        f"Cannot load {name!r}: {problem}. Set the environment variable SKFAIRPRUNE_DATA (or pass "
        f"data_home) to a folder with 'catalog.json' and '{name}.parquet', prepared from the "
        f"public source, {_ORIGINS.get(name, 'one of ' + ', '.join(_ORIGINS.values()))}."
    )


def load_benchmark(
    name: str,
    *,
    data_home: str | os.PathLike[str] | None = None,
    sensitive: str | Sequence[str] | None = None,
) -> Bunch:
    """Load a public benchmark of algorithmic fairness from a local folder.

    The folder holds ``catalog.json``, which says for each set what its target and its sensitive
    columns are and which columns are leaks or identifiers, and one Parquet file for each set.
    Nothing is downloaded.

    Parameters
    ----------
    name : str
        Name in the catalog: "adult", "compas", "german_credit", "bank_marketing", "law_school",
        "acs_income".
    data_home : str or path, default=None
        The folder; None means the environment variable ``SKFAIRPRUNE_DATA``.
    sensitive : str or sequence of str, default=None
        Sensitive columns of the catalog to return; None means the set's main one. The columns
        returned and the main one are never in X; other sensitive columns stay in X unless the
        catalog excludes them.

    Returns
    -------
    Bunch
        ``X``, a DataFrame without the target, the split, survey weights and excluded columns;
        ``y``, a Series of 0/1; ``sensitive_features``, a categorical Series, or a DataFrame if
        ``sensitive`` is a sequence; ``split``, a Series of "train", "test" and "validation" for
        sets published with a split, otherwise None; ``name``; ``positive``, what y = 1 means;
        ``DESCR``, with the licence and the known defects. If the catalog limits the main column
        to some groups, other rows are left out, whatever ``sensitive`` is.

    Raises
    ------
    ValueError
        If the catalog has no such set, or the set no such sensitive column.
    FileNotFoundError
        If no folder is set, or it lacks the catalog or the set's file.
    ImportError
        If pyarrow is not installed.
    """
    catalog = json.loads(_find(data_home, "catalog.json", name).read_text(encoding="utf-8"))
    if name not in catalog:
        raise ValueError(f"Unknown benchmark {name!r}; available: {', '.join(catalog)}.")
    entry = catalog[name]
    main = entry["main"]
    asked = [main] if sensitive is None else [sensitive] if isinstance(sensitive, str) else sensitive
    if not asked or not set(asked) <= set(entry["sensitive"]):
        raise ValueError(
            f"sensitive must name columns of {name!r} among {entry['sensitive']}; got {sensitive!r}."
        )
    path = _find(data_home, f"{name}.parquet", name)
    try:
        frame = pd.read_parquet(path, engine="pyarrow")
    except ImportError as error:
        raise ImportError(
            "Benchmarks are Parquet files, which need pyarrow: pip install skfairprune[data]"
        ) from error
    if "main_groups" in entry:
        frame = frame[frame[main].isin(entry["main_groups"])].reset_index(drop=True)
    A = frame[list(asked)].apply(lambda a: a.astype("category").cat.remove_unused_categories())
    never = {"target", "split", entry.get("weight"), main, *asked, *entry["exclude"]}
    return Bunch(
        X=frame.drop(columns=[column for column in frame if column in never]),
        y=frame["target"].astype(int),
        sensitive_features=A[asked[0]] if sensitive is None or isinstance(sensitive, str) else A,
        split=frame["split"].astype(str) if "split" in frame else None,
        name=name,
        positive=entry["positive"],
        DESCR=f"{entry['title']}. {entry['licence']}. {entry['notes']}",
    )


def _to_float32(X: pd.DataFrame) -> pd.DataFrame:
    return X.astype(np.float32)


def _to_strings(X: pd.DataFrame) -> pd.DataFrame:
    # Through object: a category of integers with a missing value would turn 2 into "2.0".
    return X.astype(object).astype(str).where(X.notna(), "missing").astype(object)


def make_preprocessor(X: pd.DataFrame, *, min_frequency: int | float = 0.01) -> ColumnTransformer:
    """Make an unfitted transformer of mixed columns into a float32 matrix without missing values.

    Numeric columns get their median where missing and stay otherwise as they are: networks of
    this package encode them themselves. Categorical columns (category, string, object, bool) get
    the category "missing" where missing and are one-hot encoded; a category unknown at fit time is
    all zeros.

    Parameters
    ----------
    X : DataFrame of shape (n_samples, n_features)
        The columns to choose transformations for; the values are not used.
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

    Examples
    --------
    >>> from skfairprune.datasets import make_biased_classification, make_preprocessor
    >>> X = make_biased_classification(100, as_frame=True, random_state=0).X
    >>> make_preprocessor(X).fit_transform(X).shape
    (100, 15)
    """
    if not isinstance(X, pd.DataFrame):
        raise ValueError(f"X must be a DataFrame, whose dtypes are read; got {type(X).__name__}.")
    kinds = {column: getattr(dtype, "kind", "O") for column, dtype in X.dtypes.items()}
    if unusable := [column for column, kind in kinds.items() if kind in "mMc"]:
        raise ValueError(
            f"Columns {unusable} are dates, durations or complex; drop them or turn them into real numbers."
        )
    numeric = [column for column, kind in kinds.items() if kind in "iuf"]
    to_numeric = make_pipeline(
        FunctionTransformer(_to_float32, feature_names_out="one-to-one"),
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
            ("categorical", to_categories, [c for c in X.columns if c not in numeric]),
        ],
        verbose_feature_names_out=False,
    )
