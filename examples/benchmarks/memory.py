"""The memory of a fit: how far it grows at its peak, as a multiple of the memory of X.

Run as a fresh process, with X and y made before the measurement starts. What torch and the other
libraries allocate lazily in the first fit counts, too. Goal at 1,000,000 x 50 float64: <= 3.

    python examples/benchmarks/memory.py
"""

import argparse
import resource
import sys
import threading

import numpy as np
import psutil
import torch
from command_line import at_least

from skfairprune import FairPrunedClassifier

GOAL = 3.0


class PeakMemory:
    """Sample the resident memory of this process while the block runs; `growth` is in bytes."""

    def __enter__(self) -> "PeakMemory":
        self._process = psutil.Process()
        self.start = self.peak = self._process.memory_info().rss
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, self._process.memory_info().rss)

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        """The sampled peak over the memory at the start."""
        return self.peak - self.start


def main() -> None:
    """Fit once and print the growth."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=at_least(1), default=1_000_000)
    parser.add_argument("--columns", type=at_least(2), default=50)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((args.rows, args.columns))
    y = (X[:, 0] + rng.standard_normal(args.rows) > 0).astype(int)
    group = (X[:, 1] + rng.standard_normal(args.rows) > 0).astype(int)
    clf = FairPrunedClassifier(
        hidden_layer_sizes=(64, 64), constraint="demographic_parity", max_epochs=3, random_state=0
    )
    with PeakMemory() as memory:
        clf.fit(X, y, sensitive_features=group)
    # The kernel's own peak misses nothing between samples, but it includes what came before the fit.
    unit = 1 if sys.platform == "darwin" else 1024
    kernel = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - memory.start
    ratio = max(memory.growth, kernel) / X.nbytes
    mib = 2**20
    print(f"X: {args.rows:,} x {args.columns} float64, {X.nbytes / mib:,.0f} MiB")
    print(f"growth by samples: {memory.growth / mib:,.0f} MiB, {memory.growth / X.nbytes:.2f} x X")
    print(f"growth by ru_maxrss: {kernel / mib:,.0f} MiB, {kernel / X.nbytes:.2f} x X")
    print(f"ratio {ratio:.2f}, goal <= {GOAL:g}: {'met' if ratio <= GOAL else 'missed'}")


if __name__ == "__main__":
    main()
