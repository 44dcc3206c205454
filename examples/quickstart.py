"""The main job, end to end: prune a network by 90 % while the groups' selection rates stay close.

Three networks are trained on the same 70 % of the rows: the dense one, one with 90 % of its parameters
pruned, and one pruned under a bound on the demographic parity (DP) gap. References stand beside them: a
network of the small size trained from scratch, gradient boosting and, on the synthetic data, the exact
Bayes rule. None of them sees the sensitive column in X. The other 30 % of the rows, or for the synthetic
data as many fresh ones as it takes to test the bound, are used once, for the table; a figure of it is
written as PNG.

    python examples/quickstart.py
    python examples/quickstart.py --data adult --seed 1 --output adult.png

The real data sets are read from the folder in SKFAIRPRUNE_DATA.
"""

import argparse
import os
import sys
import textwrap
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
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
        # A bound can only be tested well above the test part's standard error, so that part is large.
        n_train, n_test = (2_800, 10_000) if quick else (14_000, 50_000)
        data = make_biased_classification(n_train + n_test, random_state=seed)
        parts = np.split(np.arange(n_train + n_test), [n_train])
    else:
        folder = ROOT.parent / "shared" / "data"
        default = folder if folder.is_dir() else None
        data = load_benchmark(name, data_home=os.environ.get("SKFAIRPRUNE_DATA") or default)
        rows = np.random.default_rng(seed).permutation(len(data.y))[: 4_000 if quick else None]
        cells = data.y.iloc[rows].astype(str) + data.sensitive_features.iloc[rows].astype(str)
        parts = train_test_split(rows, test_size=0.3, stratify=cells, random_state=seed)
        data.X = make_preprocessor(data.X).fit(data.X.iloc[parts[0]]).transform(data.X)
    y, group = np.asarray(data.y), np.asarray(data.sensitive_features)
    train, test = (Part(data.X[part], y[part], group[part]) for part in parts)
    return train, test, data.get("distribution")


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
    common: dict[str, Any] = {"random_state": seed}
    if quick:
        common |= {"hidden_layer_sizes": (64, 64), "max_epochs": 10}
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
    value, error, cost = fair.dp.value, fair.dp.standard_error, 100 * (dense.accuracy - fair.accuracy)
    if value > BOUND:
        verdict = f"It does not satisfy the bound of {BOUND} on held-out data: the gap is "
        verdict += f"{(value - BOUND) / error:.1f} standard errors above it"
    else:
        verdict = f"It satisfies the bound of {BOUND} on held-out data"
        verdict += ", with less than one standard error to spare" if value + error > BOUND else ""
    sentences = [
        f"Fair pruning removed {1 - fair.parameters / dense.parameters:.1%} of the dense network's "
        f"parameters and took the DP gap from {dense.dp.value:.3f} to {value:.3f}, at {abs(cost):.1f} points "
        f"{'less' if cost >= 0 else 'more'} accuracy.",
        f"{verdict}; the bound says nothing about the EO gap, which went from {dense.eo.value:.3f} to "
        f"{fair.eo.value:.3f}.",
        f"Without a bound, the pruned network reaches an accuracy of {pruned.accuracy:.3f}, the small one "
        f"trained from scratch {results['small from scratch'].accuracy:.3f} and gradient boosting "
        f"{results['gradient boosting'].accuracy:.3f}.",
    ]
    return textwrap.fill(" ".join(sentences), 110)


def spread(heights: np.ndarray, distance: float) -> np.ndarray:
    """Move heights in [0, 1] as little as needed for labels to be a distance apart."""
    placed = heights.copy()
    order = np.argsort(heights)
    for _ in range(200):
        for low, high in pairwise(order):
            short = distance - (placed[high] - placed[low])
            if short > 0:
                placed[low] -= short / 2
                placed[high] += short / 2
        placed = placed.clip(0, 1)
    return placed


def draw_gaps(axes: Any, results: dict[str, Result], colors: dict[str, str], n_test: int) -> None:
    """Draw accuracy against the DP gap, with the labels in a column beside."""
    for name, r in results.items():
        error = np.sqrt(r.accuracy * (1 - r.accuracy) / n_test)
        style = {"fmt": "o", "color": colors[name], "elinewidth": 1}
        axes.errorbar(r.dp.value, r.accuracy, xerr=r.dp.standard_error, yerr=error, **style)
    axes.axvline(BOUND, color="black", linestyle="--", linewidth=1)
    axes.text(BOUND, 1.01, f"bound {BOUND}", transform=axes.get_xaxis_transform())
    axes.set_xlim(left=0)
    low, high = axes.get_ylim()
    heights = spread(np.array([(r.accuracy - low) / (high - low) for r in results.values()]), 0.08)
    for (name, r), height in zip(results.items(), heights, strict=True):
        line = {"arrowstyle": "-", "color": "0.6", "linestyle": ":", "relpos": (0, 0.5)}
        point, label = (r.dp.value, r.accuracy), (1.04, height)
        style = {"color": colors[name], "va": "center", "arrowprops": line}
        axes.annotate(name, point, label, textcoords="axes fraction", **style)
    axes.set(xlabel="demographic parity gap on the test part", ylabel="accuracy on the test part")


def draw_sizes(axes: Any, results: dict[str, Result], colors: dict[str, str]) -> None:
    """Draw the parameters of the networks, with the units of their hidden layers."""
    networks = {name: r for name, r in results.items() if r.hidden}
    for name, r in networks.items():
        axes.plot(r.parameters, name, "o", color=colors[name])
        label = f"{r.parameters:,}   ({' + '.join(map(str, r.hidden))} units)"
        axes.annotate(label, (r.parameters, name), (0, 8), textcoords="offset points", ha="center")
    parameters = [r.parameters for r in networks.values()]
    axes.set(xscale="log", xlim=(min(parameters) / 6, max(parameters) * 8), ylim=(len(networks) - 0.5, -0.6))
    axes.grid(axis="y", linewidth=0.5)
    axes.set_xlabel("parameters, log scale")


def plot(results: dict[str, Result], title: str, n_test: int, path: Path) -> None:
    """Write the figure."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    colors = dict(zip(results, colormaps["tab10"].colors, strict=False))
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.3, 1])
    draw_gaps(left, results, colors, n_test)
    draw_sizes(right, results, colors)
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
    parser.add_argument("--quick", action="store_true", help="at most 4,000 rows, 64-64 units, 10 epochs")
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
        f"\n{table(results)}\n\nse: standard error on the test part; batch: {min(len(test.y), 10_000):,} rows"
    )
    print(f"\n{conclude(results)}")
    for warning in caught:
        print(f"{warning.category.__name__}: {warning.message}")
    output = args.output or ROOT / "build" / f"quickstart-{args.data}.png"
    try:
        plot(results, f"{args.data}: accuracy, gap (± standard error) and size", len(test.y), output)
    except ImportError:
        print("No figure: it needs matplotlib, pip install skfairprune[plot]", file=sys.stderr)
        return 0
    print(f"Figure: {output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
