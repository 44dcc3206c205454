"""Three hypergradients against the exact one, and against each other on real data at equal time.

Without --data: small problems whose lower level is solved to convergence, so that the exact hypergradient
is known by the implicit function theorem and, independently, by finite differences of the solved problem.
Printed are the cosine of each estimate with the exact hypergradient and the ratio of their norms, and how
fast conjugate gradient and the Neumann series get there. With --data: whole fits under the default
constraint, in which the bilevel phase has the epochs that an estimator can take in the time that the
slowest one needs for the default number. Time is the processor's: other processes do not count.

    python examples/benchmarks/hypergradients.py
    python examples/benchmarks/hypergradients.py --data adult
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import product
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import torch
from bilevel_problems import N_ROWS, Problem, Rows, make_problems
from command_line import at_least
from fairlearn.metrics import demographic_parity_difference
from protocol import OTHERS, SETS, Part, load, split
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from torch import Tensor
from torch.func import grad, jacrev
from torch.nn.functional import cosine_similarity

from skfairprune import FairPrunedClassifier, _assembly
from skfairprune.training.hypergradient import Hypergradient, conjugate_gradient
from skfairprune.training.net import BilevelNet, FineTuneNet
from skfairprune.training.plan import make_plan
from skfairprune.training.stacks import NetworkStack

BATCH, N_BATCHES = 32, 50
TO_CONVERGENCE, IN_TRAINING = 200, 5  # Hessian-vector products of the implicit estimator
FACTORS = (0.1, 1, 10)  # the damping, as a multiple of the lower level's ridge
COUNTS = (1, 2, 5, 10, 20, 50)  # Hessian-vector products

SPARSITIES = (0.9, 0.98)


class Contestant(NamedTuple):
    """How the gates of a fit learn; not at all if ``moves`` is False."""

    method: Hypergradient
    damping: float = 1.0
    moves: bool = True

    @property
    def label(self) -> str:
        """The name in the table."""
        if not self.moves:
            return "none: scores stay"
        return self.method if self.method == "first_order" else f"{self.method}, γ = {self.damping:g}"


FIRST_ORDER = Contestant("first_order")
CONTESTANTS = [
    FIRST_ORDER,
    Contestant("closed_form", 0.1),
    Contestant("closed_form", 1.0),
    Contestant("implicit", 0.1),
    Contestant("implicit", 1.0),
    Contestant("first_order", moves=False),
]


def neumann(matrix: Callable[[Tensor], Tensor], target: Tensor, n_products: int, step: float) -> Tensor:
    """Solve a positive linear system by the Neumann series of its inverse."""
    term, total = target, target.clone()
    for _ in range(n_products):
        term = term - step * matrix(term)
        total += term
    return step * total


def solver_errors(problem: Problem, flat: Tensor) -> list[list[str]]:
    """Return the relative error of each solver's response of the weights by the number of products."""
    hessian = jacrev(grad(problem.objective, argnums=1), argnums=1)(problem.gates, flat)

    def upper(flat: Tensor) -> Tensor:
        return problem.loss_on(problem.upper)(problem.gates, problem.unflatten(flat))

    target = grad(upper)(flat)
    exact = torch.linalg.solve(hessian, target)
    step = 1 / float(torch.linalg.matrix_norm(hessian, 2))
    solvers = {
        "conjugate gradient": lambda n: conjugate_gradient(hessian.mv, target, n),
        "Neumann": lambda n: neumann(hessian.mv, target, n, step),
    }

    def error(found: Tensor) -> str:
        relative = float((found - exact).norm() / exact.norm())
        return f"{relative:.1e}" if relative > 1e-12 else "rounding"

    label = f"{problem.name}, {problem.ridge:g}"
    return [[label, name, *(error(solve(n)) for n in COUNTS)] for name, solve in solvers.items()]


def compare(problem: Problem, flat: Tensor, exact: Tensor) -> tuple[list[str], list[str]]:
    """Return a row of the table with all lower rows, and one with batches of them."""

    def score(
        method: Hypergradient, lower: Rows, damping: float, n_products: int = TO_CONVERGENCE
    ) -> tuple[float, float]:
        found = problem.estimate(method, flat, lower, damping, n_products)
        return float(cosine_similarity(found, exact, dim=0)), float(found.norm() / exact.norm())

    name = f"{problem.name}, {problem.ridge:g}"
    whole, batched = [name], [name]
    whole.append("{:.2f} × {:.2f}".format(*score("first_order", problem.lower, 1.0)))
    for method, factor in product(("closed_form", "implicit"), FACTORS):
        damping = factor * problem.ridge
        whole.append("{:.2f} × {:.2f}".format(*score(method, problem.lower, damping)))
        generator = torch.Generator().manual_seed(3)
        scores = []
        for _ in range(N_BATCHES):
            rows = torch.randperm(N_ROWS, generator=generator)[:BATCH]
            batch = problem.lower[0][rows], problem.lower[1][rows]
            scores.append(score(method, batch, damping, IN_TRAINING))
        cosine, ratio = np.mean(scores, axis=0)
        batched.append(f"{cosine:.2f} ± {np.std(scores, axis=0)[0]:.2f} × {ratio:.2f}")
    few = score("implicit", problem.lower, problem.ridge, IN_TRAINING)
    whole.append("{:.2f} × {:.2f}".format(*few))
    return whole, batched


def to_markdown(header: list[str], rows: list[list[str]]) -> str:
    """Return a table as Markdown."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def run_exact() -> None:
    """Print the tables on problems with a known hypergradient."""
    whole, batched, solvers, worst = [], [], [], 0.0
    flat = torch.zeros(0)
    for problem in make_problems():
        n_parameters = sum(int(np.prod(shape)) for shape in problem.shapes.values())
        if len(flat) != n_parameters:  # else from the same problem's minimum under the strong ridge
            generator = torch.Generator().manual_seed(2)
            flat = torch.randn(n_parameters, generator=generator, dtype=torch.float64) / 2
        flat = problem.solve(problem.gates, flat)
        exact = problem.exact(flat)
        worst = max(worst, float((problem.differences(flat) - exact).abs().max()))
        rows = compare(problem, flat, exact)
        whole.append(rows[0])
        batched.append(rows[1])
        solvers += solver_errors(problem, flat)
    columns = [f"{name}, γ = {f:g} ρ" for name, f in product(("closed form", "implicit"), FACTORS)]
    print("Cosine with the exact hypergradient × ratio of the norms; ρ is the lower level's ridge.\n")
    print(
        f"The implicit one has {TO_CONVERGENCE} products, and in the last column {IN_TRAINING} as in a fit.\n"
    )
    print(
        to_markdown(["problem, ρ", "first order", *columns, f"{columns[-2]}, {IN_TRAINING} products"], whole)
    )
    print(f"\nThe same with the lower loss on {BATCH} of {N_ROWS} rows and {IN_TRAINING} products, as in")
    print(f"training: means over {N_BATCHES} batches ± standard deviation of the cosine.\n")
    print(to_markdown(["problem, ρ", *columns], batched))
    print("\nRelative error of the weights' response by the number of Hessian-vector products, γ = ρ.\n")
    print(to_markdown(["problem, ρ", "solver", *map(str, COUNTS)], solvers))
    print(f"\nExact by the dense Hessian and by finite differences: at most {worst:.0e} apart.")


@contextmanager
def instrumented(contestant: Contestant, n_epochs: int | None) -> Iterator[dict[str, Any]]:
    """Let fits use an estimator for some epochs of the bilevel phase; yield what they leave on the way."""
    seen: dict[str, Any] = {}
    forced = {} if contestant.moves else {"gate_lr": 0.0}
    bilevel, fine_tune, train = BilevelNet.__init__, FineTuneNet.__init__, BilevelNet.partial_fit

    @wraps(bilevel)
    def make_bilevel(self: BilevelNet, *args: Any, **params: Any) -> None:
        bilevel(self, *args, **{**params, **forced})

    @wraps(fine_tune)
    def make_fine_tune(self: FineTuneNet, module: NetworkStack, *args: Any, **params: Any) -> None:
        seen["network"] = NetworkStack.unstack(module, 0)
        fine_tune(self, module, *args, **params)

    def timed(self: BilevelNet, *args: Any, **params: Any) -> BilevelNet:
        start = time.process_time()
        train(self, *args, **params)
        seen["seconds"], seen["epochs"] = time.process_time() - start, len(self.history)
        return self

    def plan(*args: Any) -> Any:
        made = make_plan(*args)
        return made if n_epochs is None else made._replace(bilevel=n_epochs)

    with (
        mock.patch.object(BilevelNet, "__init__", make_bilevel),
        mock.patch.object(BilevelNet, "partial_fit", timed),
        mock.patch.object(FineTuneNet, "__init__", make_fine_tune),
        mock.patch.object(_assembly, "make_plan", plan),
    ):
        yield seen


def fit(
    contestant: Contestant, n_epochs: int | None, train: Part, test: Part, **params: Any
) -> dict[str, Any]:
    """Fit the estimator and return figures on the test part, after the mask and at the end."""
    with instrumented(contestant, n_epochs) as seen, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        chosen = {"hypergradient": contestant.method, "hypergradient_damping": contestant.damping}
        clf = FairPrunedClassifier(**chosen, **params).fit(train.X, train.y, sensitive_features=train.group)
    with torch.no_grad():
        logits = seen["network"](torch.tensor(test.X, dtype=clf.module_.output_weights.dtype))
    proba = torch.softmax(logits.double(), dim=1).view(len(logits), 2, -1).sum(2).numpy()
    decided = clf.predict(test.X)
    return {
        "epochs": seen["epochs"],
        "cpu s": seen["seconds"],
        "loss after mask": log_loss(test.y, proba),
        "accuracy after mask": np.mean(clf.classes_[proba.argmax(1)] == test.y),
        "accuracy": np.mean(decided == test.y),
        "DP gap": demographic_parity_difference(test.y, decided, sensitive_features=test.group),
    }


def make_plans(train: Part, test: Part) -> list[tuple[str, Contestant, int]]:
    """Choose each contestant's epochs, so that all take the time of the slowest one's default number."""
    default = fit(FIRST_ORDER, None, train, test, random_state=0)["epochs"]
    cost = {}
    for contestant in CONTESTANTS:
        short = [fit(contestant, None, train, test, max_epochs=3, random_state=0) for _ in range(2)]
        cost[contestant] = min(row["cpu s"] for row in short)
    budget = default * max(cost.values())
    plans = [("default", FIRST_ORDER, default)]
    return plans + [("equal", c, max(1, round(budget / cost[c]))) for c in CONTESTANTS]


def run_real(name: str, seeds: int) -> None:
    """Print the comparison on a real set."""
    data = load(name)
    plans, rows = make_plans(*split(data, 0)), []
    for seed in range(seeds):
        train, test = split(data, seed)
        for sparsity, (given, contestant, n_epochs) in product(SPARSITIES, plans):
            figures = fit(contestant, n_epochs, train, test, sparsity=sparsity, random_state=seed)
            head = {"sparsity": f"{sparsity:g}", "hypergradient": contestant.label, "time": given}
            rows.append({**head, "seed": seed, **figures})
    table = pd.DataFrame(rows)
    keys, measures = list(table.columns[:3]), list(table.columns[6:])
    lines = []
    for key, group in table.groupby(keys, sort=False):
        reference = table.query("sparsity == @key[0] and hypergradient == 'first_order' and time == 'equal'")
        line = [*key, f"{group['epochs'].mean():.0f}", f"{group['cpu s'].mean():.1f}"]
        for measure in measures:
            difference = group[measure].to_numpy() - reference[measure].to_numpy()
            error = difference.std(ddof=1) / np.sqrt(seeds) if seeds > 1 else np.nan
            line.append(f"{group[measure].mean():.4f}" + (f" ± {error:.4f}" if difference.any() else ""))
        lines.append(line)
    print(f"{name}: means over {seeds} resampled 70/30 splits ± standard error of the difference from")
    print("first_order in equal time.\n")
    print(to_markdown([*keys, "epochs", "cpu s", *measures], lines))


def main() -> int:
    """Run the comparison and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=[*SETS, *OTHERS], help="a set of SKFAIRPRUNE_DATA")
    parser.add_argument("--seeds", type=at_least(1), default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.data is None:
        run_exact()
        return 0
    try:
        run_real(args.data, args.seeds)
    except (FileNotFoundError, ImportError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
