"""The protocol that the benchmarks share: where the data are, and how they are split and encoded."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import train_test_split
from sklearn.utils import Bunch

from skfairprune.datasets import load_benchmark, make_preprocessor

__all__ = ["Part", "load", "split"]


class Part(NamedTuple):
    """The training or the test part, encoded."""

    X: np.ndarray
    y: np.ndarray
    group: np.ndarray


def load(name: str) -> Bunch:
    """Load a set from SKFAIRPRUNE_DATA, or from ../shared/data beside the repository."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    default = folder if folder.is_dir() else None
    return load_benchmark(name, data_home=os.environ.get("SKFAIRPRUNE_DATA") or default)


def split(data: Bunch, seed: int) -> tuple[Part, Part]:
    """Resample a 70/30 split stratified on (y, group); the encoding is fitted on the 70 %.

    The sensitive column and the columns that the catalog excludes are not in X.
    """
    cells = data.y.astype(str) + data.sensitive_features.astype(str)
    parts = train_test_split(np.arange(len(cells)), test_size=0.3, stratify=cells, random_state=seed)
    X = make_preprocessor(data.X).fit(data.X.iloc[parts[0]]).transform(data.X)
    y, group = data.y.to_numpy(), data.sensitive_features.to_numpy()
    train, test = (Part(X[part], y[part], group[part]) for part in parts)
    return train, test
