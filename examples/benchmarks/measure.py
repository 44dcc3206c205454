"""What is measured of a solution: accuracy, gaps with their sampling errors, size; and on which machine."""

import os
import platform
import subprocess
from collections import Counter
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from protocol import Part

from skfairprune import FairPrunedClassifier
from skfairprune.metrics import gap_with_error

__all__ = ["GAPS", "degradation_gap", "figures", "size", "tell_machine", "tell_warnings"]

#: The constraint behind each column of gaps.
GAPS = {
    "dp": "demographic_parity",
    "eo": "equalized_odds",
    "tpr": "true_positive_rate_parity",
    "error": "error_rate_parity",
}


def degradation_gap(correct: np.ndarray, dense_correct: np.ndarray, group: np.ndarray) -> tuple[float, float]:
    """Return the gap between groups of the accuracy lost against the dense network, and its sampling error.

    Definition 3 of the paper: the largest minus the smallest, over the groups, of the mean of
    ``dense_correct - correct``. The error is that of a difference of two such means of paired rows.
    """
    lost = dense_correct.astype(float) - correct.astype(float)
    means = {label: lost[group == label].mean() for label in np.unique(group)}
    extremes = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    variance = sum(lost[group == label].var() / np.sum(group == label) for label in extremes)
    return means[extremes[0]] - means[extremes[1]], float(np.sqrt(variance))


def figures(test: Part, decided: np.ndarray, dense_decided: np.ndarray | None) -> dict[str, Any]:
    """Return accuracy and gaps on the test part; without the dense decisions no degradation gap."""
    positive = test.y.mean()
    row: dict[str, Any] = {
        "accuracy": float(np.mean(decided == test.y)),
        "majority": float(max(positive, 1 - positive)),
        "positive_rate": float(np.mean(decided)),
    }
    for name, constraint in GAPS.items():
        found = gap_with_error(
            test.y, decided, constraint=constraint, sensitive_features=test.group, pos_label=1
        )
        row[f"{name}_gap"], row[f"{name}_se"] = float(found.value), float(found.standard_error)
    row["degradation_gap"] = row["degradation_se"] = None
    if dense_decided is not None:
        row["degradation_gap"], row["degradation_se"] = degradation_gap(
            decided == test.y, dense_decided == test.y, test.group
        )
    row["n_test"] = len(test.y)
    return row


def size(model: Any) -> dict[str, Any]:
    """Return how large a network is and how long it was trained; nothing for other models."""
    if not isinstance(model, FairPrunedClassifier):
        return {}
    report = model.pruning_report_
    total = report.loc["total"]
    row = {
        f"sparsity_{kind}": float(1 - total[f"{kind}_after"] / total[f"{kind}_before"])
        for kind in ("parameters", "units", "macs")
    }
    hidden = report.index.str.startswith("hidden")
    row["parameters"] = int(total["parameters_after"])
    row["hidden_sizes"] = [int(n) for n in report.loc[hidden, "units_after"]]
    row["n_iter"] = int(model.n_iter_)
    # Where the history counts them: epochs of the phases are not on equally many rows.
    updates = model.history_.get("updates")
    row["updates"] = None if updates is None else int(updates.sum())
    found = model.validation_gap_
    row["validation_gap"] = None if found is None else float(found.value)
    return row


def tell_warnings(caught: list[Any]) -> str:
    """Return the warnings of a fit as one short text."""
    counts = Counter(warning.category.__name__ for warning in caught)
    return "; ".join(f"{name} x{count}" for name, count in sorted(counts.items()))


def tell_machine() -> dict[str, str]:
    """Return the date, the machine, the versions and the commit."""
    processor = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        models = [line for line in info.read_text(encoding="utf-8").splitlines() if "model name" in line]
        processor = models[0].split(":")[1].strip() if models else processor
    packages = ("skfairprune", "torch", "scikit-learn", "fairlearn", "numpy")
    versions = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {processor}",
        "versions": ", ".join(versions),
        "commit": _tell_commit(),
    }


def _tell_commit() -> str:
    """Return the repository's commit, marked if the package differs from it; "" outside a repository."""
    folder = Path(__file__).parent

    def git(*args: str) -> str:
        done = subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    changed = git("status", "--porcelain", "--", ":/skfairprune")
    return git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")
