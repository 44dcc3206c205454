"""Speed as ratios, each measured in one run against a named alternative on the same machine.

fit
    A whole fit on Adult under a DP bound, default network, against a dense skorch
    `NeuralNetClassifier` with its defaults: same hidden sizes, epochs, batch size and X. Goal: <= 1.
row
    `predict_proba` on one row against scikit-learn's `LogisticRegression`. Goal: <= 2.
batch
    `predict_proba` on 100,000 rows against the bare forward pass of the small network, encoding
    included, on a tensor that is ready. Goal: <= 1.3.
groups DP, groups EO, random DP, random EO
    A whole fit on 20,000 rows with 50 groups, whose base rates differ or which are drawn at random, against
    one with 2. Goal: 1, "no extra cost".

The two sides of a ratio take turns, and medians are compared. One thread, unless --threads says more.

    python examples/benchmarks/speed.py --only row
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from command_line import at_least
from protocol import Part, load, split
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetClassifier
from torch import nn

from skfairprune import FairPrunedClassifier
from skfairprune.datasets import make_biased_classification

EPOCHS, BATCH, HIDDEN = 20, 512, (256, 256)
GOALS = {"fit": 1.0, "row": 2.0, "batch": 1.3} | dict.fromkeys(
    ("groups DP", "groups EO", "random DP", "random EO"), 1.0
)
BLOCK = 4096


def race(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Call the contestants in turn and return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def make_classifier(**changes: Any) -> FairPrunedClassifier:
    """Return the estimator under test."""
    bound = {"constraint": "demographic_parity", "difference_bound": 0.02}
    common = {"hidden_layer_sizes": HIDDEN, "max_epochs": EPOCHS, "batch_size": BATCH, "random_state": 0}
    return FairPrunedClassifier(**{**common, **bound, **changes})


def make_dense_net(n_inputs: int) -> NeuralNetClassifier:
    """Return skorch's classifier with its defaults around a plain dense network."""
    sizes = [n_inputs, *HIDDEN]
    layers = [nn.Linear(sizes[0], sizes[1]), nn.ReLU(), nn.Linear(sizes[1], sizes[2]), nn.ReLU()]
    module = nn.Sequential(*layers, nn.Linear(sizes[2], 2))
    return NeuralNetClassifier(
        module, criterion=nn.CrossEntropyLoss, max_epochs=EPOCHS, batch_size=BATCH, verbose=0
    )


def time_fit(train: Part, repeats: int) -> dict[str, float]:
    """Race the whole fits."""
    X, y, group = train
    return race(
        {
            "FairPrunedClassifier.fit": lambda: make_classifier().fit(X, y, sensitive_features=group),
            "skorch NeuralNetClassifier.fit": lambda: make_dense_net(X.shape[1]).fit(X, y),
        },
        repeats,
    )


def time_row(train: Part, repeats: int) -> dict[str, float]:
    """Race the predictions of a single row."""
    clf = make_classifier(max_epochs=3).fit(train.X, train.y, sensitive_features=train.group)
    X = StandardScaler().fit_transform(train.X)  # for its solver; prediction takes as long without
    logistic = LogisticRegression().fit(X, train.y)
    return race(
        {
            "FairPrunedClassifier.predict_proba": lambda: clf.predict_proba(train.X[:1]),
            "LogisticRegression.predict_proba": lambda: logistic.predict_proba(X[:1]),
        },
        repeats,
    )


def time_batch(train: Part, repeats: int) -> dict[str, float]:
    """Race the predictions of 100,000 rows; the faster of two bare passes counts."""
    clf = make_classifier(max_epochs=3).fit(train.X, train.y, sensitive_features=train.group)
    X = np.resize(train.X, (100_000, train.X.shape[1]))
    tensor = torch.from_numpy(X)

    @torch.inference_mode()
    def bare_blocks() -> None:
        torch.cat([clf.module_(block) for block in tensor.split(BLOCK)])

    @torch.inference_mode()
    def bare_whole() -> None:
        clf.module_(tensor)

    ours = "FairPrunedClassifier.predict_proba"
    times = race(
        {
            ours: lambda: clf.predict_proba(X),
            f"bare forward pass, blocks of {BLOCK:,}": bare_blocks,
            "bare forward pass, one call": bare_whole,
        },
        repeats,
    )
    fastest = min(times.keys() - {ours}, key=times.__getitem__)
    return {ours: times[ours], fastest: times[fastest]}


def time_groups(constraint: str, repeats: int, bound: float, random: bool = False) -> dict[str, float]:
    """Race fits with many groups and with two, whose base rates differ or which are drawn at random."""
    calls: dict[str, Callable[[], Any]] = {}
    for n in (50, 2):
        law = {"group_probs": (1 / n,) * n, "base_rates": tuple(np.linspace(0.25, 0.55, n))}
        data = make_biased_classification(20_000, **law, random_state=0)
        group = data.sensitive_features
        if random:
            group = np.random.default_rng(0).integers(0, n, len(data.y)).astype(str)
        clf = make_classifier(constraint=constraint, difference_bound=bound)
        calls[f"fit, {n} groups"] = partial(clf.fit, data.X, data.y, sensitive_features=group)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bounds that so few rows a group cannot show
        return race(calls, repeats)


def main() -> int:
    """Run the races and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(GOALS))
    parser.add_argument("--repeats", type=at_least(1), default=3, help="of the fits; predictions repeat more")
    parser.add_argument("--bound", type=float, default=0.02, help="of the fits with many groups")
    parser.add_argument("--threads", type=at_least(1), default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        train, _ = split(load("adult"), seed=0)
    except (FileNotFoundError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    races = {
        "fit": lambda: time_fit(train, args.repeats),
        "row": lambda: time_row(train, 2_000),
        "batch": lambda: time_batch(train, 15),
        "groups DP": lambda: time_groups("demographic_parity", args.repeats, args.bound),
        "groups EO": lambda: time_groups("equalized_odds", args.repeats, args.bound),
        "random DP": lambda: time_groups("demographic_parity", args.repeats, args.bound, random=True),
        "random EO": lambda: time_groups("equalized_odds", args.repeats, args.bound, random=True),
    }
    print(f"{'':<9} {'seconds':>10}  {'what':<42} {'ratio':>6}  goal")
    for name in [args.only] if args.only else GOALS:
        (ours, our_time), (other, other_time) = races[name]().items()
        ratio = our_time / other_time
        verdict = "met" if ratio <= GOALS[name] else "missed"
        print(f"{name:<9} {our_time:>10.6f}  {ours:<42} {ratio:>6.2f}  <= {GOALS[name]:g}, {verdict}")
        print(f"{'':<9} {other_time:>10.6f}  {other}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
