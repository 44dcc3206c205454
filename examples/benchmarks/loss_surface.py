"""The loss surface between a solution and its ablations: the plane through three pruned networks.

The constraint is in both levels, in the weights' level only (w/o gates), or in the gates' only (w/o weights);
the three fits share seed, split and dense phase. Their masks differ, so they are compared in the dense
network's parameters, with zeros where units are gone. Shown are the cross-entropy of the labels on training
rows and the gap of the networks' decisions, which are trained without a rule, on test rows. The barrier of
a path is how far the loss rises, on the straight line between two solutions, above the larger of its ends.

    python examples/benchmarks/loss_surface.py --sets adult,compas --seeds 3
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from command_line import at_least, check_names
from figures import STYLE
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from measure import tell_machine
from methods import SKIPPED
from numpy.typing import NDArray
from protocol import OTHERS, SETS, Part, load_split
from summary import mean_error
from tables import markdown, value
from torch import Tensor, nn

from skfairprune import FairPrunedClassifier
from skfairprune.metrics import gap

_ROOT = Path(__file__).resolve().parents[2]
_CONSTRAINT, _ROWS = "equalized_odds", 5_000
_NAMES = {"both": "both levels", "weights": "w/o gates", "gates": "w/o weights"}
Weights = list[tuple[Tensor, Tensor]]


def scatter(clf: FairPrunedClassifier) -> Weights:
    """Return weight and bias of each linear layer in the dense network's shape, zero where pruned.

    A dense network with these weights has the outputs of the small one: the consumers of a unit that is
    gone read it with weight 0.
    """
    linear = [layer for layer in clf.module_.network.layers if isinstance(layer, nn.Linear)]
    masks = [torch.from_numpy(np.asarray(mask)) for mask in clf.masks_]
    inputs = torch.ones(linear[0].in_features, dtype=torch.bool)
    outputs = torch.ones(linear[-1].out_features, dtype=torch.bool)
    weights = []
    for layer, before, after in zip(linear, [inputs, *masks], [*masks, outputs], strict=True):
        weight = layer.weight.new_zeros(len(after), len(before))
        weight[np.ix_(after.numpy(), before.numpy())] = layer.weight
        bias = layer.bias.new_zeros(len(after))
        bias[after] = layer.bias
        weights.append((weight, bias))
    return weights


class Surface:
    """Loss and gap of networks in the dense parameterisation.

    Parameters
    ----------
    clf : FairPrunedClassifier
        Any of the solutions; its encoding and activation are taken.
    train, test : Part
        Where loss and gap are measured, on at most 5,000 rows each.
    """

    def __init__(self, clf: FairPrunedClassifier, train: Part, test: Part) -> None:
        self.n_groups = 1 if clf.groups_ is None else len(clf.groups_)
        network = clf.module_.network
        self.activation = next(layer for layer in network.layers if not isinstance(layer, nn.Linear))
        dtype = next(network.parameters()).dtype
        rng = np.random.default_rng(0)
        parts = []
        for part in (train, test):
            rows = rng.permutation(len(part.y))[:_ROWS]
            encoded = network.encoding(torch.tensor(part.X[rows], dtype=dtype))
            parts.append((encoded, part.y[rows], part.group[rows]))
        self.train, self.test = parts

    @torch.inference_mode()
    def positive(self, weights: Weights, encoded: Tensor) -> NDArray[np.floating]:
        """Return the probability of label 1 before any rule."""
        for position, (weight, bias) in enumerate(weights):
            encoded = nn.functional.linear(encoded, weight, bias)
            if position < len(weights) - 1:
                encoded = self.activation(encoded)
        joint = torch.softmax(encoded, dim=1).reshape(len(encoded), 2, self.n_groups)
        return joint.sum(dim=2)[:, 1].double().numpy()

    def measure(self, weights: Weights) -> tuple[float, float]:
        """Return the cross-entropy on training rows and the gap on test rows."""
        encoded, y, _ = self.train
        proba = np.clip(self.positive(weights, encoded), 1e-12, 1 - 1e-12)
        loss = -np.mean(np.where(y == 1, np.log(proba), np.log(1 - proba)))
        encoded, y, group = self.test
        decided = (self.positive(weights, encoded) > 0.5).astype(int)
        found = gap(y, decided, constraint=_CONSTRAINT, sensitive_features=group, pos_label=1)
        return float(loss), found


class Plane(NamedTuple):
    """Three solutions as points of a plane with an orthonormal basis, the first one at the origin."""

    origin: NDArray[np.floating]
    basis: NDArray[np.floating]
    points: NDArray[np.floating]


def flatten(weights: Weights) -> NDArray[np.floating]:
    """Return all weights as one vector."""
    return torch.cat([torch.cat([w.flatten(), b]) for w, b in weights]).double().numpy()


def unflatten(vector: NDArray[np.floating], like: Weights) -> Weights:
    """Return a vector as weights of the shapes of others."""
    values, weights = torch.from_numpy(vector).to(like[0][0].dtype), []
    for weight, bias in like:
        part, values = values[: weight.numel()], values[weight.numel() :]
        weights.append((part.reshape(weight.shape), values[: bias.numel()]))
        values = values[bias.numel() :]
    return weights


def span(vectors: list[NDArray[np.floating]]) -> Plane:
    """Lay the plane through three vectors."""
    origin = vectors[0]
    away = np.stack([vector - origin for vector in vectors[1:]])
    basis, triangle = np.linalg.qr(away.T)
    return Plane(origin, basis.T, np.vstack([np.zeros(2), triangle.T]))


def barrier(losses: NDArray[np.floating]) -> float:
    """Return how far a path rises above the larger of its ends."""
    return float(losses.max() - max(losses[0], losses[-1]))


def solve(name: str, seed: int, sparsity: float, max_epochs: Any) -> tuple[Surface, dict[str, Weights]]:
    """Fit the three solutions on one split."""
    train, test = load_split(name, seed)
    solutions, surface = {}, None
    for level in _NAMES:
        clf = FairPrunedClassifier(
            sparsity=sparsity,
            constraint=_CONSTRAINT,
            constrain=level,
            decision_rule=False,
            max_epochs=max_epochs,
            random_state=seed,
        )
        clf.fit(train.X, train.y, sensitive_features=train.group)
        solutions[level] = scatter(clf)
        surface = surface or Surface(clf, train, test)
    assert surface is not None
    return surface, solutions


def walk(surface: Surface, start: Weights, end: Weights, n_steps: int = 21) -> NDArray[np.floating]:
    """Return loss and gap along the straight line, of shape (n_steps, 2)."""
    first, last = flatten(start), flatten(end)
    return np.array(
        [surface.measure(unflatten(first + t * (last - first), start)) for t in np.linspace(0, 1, n_steps)]
    )


def draw(surface: Surface, solutions: dict[str, Weights], title: str, n_steps: int) -> Figure:
    """Draw loss and gap on the plane, and along the paths from the whole solution to the ablations."""
    vectors = [flatten(weights) for weights in solutions.values()]
    plane, like = span(vectors), solutions["both"]
    margin = 0.35 * np.ptp(plane.points, axis=0).max()
    low, high = plane.points.min(axis=0) - margin, plane.points.max(axis=0) + margin
    high[0] += margin  # for the names
    xs, ys = (np.linspace(low[i], high[i], n_steps) for i in (0, 1))
    values = np.array(
        [
            [surface.measure(unflatten(plane.origin + np.array([x, y]) @ plane.basis, like)) for x in xs]
            for y in ys
        ]
    )
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=[1.25, 1.25, 1, 1])
    for axis, number, text in ((axes[0], 0, "cross-entropy (train)"), (axes[1], 1, "gap (test)")):
        shown = values[..., number]
        # Far corners are steep; the basin is what matters.
        top = np.quantile(shown, 0.9) if number == 0 else shown.max()
        levels = np.linspace(shown.min(), max(top, shown.min() + 1e-6), 16)
        filled = axis.contourf(xs, ys, shown, levels=levels, cmap="cividis", extend="max")
        figure.colorbar(filled, ax=axis, format="%.3f")
        _mark(axis, plane.points)
        axis.set_title(f"{title}: {text}")
        axis.set_aspect("equal")
        axis.grid(visible=False)
        axis.set_xlabel("distance in the plane")
        axis.set_ylabel("distance in the plane")
    for level, colour in (("weights", "#0072B2"), ("gates", "#D55E00")):
        path = walk(surface, like, solutions[level])
        place = np.linspace(0, 1, len(path))
        change = path - path[0]
        for axis, number in ((axes[2], 0), (axes[3], 1)):
            axis.plot(place, change[:, number], color=colour, label=f"to {_NAMES[level]}")
    for axis, text in ((axes[2], "cross-entropy"), (axes[3], "gap")):
        axis.set_title(f"{text} on the straight way")
        axis.set_xlabel("share of the way from both levels")
        axis.set_ylabel(f"change of the {text}")
    figure.legend(*axes[2].get_legend_handles_labels(), loc="outside lower right", ncols=2, fontsize=8)
    return figure


def _mark(axis: Axes, points: NDArray[np.floating]) -> None:
    """Mark the three solutions."""
    for point, name, marker in zip(points, _NAMES.values(), "o^s", strict=True):
        axis.plot(*point, marker, color="white", markeredgecolor="black", markersize=7)
        axis.annotate(
            name,
            point,
            xytext=(6, 6),
            textcoords="offset points",
            fontsize=8,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.8, "linewidth": 0},
        )


def main(argv: list[str] | None = None) -> int:
    """Write the figures and the table of barriers; the status is 2 if the estimator has no ablations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", default="adult,compas,law_school", help="separated by commas")
    parser.add_argument("--seeds", type=at_least(1), default=3)
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--epochs", type=at_least(1), help="of a fit; the estimator's own by default")
    parser.add_argument("--steps", type=at_least(2), default=25, help="points along a side of the plane")
    parser.add_argument("--docs", type=Path, default=_ROOT / "docs" / "benchmarks")
    args = parser.parse_args(argv)
    sets = args.sets.split(",")
    check_names(parser, sets, [*SETS, *OTHERS])
    if "no_gates" in SKIPPED:
        print(f"No ablations to compare: {SKIPPED['no_gates']}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    args.docs.mkdir(parents=True, exist_ok=True)
    rows, images = [], []
    for name in sets:
        for seed in range(args.seeds):
            surface, solutions = solve(name, seed, args.sparsity, args.epochs or "auto")
            for level in ("weights", "gates"):
                path = walk(surface, solutions["both"], solutions[level])
                rows.append({"set": name, "to": _NAMES[level], "barrier": barrier(path[:, 0])})
                rows[-1] |= {"loss both": path[0, 0], "loss": path[-1, 0]}
                rows[-1] |= {"gap both": path[0, 1], "gap": path[-1, 1]}
            if seed == 0:
                with mpl.rc_context(STYLE):
                    title = f"{name.replace('_', ' ')}, split 0"
                    figure = draw(surface, solutions, title, args.steps)
                    images.append(f"surface-{name.replace('_', '-')}.png")
                    figure.savefig(args.docs / images[-1])
    columns = ["barrier", "loss both", "loss", "gap both", "gap"]
    lines = [
        [f"{name}, to {to}"] + [value(*mean_error(part[c])) for c in columns]
        for (name, to), part in pd.DataFrame(rows).groupby(["set", "to"], sort=False)
    ]
    where = tell_machine()
    origin = (
        f"{args.seeds} splits, {args.sparsity:.0%} of the parameters removed, {_CONSTRAINT}, "
        + ", ".join(where.values())
    )
    given = f"--sets {args.sets} --seeds {args.seeds} --sparsity {args.sparsity:g}"
    command = f"python examples/benchmarks/loss_surface.py {given}"
    page = ["# The loss surface between the solution and its ablations", origin + "."]
    page += [f"```sh\n{command}\n```", *(f"![{image}]({image})" for image in images)]
    page += [
        " ".join(__doc__.split("\n\n")[1].split()),
        markdown(
            ["path from both levels", "barrier", "loss at both", "at the end", "gap at both", "at the end"],
            lines,
        ),
    ]
    (args.docs / "surface.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
