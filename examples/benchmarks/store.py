"""The store of results: one file of JSON lines for each task, so that a run can stop and go on anywhere."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

__all__ = ["Store", "Task"]


class Task(NamedTuple):
    """One fit, or the fits of one method under one constraint; each tolerance is a row.

    ``sparsity`` is None for methods that do not prune; ``max_epochs`` is "auto" or a number.
    """

    dataset: str
    seed: int
    method: str
    constraint: str | None
    sparsity: float | None
    max_epochs: int | str

    @property
    def key(self) -> str:
        """The name of its file."""
        parts = [self.constraint or "none"]
        parts += [] if self.sparsity is None else [f"s{self.sparsity:g}"]
        parts += [] if self.max_epochs == "auto" else [f"e{self.max_epochs}"]
        return f"{self.dataset}/{self.method}/{'-'.join(parts)}-seed{self.seed}"


class Store:
    """The folder of a run.

    Parameters
    ----------
    folder : Path
        Made when the first row is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def rows(self, task: Task) -> list[dict[str, Any]]:
        """Return the finished rows of a task."""
        return _read(self.folder / f"{task.key}.jsonl")

    def errors(self, task: Task) -> list[dict[str, Any]]:
        """Return the tolerances of a task that failed, with the reasons."""
        return _read(self.folder / f"{task.key}.errors.jsonl")

    def open(self, task: Task, tolerances: Iterable[float | None], retry: bool) -> list[float | None]:
        """Return the tolerances that are still to do; failed ones count as done unless ``retry``."""
        done = [row["tolerance"] for row in self.rows(task)]
        if not retry:
            done += [row["tolerance"] for row in self.errors(task)]
        return [tolerance for tolerance in tolerances if tolerance not in done]

    def append(self, task: Task, row: dict[str, Any]) -> None:
        """Add a finished row."""
        self._write(f"{task.key}.jsonl", {**task._asdict(), **row})

    def fail(self, task: Task, tolerance: float | None, error: str, when: dict[str, str]) -> None:
        """Add a failure."""
        row = {**task._asdict(), "tolerance": tolerance, "error": error, **when}
        self._write(f"{task.key}.errors.jsonl", row)

    def forget_errors(self, task: Task) -> None:
        """Remove the failures of a task, before it is tried again."""
        (self.folder / f"{task.key}.errors.jsonl").unlink(missing_ok=True)

    def _write(self, name: str, row: dict[str, Any]) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # One write of one line: an interrupted run leaves whole lines.
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def save_decisions(self, task: Task, decided: np.ndarray) -> None:
        """Keep the decisions on the test part, for the degradation gap of other methods."""
        path = self.folder / f"{task.key}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, decided.astype(np.int8))

    def load_decisions(self, task: Task) -> np.ndarray | None:
        """Return the kept decisions, or None if there are none."""
        path = self.folder / f"{task.key}.npy"
        return np.load(path) if path.is_file() else None

    def frame(self) -> pd.DataFrame:
        """Return all finished rows as one tidy table, the constraint "none" where there is none."""
        return _collect(self.folder, failed=False)

    def failures(self) -> pd.DataFrame:
        """Return all failures as one table."""
        return _collect(self.folder, failed=True)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _collect(folder: Path, failed: bool) -> pd.DataFrame:
    paths = sorted(path for path in folder.rglob("*.jsonl") if path.name.endswith(".errors.jsonl") == failed)
    rows = [row for path in paths for row in _read(path)]
    frame = pd.DataFrame(rows, columns=None if rows else [*Task._fields, "tolerance"])
    frame["constraint"] = frame["constraint"].fillna("none")
    # One type in a column: Parquet takes no mixture of "auto" and numbers.
    frame["max_epochs"] = frame["max_epochs"].astype(str)
    return frame
