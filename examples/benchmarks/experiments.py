"""The experiments: which methods, sets, constraints and sparsities each table and figure needs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd
from baselines.outside import OUTSIDE
from method import TOLERANCES
from methods import CRITERIA, METHODS, OPTIONS, SKIPPED, is_possible
from protocol import SETS
from store import Task

__all__ = ["EXPERIMENTS", "N_SETTLED", "Experiment", "dense_task", "plan", "shorten"]

#: The design was settled on splits of smaller seeds than this.
N_SETTLED = 10
_DP, _EO = "demographic_parity", "equalized_odds"
_ORDERS = ("prune_then_fair", "fair_then_prune")
_OUTSIDE = tuple(method.name for method in OUTSIDE)
_FEW = ("adult", "compas", "law_school")
# Training and rule, the training alone, the rule alone.
_PARTS = ("bilevel", "bilevel_raw", "no_constraint")
_ABLATIONS = tuple(
    name + end for end in ("", "_raw") for name in ("bilevel", "no_gates", "no_weights", "no_constraint")
)


@dataclass(frozen=True)
class Experiment:
    """What is fitted for a table or figure.

    ``bounds`` limits the tolerances of the methods that take a bound; None leaves them their own. ``brief``
    leaves of other tolerances the first and the last. ``first_seed`` is that of the first split: the splits
    before ``N_SETTLED`` were looked at while the design was settled; docs/results.md has what those from
    there on have chosen.
    """

    title: str
    sets: tuple[str, ...]
    methods: tuple[str, ...]
    constraints: tuple[str | None, ...]
    sparsities: tuple[float, ...] = (0.9,)
    bounds: dict[str, tuple[float, ...]] | tuple[float, ...] | None = None
    epochs: tuple[int | str, ...] = ("auto",)
    seeds: int = 10
    first_seed: int = 0
    brief: bool = False

    def tolerances(self, method: str, constraint: str | None) -> tuple[float | None, ...]:
        """Return the tolerances of a method under a constraint."""
        grid = METHODS[method].tolerances
        if constraint is None or grid is None:
            return (None,)
        if grid != "bound" or self.bounds is None:
            values = TOLERANCES[grid]
            return (values[0], values[-1]) if self.brief and len(values) > 1 else values
        return self.bounds if isinstance(self.bounds, tuple) else self.bounds[constraint]

    def cells(self) -> Iterator[tuple[str, str | None, float | None, int | str]]:
        """Yield method, constraint, sparsity and epochs of each fit on a split; sparsity None if not used."""
        for name in (name for name in self.methods if name not in SKIPPED):
            method = METHODS[name]
            levels = self.sparsities if method.pruned or method.sized_by else (None,)
            for constraint in (c for c in self.constraints if is_possible(method, c)):
                yield from ((name, constraint, level, n) for level in levels for n in self.epochs)

    def select(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of the store that belong to this experiment, on any seed of its kind.

        Sets that it was not planned on are shown if other experiments left all that it needs of its first
        method.
        """
        frame = self._of_its_seeds(frame)
        found = self._found(frame)
        there = self._complete(frame, found)
        chosen = found.isin(self._wanted())
        frame = frame[chosen]
        return frame[frame["dataset"].map(there).astype(bool) | frame["dataset"].isin(self.sets)]

    def is_there(self, frame: pd.DataFrame) -> bool:
        """Tell whether the store has all that is needed of the first method, on some set."""
        frame = self._of_its_seeds(frame)
        return bool(self._complete(frame, self._found(frame)).any())

    def _of_its_seeds(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of splits that were looked at while the design was settled, or of the others."""
        return frame[(frame["seed"] < N_SETTLED) == (self.first_seed < N_SETTLED)]

    def _wanted(self) -> set[tuple[str, str, float | None, str, float | None]]:
        return {
            (name, constraint or "none", level, str(epochs), tolerance)
            for name, constraint, level, epochs in self.cells()
            for tolerance in self.tolerances(name, constraint)
        }

    def _found(self, frame: pd.DataFrame) -> pd.Series:
        """Return the cell of each row."""
        columns = ["method", "constraint", "sparsity", "max_epochs", "tolerance"]
        keys = frame[columns].astype(object)
        return pd.Series(list(keys.where(keys.notna(), None).itertuples(index=False, name=None)), frame.index)

    def _complete(self, frame: pd.DataFrame, found: pd.Series) -> pd.Series:
        """Tell for each set whether it has all that is needed of the first method."""
        needed = {cell for cell in self._wanted() if cell[0] == self.methods[0]}
        return found.groupby(frame["dataset"]).agg(lambda cells: needed <= set(cells)).astype(bool)


EXPERIMENTS = {
    "means": Experiment(
        "Accuracy and gaps at 90 % sparsity",
        ("adult",),
        ("bilevel", "finer", "distilled", "scratch", "dense", "hgb", "lr"),
        (None, _DP, _EO),
        bounds={_DP: (0.015, 0.02, 0.0225, 0.025), _EO: (0.02, 0.025, 0.03, 0.04)},
    ),
    "frontier": Experiment(
        "The frontier of accuracy and gap",
        SETS,
        (*_PARTS, "bilevel_one", *CRITERIA, *_ORDERS, "scratch", "dense", *_OUTSIDE),
        (None, _DP, _EO),
    ),
    "sparsity": Experiment(
        "Accuracy and gap against sparsity",
        ("adult", "acs_income", "compas"),
        ("bilevel", "scratch", *CRITERIA, "dense"),
        (None, _EO),
        sparsities=(0.5, 0.7, 0.9, 0.95, 0.98, 0.99),
        bounds=(0.05,),
        seeds=5,
    ),
    "tradeoff": Experiment(
        "Trade-off at 70, 90 and 98 % sparsity",
        _FEW,
        ("bilevel", "scratch", "magnitude", "fpgm", "snip", "lottery", *_ORDERS),
        (_EO,),
        sparsities=(0.7, 0.9, 0.98),
        seeds=5,
    ),
    "iterations": Experiment(
        "Training iterations against prune-then-fair",
        _FEW,
        ("bilevel", "prune_then_fair", "bilevel_raw", "prune_then_fair_raw"),
        (_EO,),
        sparsities=(0.7, 0.9),
        bounds=(0.05,),
        epochs=(4, 5, 10, 20, 40, 80),
        seeds=5,
    ),
    "ablation": Experiment(
        "The constraint in one level, both, or none",
        SETS,
        _ABLATIONS,
        (_DP, _EO),
        sparsities=(0.98,),
        bounds=(0.02, 0.05),
    ),
    "options": Experiment(
        "The defaults against other options",
        _FEW,
        ("bilevel", *OPTIONS),
        (_EO,),
        sparsities=(0.98,),
        bounds=(0.02, 0.05),
        seeds=5,
    ),
    "bound": Experiment(
        "The bound on unseen data",
        SETS,
        ("bilevel",),
        (None, _DP, _EO, "true_positive_rate_parity", "error_rate_parity"),
        bounds=(0.02, 0.05, 0.1),
    ),
    "later": Experiment(
        "The bound on later splits",
        SETS,
        ("bilevel",),
        (_DP, _EO, "true_positive_rate_parity", "error_rate_parity"),
        bounds=(0.02, 0.05, 0.1),
        first_seed=N_SETTLED,
    ),
    "degradation": Experiment(
        "Degradation parity",
        SETS,
        ("bilevel", "magnitude", "fpgm", "obs", "random"),
        (None, "degradation_parity"),
        sparsities=(0.9, 0.98),
        bounds=(0.02,),
    ),
    "auto": Experiment(
        "The smallest network",
        SETS,
        ("auto", "dense"),
        (_DP,),
        bounds=(0.05,),
    ),
}


def shorten(experiment: Experiment) -> Experiment:
    """Return the smoke version: two seeds, six epochs, at most two sparsities and two tolerances."""
    bounds = experiment.bounds if isinstance(experiment.bounds, dict) else (0.02, 0.1)
    if isinstance(experiment.bounds, tuple):
        bounds = experiment.bounds[:2]
    return replace(
        experiment,
        sets=("synthetic", "compas", "german_credit"),
        sparsities=experiment.sparsities[:: max(len(experiment.sparsities) - 1, 1)],
        bounds=bounds,
        epochs=(6,) if experiment.epochs == ("auto",) else (4, 8),
        seeds=2,
        brief=True,
    )


def dense_task(dataset: str, seed: int, max_epochs: int | str) -> Task:
    """Return the dense, unconstrained network that degradation is measured against."""
    return Task(dataset, seed, "dense", None, None, max_epochs)


def plan(experiment: Experiment) -> Iterator[tuple[Task, tuple[float | None, ...]]]:
    """Yield the tasks of an experiment with their tolerances, and the tasks that they refer to."""
    for dataset in experiment.sets:
        for seed in range(experiment.first_seed, experiment.first_seed + experiment.seeds):
            for name, constraint, level, epochs in experiment.cells():
                tolerances = experiment.tolerances(name, constraint)
                task = Task(dataset, seed, name, constraint, level, epochs)
                yield dense_task(dataset, seed, epochs), (None,)
                if (sized_by := METHODS[name].sized_by) is not None:
                    yield task._replace(method=sized_by), tolerances
                yield task, tolerances
