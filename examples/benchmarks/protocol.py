"""The protocol that the benchmarks share: where the data are, and how they are split and encoded."""

import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch

from skfairprune.datasets import load_benchmark, make_biased_classification, make_preprocessor

__all__ = ["OTHERS", "SETS", "TEST_SIZE", "Part", "load", "load_split", "split"]

#: The six development sets.
SETS = ("adult", "compas", "german_credit", "bank_marketing", "law_school", "acs_income")
#: Sets for use by name. "acs_race" is ACS income with the three largest races and the others
#: as four groups; "synthetic" needs no file: it is for tests and smoke runs.
OTHERS = ("acs_race", "synthetic")
#: The most rows of a set that are used; which ones is drawn once, the same for every seed.
LIMITS = {"acs_income": 40_000, "acs_race": 20_000}
#: The share of the rows that each split tests on.
TEST_SIZE = 0.3
_SYNTHETIC_ROWS = 2_500


class Part(NamedTuple):
    """The training or the test part, encoded."""

    X: np.ndarray
    y: np.ndarray
    group: np.ndarray


def load(name: str) -> Bunch:
    """Load a set from SKFAIRPRUNE_DATA, or from ../shared/data beside the repository.

    Of a set named in LIMITS only that many rows, drawn at random.
    """
    if name == "synthetic":
        data = make_biased_classification(
            _SYNTHETIC_ROWS, base_rates=(0.6, 0.2), as_frame=True, random_state=0
        )
    else:
        folder = Path(__file__).resolve().parents[3] / "shared" / "data"
        home = os.environ.get("SKFAIRPRUNE_DATA") or (folder if folder.is_dir() else None)
        if name == "acs_race":
            data = load_benchmark("acs_income", sensitive="RAC1P", data_home=home)
            race = data.sensitive_features.astype(str)
            data.sensitive_features = race.where(race.isin(race.value_counts().index[:3]), "other")
        else:
            data = load_benchmark(name, data_home=home)
    limit = LIMITS.get(name, len(data.y))
    if limit < len(data.y):
        rows = np.sort(np.random.default_rng(0).choice(len(data.y), limit, replace=False))
        for key in ("X", "y", "sensitive_features"):
            data[key] = data[key].iloc[rows].reset_index(drop=True)
    return data


def split(data: Bunch, seed: int) -> tuple[Part, Part]:
    """Resample a 70/30 split stratified on (y, group); the encoding is fitted on the 70 %.

    The sensitive column and the columns that the catalog excludes are not in X.
    """
    cells = data.y.astype(str) + data.sensitive_features.astype(str)
    parts = train_test_split(np.arange(len(cells)), test_size=TEST_SIZE, stratify=cells, random_state=seed)
    X = make_preprocessor(data.X).fit(data.X.iloc[parts[0]]).transform(data.X)
    y, group = data.y.to_numpy(), data.sensitive_features.to_numpy()
    train, test = (Part(X[part], y[part], group[part]) for part in parts)
    return train, test


_load_once = lru_cache(maxsize=1)(load)


@lru_cache(maxsize=1)
def load_split(name: str, seed: int) -> tuple[Part, Part]:
    """Load and split a set; the last one is kept, since the next task is mostly on it."""
    return split(_load_once(name), seed)
