"""The store of results: one file of JSON lines for each task, so that a run can stop and go on anywhere."""

import base64
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

__all__ = ["Store", "Task", "pack_decisions", "unpack_decisions"]


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

    def load_decisions(self, task: Task) -> np.ndarray | None:
        """Return the decisions on the test part that a row of the task keeps, or None if there are none."""
        kept = [row for row in self.rows(task) if row.get("decided")]
        return unpack_decisions(kept[0]["decided"], kept[0]["n_test"]) if kept else None

    def take_over(self, table: pd.DataFrame, failures: pd.DataFrame | None = None) -> int:
        """Add the rows and failures of another run that are not there; return how many rows there were.

        Dense networks without their decisions are left out: the degradation gap of others needs them.
        """
        added = 0
        for task, row in _read_table(table):
            if row.get("hidden_sizes") is not None:
                row["hidden_sizes"] = [int(size) for size in row["hidden_sizes"]]
            bare = task.method == "dense" and task.constraint is None and not row.get("decided")
            if not bare and self.open(task, [row["tolerance"]], retry=True):
                self.append(task, row)
                added += 1
        for task, row in () if failures is None else _read_table(failures):
            if self.open(task, [row["tolerance"]], retry=False):
                self.fail(task, row.pop("tolerance"), row.pop("error"), row)
        return added

    def frame(self) -> pd.DataFrame:
        """Return all finished rows as one tidy table, the constraint "none" where there is none."""
        return _collect(self.folder, failed=False)

    def failures(self) -> pd.DataFrame:
        """Return all failures as one table."""
        return _collect(self.folder, failed=True)


def pack_decisions(decided: np.ndarray) -> str:
    """Return decisions, a bit a row, as text."""
    return base64.b64encode(np.packbits(decided.astype(bool)).tobytes()).decode()


def unpack_decisions(text: str, n: int) -> np.ndarray:
    """Return the n decisions that :func:`pack_decisions` packed, as integers."""
    return np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8), count=n).astype(np.int8)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _read_table(table: pd.DataFrame) -> Iterator[tuple[Task, dict[str, Any]]]:
    """Yield the tasks of a table that :meth:`Store.frame` or :meth:`Store.failures` gave, with their rows."""
    for row in table.astype(object).where(table.notna(), None).to_dict("records"):
        row["constraint"] = None if row["constraint"] == "none" else row["constraint"]
        row["max_epochs"] = int(row["max_epochs"]) if row["max_epochs"].isdigit() else row["max_epochs"]
        yield Task(*(row.pop(field) for field in Task._fields)), row


def _collect(folder: Path, failed: bool) -> pd.DataFrame:
    paths = sorted(path for path in folder.rglob("*.jsonl") if path.name.endswith(".errors.jsonl") == failed)
    rows = [row for path in paths for row in _read(path)]
    frame = pd.DataFrame(rows, columns=None if rows else [*Task._fields, "tolerance"])
    frame["constraint"] = frame["constraint"].fillna("none")
    # One type in a column: Parquet takes no mixture of "auto" and numbers.
    frame["max_epochs"] = frame["max_epochs"].astype(str)
    return frame
