"""Accuracy and gaps on Adult at 90 % sparsity, beside strong references.

Every method is fitted on the same 70/30 splits, resampled for each seed; the means over the seeds and
their standard errors are printed as Markdown. The gaps are fairlearn's. The small networks from scratch
have the sizes that pruning found under the same constraint. The reductions, run with --all only since
they fit gradient boosting some 20 to 100 times, predict at random.

    python examples/benchmarks/adult.py --seeds 5 --jobs 2 --output results.md
"""

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference
from fairlearn.reductions import DemographicParity, EqualizedOdds, ExponentiatedGradient
from joblib import Parallel, delayed, parallel_config
from protocol import Part, load, split
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch

from skfairprune import FairPrunedClassifier

CONSTRAINTS: dict[str, dict[str, Any]] = {
    "unconstrained": {"constraint": None},
    "DP .02": {"constraint": "demographic_parity", "difference_bound": 0.02},
    "EO .04": {"constraint": "equalized_odds", "difference_bound": 0.04},
}


def run_method(name: str, model: Any, train: Part, test: Part, seed: int) -> dict[str, Any]:
    """Fit one method on one split and return one row of figures."""
    reduction = isinstance(model, ExponentiatedGradient)
    groups = {"sensitive_features": train.group}
    start = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(train.X, train.y, **(groups if reduction or hasattr(model, "sparsity") else {}))
    row: dict[str, Any] = {"method": name, "seed": seed, "fit s": time.perf_counter() - start}
    row["warnings"] = len(caught)
    decided = model.predict(test.X, random_state=seed) if reduction else model.predict(test.X)
    row["accuracy"] = np.mean(decided == test.y)
    row["DP gap"] = demographic_parity_difference(test.y, decided, sensitive_features=test.group)
    row["EO gap"] = equalized_odds_difference(test.y, decided, sensitive_features=test.group)
    if isinstance(model, FairPrunedClassifier):
        row["sparsity"] = model.sparsity_
        row["parameters"] = model.pruning_report_.loc["total", "parameters_after"]
    return row


def run_seed(data: Bunch, seed: int, reductions: bool) -> list[dict[str, Any]]:
    """Run every method on one split."""
    torch.set_num_threads(1)
    train, test = split(data, seed)
    rows = []

    def run(name: str, model: Any) -> None:
        rows.append(run_method(name, model, train, test, seed))

    for name, constraint in CONSTRAINTS.items():
        pruned = FairPrunedClassifier(sparsity=0.9, **constraint, random_state=seed)
        run(f"pruned, {name}", pruned)
        sizes = tuple(int(mask.sum()) for mask in pruned.masks_)
        scratch = FairPrunedClassifier(sizes, sparsity=0, **constraint, random_state=seed)
        run(f"small from scratch, {name}", scratch)
    run("dense, unconstrained", FairPrunedClassifier(sparsity=0, constraint=None, random_state=seed))
    run("gradient boosting", HistGradientBoostingClassifier(random_state=seed))
    run("logistic regression", make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)))
    if reductions:
        for name, moment in (("DP", DemographicParity), ("EO", EqualizedOdds)):
            boosting = HistGradientBoostingClassifier(random_state=seed)
            reduction = ExponentiatedGradient(boosting, moment(difference_bound=0.01))
            run(f"exponentiated gradient over boosting, {name} .01", reduction)
    return rows


def summarise(rows: pd.DataFrame) -> str:
    """Return the table of means and standard errors over the seeds, as Markdown."""
    decimals = {"accuracy": 4, "DP gap": 4, "EO gap": 4, "sparsity": 3, "parameters": 0, "fit s": 1}
    lines = ["| method | " + " | ".join(decimals) + " |", "|---|" + "---:|" * len(decimals)]
    for name, group in rows.groupby("method", sort=False):
        cells = [name]
        for column, digits in decimals.items():
            values = group[column].dropna()
            error = f" ± {values.sem():,.{digits}f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():,.{digits}f}{error}" if len(values) else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run the benchmark and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="adult")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="processes, with one thread each")
    parser.add_argument("--all", action="store_true", help="fairlearn's reductions, too (slow)")
    parser.add_argument("--output", type=Path, help="write the table to this file, too")
    args = parser.parse_args()
    try:
        data = load(args.data)
    except (FileNotFoundError, ImportError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    with parallel_config("loky", n_jobs=args.jobs, inner_max_num_threads=1):
        found = Parallel()(delayed(run_seed)(data, seed, args.all) for seed in range(args.seeds))
    rows = pd.DataFrame([row for part in found for row in part])
    text = f"{args.data}: means over {args.seeds} resampled 70/30 splits ± standard error of the mean\n\n"
    text += summarise(rows) + "\n"
    for name, warned in rows.groupby("method", sort=False)["warnings"].sum().items():
        text += f"\n{name}: {warned} convergence warnings\n" if warned else ""
    print(text)
    if args.output:
        args.output.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
