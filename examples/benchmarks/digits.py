"""A convolutional network on images: ResNet-10 on scikit-learn's digits, with a group that is harder to read.

    python examples/benchmarks/digits.py --seeds 5 --jobs 2
    python examples/benchmarks/digits.py --first-seed 8 --methods "bi-level (ours)" --set-bounds .04,.03
    python examples/benchmarks/digits.py --network FTTransformer --methods "bi-level (ours)" --int8

The networks and the images are those of tests/networks/zoo.py; 70/30 splits, stratified on label and group.
The group is not given to predict. Baselines are run as published, without a constraint. A transformer reads
each pixel as a token.
"""

import argparse
import sys
import warnings
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from command_line import at_least, check_names, n_jobs
from joblib import Parallel, delayed
from sklearn.model_selection import train_test_split

from skfairprune import FairPrunedClassifier
from skfairprune.metrics import gap_with_error

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.networks.zoo import FTTransformer, MobileNetV2, ResNet10, make_biased_digits

NETWORKS = {"ResNet10": ResNet10, "FTTransformer": FTTransformer, "MobileNetV2": MobileNetV2}
CONSTRAINT = "error_rate_parity"
METHODS: dict[str, dict[str, Any]] = {
    "dense": {"sparsity": 0, "constraint": None},
    "bi-level (ours)": {},
    "bi-level, the rule alone": {"constrain": None},
    "bi-level, no rule": {"decision_rule": False},
    "bi-level, unconstrained": {"constraint": None},
    "FPGM": {"criterion": "fpgm", "constraint": None},
    "SNIP": {"criterion": "snip", "constraint": None},
    "Lottery": {"criterion": "lottery", "constraint": None},
}


def decide_by_int8(clf: FairPrunedClassifier, X: np.ndarray) -> np.ndarray:
    """Return the labels of the export with int8 weights."""
    import onnxruntime

    with TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        clf.to_onnx(path, quantize=True)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(["label"], {"X": X})[0]


def run(method: str, seed: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Fit one method on one split and return its figures on the test part.

    Those by int8 are in another row, and so are those of each bound that the fitted network is set to.
    """
    torch.set_num_threads(1)
    X, y, group = make_biased_digits(0)
    cells = np.char.add(group, y.astype(str))
    X, X_test, y, y_test, group, group_test = train_test_split(
        X, y, group, test_size=0.3, stratify=cells, random_state=seed
    )
    params = {
        "sparsity": args.sparsity,
        "constraint": CONSTRAINT,
        "difference_bound": args.bound,
        "max_epochs": args.epochs,
        "lr": args.lr,
        "random_state": seed,
    }
    clf = FairPrunedClassifier(
        lambda n_features, n_outputs: NETWORKS[args.network](n_features, n_outputs, width=args.width),
        **(params | METHODS[method]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clf.fit(X, y, sensitive_features=group)
    decisions = {method: clf.predict(X_test)}
    if args.int8:
        decisions[f"{method}, int8"] = decide_by_int8(clf, X_test)
    if clf.decision_rule and clf.constraint is not None:
        for bound in args.set_bounds:
            decisions[f"{method}, set to {bound:g}"] = clf.set_bound(bound).predict(X_test)
    total = clf.pruning_report_.loc["total"]
    found = []
    for name, decided in decisions.items():
        gap = gap_with_error(y_test, decided, constraint=CONSTRAINT, sensitive_features=group_test)
        found.append(
            {
                "method": name,
                "seed": seed,
                "accuracy": float(np.mean(decided == y_test)),
                "gap": gap.value,
                "standard error": gap.standard_error,
                "removed": clf.sparsity_,
                "MACs left": total["macs_after"] / total["macs_before"] if total["macs_before"] else 1.0,
                "changed": float(np.mean(decided != decisions[method])),
                "seconds": clf.history_["seconds"].sum(),
            }
        )
    return found


def main() -> None:
    """Print the means over the splits, with standard errors, and the paired differences to dense."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=at_least(1), default=5)
    parser.add_argument("--first-seed", type=at_least(0), default=0)
    parser.add_argument("--jobs", type=n_jobs, default=1)
    parser.add_argument("--network", choices=list(NETWORKS), default="ResNet10")
    parser.add_argument(
        "--width", type=at_least(1), default=16, help="channels of the first stage of four, or of a token"
    )
    parser.add_argument(
        "--int8", action="store_true", help="decide by the ONNX export with int8 weights, too"
    )
    parser.add_argument("--sparsity", type=float, default=0.7)
    parser.add_argument("--bound", type=float, default=0.05)
    parser.add_argument(
        "--set-bounds",
        type=lambda text: [float(bound) for bound in text.split(",")],
        default=[],
        help="other bounds, which the network that was fitted under --bound is set to",
    )
    parser.add_argument("--epochs", type=at_least(1), default=40)
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--methods", type=lambda text: text.split(";"), default=list(METHODS))
    args = parser.parse_args()
    check_names(parser, args.methods, METHODS)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    tasks = [(method, seed) for seed in seeds for method in args.methods]
    rows = pd.DataFrame(chain(*Parallel(args.jobs)(delayed(run)(*task, args) for task in tasks)))
    groups = rows.groupby("method", sort=False)
    means, errors = groups.mean(), groups.sem()
    for method, row in means.iterrows():
        print(
            f"{method:<28} accuracy {row['accuracy']:.4f} ± {errors.loc[method, 'accuracy']:.4f}   "
            f"error-rate gap {row['gap']:.4f} ± {errors.loc[method, 'gap']:.4f}   "
            f"removed {row['removed']:.3f}   MACs left {row['MACs left']:.3f}   {row['seconds']:.0f} s"
            + (f"   decisions changed {row['changed']:.4f}" if method.endswith(", int8") else "")
        )
    print(f"Sampling standard error of one split's gap: {rows['standard error'].mean():.3f}.")
    by_seed = rows.pivot_table(index="seed", columns="method", values=["accuracy", "gap"])
    for method in [name for name in means.index if name != "dense" and "dense" in means.index]:
        less = {key: by_seed[key, method] - by_seed[key, "dense"] for key in ("accuracy", "gap")}
        told = [f"{key} {values.mean():+.4f} ± {values.sem():.4f}" for key, values in less.items()]
        print(f"{method} less dense, paired: {', '.join(told)}")


if __name__ == "__main__":
    main()
