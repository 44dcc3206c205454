"""Which stage of pruning pays: the reconstruction's start, the training of gates, the refit of what is left.

Each row leaves out or changes one of them, in fits that are else the default without a constraint:

    start    The gates start from the worth by reconstruction (optimal brain surgeon); else all are alike.
    gates    They are trained by the bilevel phase; else the start chooses, and the epochs go to fine-tuning.
    refit    What reads the units that stay is refitted by least squares; else units are cut off.

Shown are the accuracy on the test part, and its difference to the default, paired by split.

    python examples/benchmarks/stages.py --sets law_school --seeds 5 --jobs 2
"""

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from typing import NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import torch
from command_line import at_least, check_names, n_jobs
from joblib import Parallel, delayed
from measure import tell_machine
from protocol import OTHERS, SETS, load_split
from summary import mean_error
from tables import markdown, value

from skfairprune import FairPrunedClassifier, _assembly
from skfairprune.pruning.structure import UnitStructure
from skfairprune.training.plan import make_plan


class Stages(NamedTuple):
    """What a row of the table does; ``epochs`` are those of the bilevel phase, None its own."""

    label: str
    start: bool = True
    gates: bool = True
    refit: bool = True
    epochs: int | None = None


STAGES = (
    Stages("start, gates, refit (the default)"),
    Stages("start, refit: `criterion='obs'`", gates=False),
    Stages("gates, refit", start=False),
    Stages("start, gates", refit=False),
    Stages("gates alone", start=False, refit=False),
    Stages("the default, 5 of 20 epochs for the gates", epochs=5),
)


@contextmanager
def only(stages: Stages) -> Iterator[None]:
    """Let fits leave out what a row leaves out."""
    with ExitStack() as stack:
        if not stages.start:

            def alike(self: UnitStructure, *args: object) -> list:
                return [np.zeros(shape) for shape in self.shapes()]

            stack.enter_context(mock.patch.object(UnitStructure, "start", alike))
        if not stages.refit:

            def remove(self: UnitStructure, network: torch.nn.Module, masks: list, sample: object) -> object:
                return self.remove(network, masks)

            stack.enter_context(mock.patch.object(UnitStructure, "remove_and_refit", remove))
        if stages.epochs is not None:

            def longer(*args: object) -> object:
                plan = make_plan(*args)
                shift = stages.epochs - plan.bilevel
                return plan._replace(bilevel=stages.epochs, fine_tune=plan.fine_tune - shift)

            stack.enter_context(mock.patch.object(_assembly, "make_plan", longer))
        yield


def run(name: str, seed: int, sparsity: float, stages: Stages) -> dict:
    """Fit on one split and return the accuracy."""
    torch.set_num_threads(1)
    train, test = load_split(name, seed)
    criterion = "bilevel" if stages.gates else "obs"
    clf = FairPrunedClassifier(constraint=None, criterion=criterion, sparsity=sparsity, random_state=seed)
    with only(stages), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clf.fit(train.X, train.y)
    figures = {"accuracy": float(np.mean(clf.predict(test.X) == test.y))}
    return {"set": name, "seed": seed, "sparsity": sparsity, "stages": stages.label, **figures}


def main() -> int:
    """Print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", default="adult,compas,law_school", help="separated by commas")
    parser.add_argument("--seeds", type=at_least(1), default=5)
    parser.add_argument("--sparsities", default=".95,.98,.99", help="separated by commas")
    parser.add_argument("--jobs", type=n_jobs, default=1)
    args = parser.parse_args()
    sets = args.sets.split(",")
    check_names(parser, sets, [*SETS, *OTHERS])
    levels = [float(level) for level in args.sparsities.split(",")]
    tasks = product(sets, range(args.seeds), levels, STAGES)
    try:
        rows = Parallel(n_jobs=args.jobs)(delayed(run)(*task) for task in tasks)
    except (FileNotFoundError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    print(", ".join(tell_machine().values()) + f"; {args.seeds} splits\n")
    for name, found in pd.DataFrame(rows).groupby("set", sort=False):
        table = found.pivot_table(index="seed", columns=["stages", "sparsity"], values="accuracy")
        lines = []
        for stages in STAGES:
            line = [stages.label]
            for level in levels:
                own, default = table[stages.label, level], table[STAGES[0].label, level]
                line.append(f"{own.mean():.4f}")
                line.append("" if stages is STAGES[0] else value(*mean_error(own - default), sign=True))
            lines.append(line)
        header = [text for level in levels for text in (f"{level:.0%}", "less default")]
        print(markdown([str(name), *header], lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
