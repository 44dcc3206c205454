"""What the held-out figures of a rule are worth: reported gap, upper limit, and the gap of the population.

Rows are drawn from a law whose posterior is known, and rules are fitted on these exact scores, so that all
that is between the figures and the population is the sampling of the rows. Means over the draws.

    python examples/benchmarks/noise.py
"""

import argparse
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from command_line import at_least

from skfairprune.constraints import get_constraint
from skfairprune.datasets import make_biased_classification
from skfairprune.frontier import fit_frontier
from skfairprune.gaps import largest_gap
from skfairprune.scored import ScoredRows

ROWS = (700, 3000)
LAWS: dict[str, dict[str, Any]] = {
    "none": {"base_rates": (0.4, 0.4)},
    "large": {"base_rates": (0.5, 0.25)},
    "six groups": {
        "group_probs": (0.45, 0.3, 0.1, 0.07, 0.05, 0.03),
        "base_rates": (0.5, 0.3, 0.4, 0.25, 0.45, 0.35),
    },
    "fifty groups, none": {"group_probs": (0.02,) * 50, "base_rates": (0.4,) * 50},
    "two and forty": {
        "group_probs": (0.35, 0.35, *[0.0075] * 40),
        "base_rates": (0.5, 0.25, *[0.4] * 40),
    },
}
CONSTRAINTS = ("demographic_parity", "equalized_odds")
BOUND = 0.02
_POPULATION = 200_000


def draw(n_rows: int, law: dict[str, Any], seed: int) -> ScoredRows:
    """Draw rows with their exact posterior as scores."""
    data = make_biased_classification(n_rows, **law, random_state=seed)
    group = np.unique(data.sensitive_features, return_inverse=True)[1]
    proba = data.distribution.joint_proba(data.X)
    return ScoredRows(proba, data.y.astype(np.intp), group.astype(np.intp), np.ones(n_rows))


def measure(rows: ScoredRows, population: ScoredRows, name: str, bound: float) -> dict[str, float]:
    """Fit the rule of a bound and hold its figures against those of the population."""
    constraint, fold = get_constraint(name), np.arange(len(rows.kind)) % 2
    included, equal = np.ones((constraint.n_events, rows.proba.shape[2]), bool), np.ones(2)
    frontier, _ = fit_frontier(rows, fold, constraint, included, bound, equal)
    rule = frontier.rules[frontier.position(bound)]
    shares = population.decide(rule.fit.rule)
    gap = population.counts(constraint, shares).gap(constraint).value
    assert rule.cells is not None
    upper = rule.cells.upper_limit()
    return {
        "left alone": not rule.fit.multipliers.any(),
        "on the rows": largest_gap(rule.fit.event_gaps).value,
        "reported": rule.gap.value,
        "upper": upper,
        "population": gap,
        "covered": upper >= gap,
        "accuracy": float(np.mean(shares.argmax(axis=1) == population.kind)),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=at_least(1), default=40)
    parser.add_argument("--rows", type=at_least(2), nargs="+", default=ROWS)
    args = parser.parse_args()
    table = {}
    for label, law in LAWS.items():
        population = draw(_POPULATION, law, -1 % 2**32)
        for name, n_rows in product(CONSTRAINTS, args.rows):
            found = [measure(draw(n_rows, law, seed), population, name, BOUND) for seed in range(args.draws)]
            table[name, label, n_rows] = pd.DataFrame(found).astype(float).mean()
    frame = pd.DataFrame(table).T.rename_axis(["constraint", "true gap", "rows"])
    print(f"Bound {BOUND}, {args.draws} draws")
    print(frame.round(3).to_string())


if __name__ == "__main__":
    main()
