"""The main job, end to end: prune a network by 90 % while the groups' selection rates stay close.

Three networks are trained on the same 70 % of the rows: the dense one, one with 90 % of its parameters
pruned, and one pruned under a bound on the demographic parity (DP) gap. References stand beside them: a
network of the small size trained from scratch, gradient boosting and, on the synthetic data, the exact
Bayes rule. None of them sees the sensitive column in X. The other 30 % of the rows are used once, for
the table; a figure of it is written as PNG.

    python examples/quickstart.py
    python examples/quickstart.py --data adult --seed 1 --output adult.png

The real data sets are read from the folder in SKFAIRPRUNE_DATA.
"""

import argparse
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.model_selection import train_test_split

from skfairprune import FairPrunedClassifier
from skfairprune.datasets import (
    BiasedDistribution,
    load_benchmark,
    make_biased_classification,
    make_preprocessor,
)
from skfairprune.metrics import GapWithError, gap_with_error

BOUND = 0.02
SPARSITY = 0.9
ROOT = Path(__file__).resolve().parents[1]
SETS = ["synthetic", "adult", "compas", "german_credit", "bank_marketing", "law_school", "acs_income"]


class Part(NamedTuple):
    """The training or the test part."""

    X: np.ndarray
    y: np.ndarray
    group: np.ndarray


class Result(NamedTuple):
    """One line of the table; the entries that do not apply are None."""

    accuracy: float
    dp: GapWithError
    eo: GapWithError
    hidden: tuple[int, ...] | None = None
    parameters: int | None = None
    macs: int | None = None
    fit_s: float | None = None
    row_us: float | None = None
    batch_ms: float | None = None


def load(name: str, seed: int, quick: bool) -> tuple[Part, Part, BiasedDistribution | None]:
    """Return the training part, the test part and, for the synthetic data, the law they come from."""
    if name == "synthetic":
        data = make_biased_classification(4_000 if quick else 20_000, random_state=seed)
    else:
        folder = ROOT.parent / "shared" / "data"
        default = folder if folder.is_dir() else None
        data = load_benchmark(name, data_home=os.environ.get("SKFAIRPRUNE_DATA") or default)
    X, y, group = data.X, np.asarray(data.y), np.asarray(data.sensitive_features)
    rows = np.random.default_rng(seed).permutation(len(y))[: 4_000 if quick else None]
    cells = [f"y={label}, {g}" for label, g in zip(y[rows], group[rows], strict=True)]
    train, test = train_test_split(rows, test_size=0.3, stratify=cells, random_state=seed)
    if isinstance(X, pd.DataFrame):
        X = make_preprocessor(X).fit(X.iloc[train]).transform(X)
    parts = [Part(X[part], y[part], group[part]) for part in (train, test)]
    return parts[0], parts[1], data.get("distribution")


def seconds(call: Any, repeats: int) -> float:
    """Return the median duration of a call."""
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        durations.append(time.perf_counter() - start)
    return float(np.median(durations))


def audit(model: Any, test: Part) -> dict[str, Any]:
    """Measure a fitted model, or any object with predict, on the test part."""
    decided = model.predict(test.X)
    dp, eo = (
        gap_with_error(test.y, decided, constraint=name, sensitive_features=test.group)
        for name in ("demographic_parity", "equalized_odds")
    )
    return {"accuracy": float(accuracy_score(test.y, decided)), "dp": dp, "eo": eo}


def measure(model: Any, train: Part, test: Part) -> Result:
    """Fit a model and measure what it predicts and what it costs."""
    groups = {"sensitive_features": train.group} if isinstance(model, FairPrunedClassifier) else {}
    start = time.perf_counter()
    model.fit(train.X, train.y, **groups)
    cost: dict[str, Any] = {"fit_s": time.perf_counter() - start}
    if isinstance(model, FairPrunedClassifier):
        total = model.pruning_report_.loc["total"]
        cost["hidden"] = tuple(int(mask.sum()) for mask in model.masks_)
        cost["parameters"], cost["macs"] = int(total["parameters_after"]), int(total["macs_after"])
    cost["row_us"] = 1e6 * seconds(lambda: model.predict(test.X[:1]), 200)
    cost["batch_ms"] = 1e3 * seconds(lambda: model.predict(test.X[:10_000]), 5)
    return Result(**audit(model, test), **cost)


def compare(
    train: Part, test: Part, law: BiasedDistribution | None, seed: int, quick: bool
) -> dict[str, Result]:
    """Fit and measure every model."""
    common = {"hidden_layer_sizes": (64, 64) if quick else (256, 256), "random_state": seed}
    models: dict[str, Any] = {
        "dense": FairPrunedClassifier(sparsity=0, constraint=None, **common),
        "pruned": FairPrunedClassifier(sparsity=SPARSITY, constraint=None, **common),
        "fair pruned": FairPrunedClassifier(
            sparsity=SPARSITY, constraint="demographic_parity", difference_bound=BOUND, **common
        ),
    }
    results = {name: measure(model, train, test) for name, model in models.items()}
    small = {**common, "hidden_layer_sizes": results["fair pruned"].hidden}
    scratch = FairPrunedClassifier(sparsity=0, constraint=None, **small)
    results["small from scratch"] = measure(scratch, train, test)
    boosting = HistGradientBoostingClassifier(random_state=seed)
    results["gradient boosting"] = measure(boosting, train, test)
    if law is not None:
        results["exact Bayes rule"] = Result(**audit(law, test))
    return results


def table(results: dict[str, Result]) -> str:
    """Lay the results out as text."""

    def show(value: Any, form: str) -> str:
        return "-" if value is None else format(value, form)

    def show_gap(gap: GapWithError) -> str:
        return f"{gap.value:.3f} ± {gap.standard_error:.3f}"

    lines = [["model", "accuracy", "DP gap ± se", "EO gap ± se", "parameters", "units", "MACs"]]
    lines[0] += ["fit s", "row µs", "batch ms"]
    for name, r in results.items():
        units = None if r.hidden is None else sum(r.hidden)
        cells = [name, f"{r.accuracy:.3f}", show_gap(r.dp), show_gap(r.eo)]
        cells += [show(value, ",") for value in (r.parameters, units, r.macs)]
        lines.append([*cells, show(r.fit_s, ".1f"), show(r.row_us, ".0f"), show(r.batch_ms, ".1f")])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    ]
    return "\n".join([text[0], "-" * len(text[0]), *text[1:]])


def conclude(results: dict[str, Result]) -> str:
    """Say in words what the table shows."""
    dense, pruned, fair = (results[name] for name in ("dense", "pruned", "fair pruned"))
    removed = 1 - fair.parameters / dense.parameters
    points = 100 * (dense.accuracy - fair.accuracy)
    value, error = fair.dp.value, fair.dp.standard_error
    if value > BOUND:
        bound = (
            f"does not satisfy the bound of {BOUND} on held-out data: the gap is "
            f"{(value - BOUND) / error:.1f} standard errors above it"
        )
    elif value + error > BOUND:
        bound = f"satisfies the bound of {BOUND} on held-out data, with less than a standard error to spare"
    else:
        bound = f"satisfies the bound of {BOUND} on held-out data"
    first = (
        f"Fair pruning removed {removed:.1%} of the dense network's parameters and took the DP gap from "
        f"{dense.dp.value:.3f} to {value:.3f} at {abs(points):.1f} points {'less' if points >= 0 else 'more'} "
        f"accuracy; it {bound}."
    )
    second = (
        f"Without a bound, the pruned network reaches {pruned.accuracy:.3f}, the small one trained from "
        f"scratch {results['small from scratch'].accuracy:.3f} and gradient boosting "
        f"{results['gradient boosting'].accuracy:.3f}"
    )
    if "exact Bayes rule" in results:
        second += f"; the best possible rule has {results['exact Bayes rule'].accuracy:.3f}"
    return f"{first}\n{second}."


def spread(heights: np.ndarray, distance: float) -> np.ndarray:
    """Move heights in [0, 1] as little as needed for labels to be a distance apart."""
    placed = heights.copy()
    order = np.argsort(heights)
    for _ in range(200):
        for low, high in zip(order[:-1], order[1:], strict=True):
            short = distance - (placed[high] - placed[low])
            if short > 0:
                placed[low] -= short / 2
                placed[high] += short / 2
        placed = placed.clip(0, 1)
    return placed


def plot(results: dict[str, Result], title: str, n_test: int, path: Path) -> None:
    """Write the figure: accuracy against the DP gap, and the parameters of the networks."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    colors = dict(
        zip(results, ["#4c566a", "#5e81ac", "#c1440e", "#8a6fb0", "#3d8361", "#222222"], strict=False)
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), width_ratios=[1.5, 1], layout="constrained")
    gaps = np.array([result.dp.value for result in results.values()])
    accuracies = np.array([result.accuracy for result in results.values()])
    for (name, r), gap, accuracy in zip(results.items(), gaps, accuracies, strict=True):
        errors = {"xerr": r.dp.standard_error, "yerr": np.sqrt(accuracy * (1 - accuracy) / n_test)}
        left.errorbar(gap, accuracy, **errors, fmt="o", color=colors[name], elinewidth=1, alpha=0.9)
    left.axvline(BOUND, color="#c1440e", linestyle="--", linewidth=1)
    left.annotate(
        f"bound {BOUND}", (BOUND, 1), (4, -4), xycoords=left.get_xaxis_transform(),
        textcoords="offset points", color="#c1440e", va="top",
    )  # fmt: skip
    left.set_xlim(left=0)
    low, high = left.get_ylim()
    heights = spread((accuracies - low) / (high - low), 0.09)
    for name, gap, accuracy, height in zip(results, gaps, accuracies, heights, strict=True):
        left.annotate(
            name, (gap, accuracy), (1.06, height), textcoords="axes fraction", va="center",
            color=colors[name], arrowprops={"arrowstyle": "-", "color": colors[name], "lw": 0.5, "alpha": 0.6},
        )  # fmt: skip
    left.set(xlabel="demographic parity gap, ± standard error", ylabel="accuracy", title="Test part")
    networks = {name: r for name, r in results.items() if r.hidden}
    bars = right.barh(
        list(networks), [r.parameters for r in networks.values()], color=[colors[name] for name in networks]
    )
    labels = [f" {r.parameters:,}\n {'-'.join(map(str, r.hidden))} units" for r in networks.values()]
    right.bar_label(bars, labels, fontsize=9)
    right.set(xscale="log", xlabel="parameters (log scale)", title="Size")
    right.set_xlim(right=12 * max(r.parameters for r in networks.values()))
    right.invert_yaxis()
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> int:
    """Run the comparison and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=SETS, default="synthetic")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="the figure; default build/quickstart-DATA.png")
    parser.add_argument("--quick", action="store_true", help="4,000 rows, 64-64 units: seconds")
    args = parser.parse_args()
    try:
        train, test, law = load(args.data, args.seed, args.quick)
    except (FileNotFoundError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{args.data}: {len(train.y):,} training and {len(test.y):,} test rows, {train.X.shape[1]} columns")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        results = compare(train, test, law, args.seed, args.quick)
    print(
        f"\n{table(results)}\n\nbatch: {min(len(test.y), 10_000):,} rows. se: standard error on the test part."
    )
    print(f"\n{conclude(results)}")
    for warning in caught:
        print(f"{warning.category.__name__}: {warning.message}")
    output = args.output or ROOT / "build" / f"quickstart-{args.data}.png"
    try:
        plot(results, f"Pruning under a bound: {args.data}", len(test.y), output)
    except ImportError:
        print("No figure: it needs matplotlib, pip install skfairprune[plot]", file=sys.stderr)
        return 0
    print(f"Figure: {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
