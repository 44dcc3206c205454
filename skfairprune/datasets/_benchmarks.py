"""The public benchmarks of algorithmic fairness, read from a local folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from sklearn.utils import Bunch

__all__ = ["load_benchmark"]

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
