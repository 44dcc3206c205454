"""What a method of the benchmark is: its name, what it is fitted on, and how it decides.

A method is started once for a training part, seed, constraint and sparsity, and then asked for a solution at
each tolerance: the bound on the gap for our estimator and the reductions, the weight for a penalty.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from protocol import Part

__all__ = ["TOLERANCES", "Method", "Setting", "Solution", "Solver"]

#: The tolerances of each kind of method; an experiment may ask for fewer bounds.
TOLERANCES: dict[str, tuple[float, ...]] = {
    "bound": (0.01, 0.02, 0.03, 0.05, 0.1, 0.2),
    "reduction": (0.005, 0.01, 0.02, 0.05, 0.1),
    "exact": (0.0,),
    "network reduction": (0.01, 0.05),  # each is up to 15 fits of a dense network
    "difference weight": (0.1, 0.2, 0.5, 1.0, 2.0, 4.0),
    "hsic weight": (10.0, 50.0, 100.0, 300.0, 1000.0),
    "adversary weight": (0.1, 0.3, 1.0, 3.0),
}


class Setting(NamedTuple):
    """What a method is fitted on: training part, seed, constraint, sparsity, epochs, sizes to copy."""

    train: Part
    seed: int
    constraint: str | None
    sparsity: float | None
    max_epochs: int | str
    sizes: tuple[int, ...] | None = None


class Solution(NamedTuple):
    """What decides: a function of the test part, the fitted model, and whether an earlier fit was reused."""

    decide: Callable[[Part], np.ndarray]
    model: Any
    shared: bool = False


Solver = Callable[[float | None], Solution]


@dataclass(frozen=True)
class Method:
    """A method of the benchmark.

    Attributes
    ----------
    name, label : str
        In commands and the store; in tables and figures.
    family : str
        "ours", "ablation", "pruning", "network", "penalty", "reduction" or "reference".
    start : callable
        Takes a Setting, returns the solver of one tolerance.
    tolerances : str or None
        Its key in TOLERANCES; None for methods that know no constraint.
    constraints : tuple of str, or None
        Those it can keep; None stands for whatever the estimator can.
    pruned : bool
        Whether sparsity is one of its settings.
    sized_by : str or None
        The pruned method whose layer sizes it takes.
    mark : str
        What a reader must know: "†" reads the group when it predicts, "‡" decides at random.
    """

    name: str
    label: str
    family: str
    start: Callable[[Setting], Solver]
    tolerances: str | None = "bound"
    constraints: tuple[str, ...] | None = None
    pruned: bool = False
    sized_by: str | None = None
    mark: str = ""
