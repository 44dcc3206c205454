"""A fit on the CPU and on a GPU: seconds, the same bits twice, and what the network is worth.

    python examples/benchmarks/devices.py
    python examples/benchmarks/devices.py --cases default --threads 1

The data are Adult, rows drawn from a known law, and the images of tests/networks/zoo.py. A row of the table
is a whole `fit` under demographic parity, of as many epochs as it says: few where it is slow, which leaves a
network that is not trained out. On the GPU a fit is run twice, the second is timed, and the weights are
compared bit by bit; then once with the kernels of each step launched one by one, and not replayed as a whole,
as those of the built-in network are. Accuracy and gap are those of the test part, on either device.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from command_line import at_least
from measure import tell_machine
from protocol import Part, load, split
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

from skfairprune import FairPrunedClassifier
from skfairprune.datasets import make_biased_classification
from skfairprune.metrics import gap_with_error
from skfairprune.training import net

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.networks.zoo import FTTransformer, ResNet10, make_biased_digits

CONSTRAINT = "demographic_parity"
SYNTHETIC_ROWS = 1_000_000


def _adult() -> tuple[Part, Part]:
    return split(load("adult"), seed=0)


def _synthetic() -> tuple[Part, Part]:
    parts = [make_biased_classification(n, random_state=i) for i, n in enumerate((SYNTHETIC_ROWS, 20_000))]
    train, test = (Part(part.X, part.y, part.sensitive_features) for part in parts)
    return train, test


def _digits() -> tuple[Part, Part]:
    X, y, group = make_biased_digits(0)
    parts = train_test_split(
        X, y, group, test_size=0.3, stratify=np.char.add(group, y.astype(str)), random_state=0
    )
    return Part(*parts[::2]), Part(*parts[1::2])


@dataclass(frozen=True)
class Case:
    """What is fitted."""

    title: str
    load: Callable[[], tuple[Part, Part]]
    epochs: int
    params: dict[str, Any] = field(default_factory=dict)


CASES = {
    "default": Case("Adult, 256-256 (the default)", _adult, 20),
    "wide": Case("Adult, 1024-1024", _adult, 5, {"hidden_layer_sizes": (1024, 1024)}),
    "rows": Case(f"{SYNTHETIC_ROWS:,} rows, 256-256, batch 8192", _synthetic, 3, {"batch_size": 8192}),
    "resnet": Case(
        "digits, ResNet-10 of width 64",
        _digits,
        5,
        {"module": lambda n, k: ResNet10(n, k, width=64), "sparsity": 0.7},
    ),
    "transformer": Case(
        "digits, FT-Transformer of width 64",
        _digits,
        5,
        {"module": lambda n, k: FTTransformer(n, k, width=64), "sparsity": 0.7},
    ),
}


def fit(case: Case, train: Part, device: str, threads: int = 1) -> tuple[FairPrunedClassifier, float]:
    """Fit with so many threads, of torch and of the linear algebra, and return the seconds that it took."""
    torch.set_num_threads(threads)
    clf = FairPrunedClassifier(
        constraint=CONSTRAINT, max_epochs=case.epochs, random_state=0, device=device, **case.params
    )
    start = time.perf_counter()
    with threadpool_limits(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few epochs leave some bounds unmet
        clf.fit(train.X, train.y, sensitive_features=train.group)
    return clf, time.perf_counter() - start


def describe(clf: FairPrunedClassifier, test: Part) -> str:
    """Return the accuracy and the gap on the test part."""
    decided = clf.predict(test.X)
    gap = gap_with_error(test.y, decided, constraint=CONSTRAINT, sensitive_features=test.group)
    return f"{np.mean(decided == test.y):.4f} / {gap.value:.4f}"


def have_same_bits(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Tell whether two networks have the same parameters and buffers, bit by bit."""
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def run(case: Case, threads: list[int]) -> str:
    """Return the row of the table."""
    train, test = case.load()
    cells, seconds = [f"{case.title}, {case.epochs} epochs"], []
    for number in threads:
        clf, taken = fit(case, train, "cpu", number)
        seconds.append(taken)
        cells.append(f"{taken:.1f}")
    worth = [describe(clf, test)]
    if torch.cuda.is_available():
        first, _ = fit(case, train, "cuda")
        torch.cuda.reset_peak_memory_stats()
        clf, taken = fit(case, train, "cuda")
        same = "yes" if have_same_bits(first.module_, clf.module_) else "no"
        memory = torch.cuda.max_memory_allocated() / 2**20
        with mock.patch.object(net, "can_replay", return_value=False):
            _, one_by_one = fit(case, train, "cuda")
        cells += [
            f"{taken:.1f}",
            f"{one_by_one:.1f}",
            f"{min(seconds) / taken:.2f}",
            f"{memory:.0f} MiB",
            same,
        ]
        worth.append(describe(clf, test))
    return "| " + " | ".join([*cells, *worth]) + " |"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--threads", nargs="+", type=at_least(1), default=[1], help="of the fits on the CPU")
    args = parser.parse_args()
    machine = tell_machine()
    heads = ["fit", *(f"CPU, {n} thread{'s' * (n > 1)}, s" for n in args.threads)]
    worths = ["accuracy / gap, CPU"]
    device = "no GPU"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
        heads += ["GPU, s", "GPU, one by one, s", "CPU / GPU", "GPU memory", "same bits twice"]
        worths.append("accuracy / gap, GPU")
    print(f"{machine['date']}, {device}; {machine['machine']}; {machine['versions']}\n")
    print("| " + " | ".join([*heads, *worths]) + " |")
    print("|---" * len([*heads, *worths]) + "|")
    for name in args.cases:
        try:
            print(run(CASES[name], args.threads), flush=True)
        except (FileNotFoundError, ImportError) as error:
            print(error, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
