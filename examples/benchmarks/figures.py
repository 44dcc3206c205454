"""The figures of the benchmark, from the rows of the store."""

from collections.abc import Callable, Iterable
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from methods import METHODS
from protocol import SETS
from summary import common_seeds, frontier, gap_column, whole_seeds
from tables import ACCURACY_REACHED, GAP_REACHED, MARKS, label

__all__ = ["FIGURES", "STYLE"]

# Okabe and Ito's palette, which colour-blind readers can tell apart; markers differ, too.
_BLUE, _SKY, _GREEN, _ORANGE, _RED, _PINK = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7"
_COLOURS = {
    "ours": ["black"],
    "ablation": [_SKY, _ORANGE, _PINK],
    "pruning": [_BLUE, _SKY, _GREEN, _ORANGE, _PINK, _RED],
    "network": ["0.35", "0.6"],
    "reduction": [_ORANGE, _RED, _PINK, _BLUE, _BLUE],
    "penalty": [_GREEN, _SKY, _SKY, _GREEN],
    "reference": ["0.45"],
}
_TITLES = {"demographic_parity": "demographic parity", "equalized_odds": "equalized odds"}
_GAP_TICKS = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
#: What all figures share.
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.92",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.dpi": 150,
}


def _styles() -> dict[str, dict[str, Any]]:
    """Return colour, marker and line of every method; without the rule it is its own, dotted.

    A family with more methods than colours goes through them again with dashes.
    """
    markers = {family: cycle("os^vDP*X<>pdh") for family in _COLOURS}
    numbers = dict.fromkeys(_COLOURS, 0)
    styles: dict[str, dict[str, Any]] = {}
    for name, method in METHODS.items():
        if base := styles.get(name.removesuffix("_raw")):
            styles[name] = {**base, "linestyle": ":", "linewidth": 1.2, "markerfacecolor": "white"}
            continue
        ours, colours = name == "bilevel", _COLOURS[method.family]
        again, number = divmod(numbers[method.family], len(colours))
        numbers[method.family] += 1
        styles[name] = {
            "color": colours[number],
            "marker": next(markers[method.family]),
            "linestyle": "--" if again else "-",
            "linewidth": 2.2 if ours else 1.2,
            "markersize": 5,
            "zorder": 5 if ours else 3,
        }
    return styles


_STYLES = _styles()


def _grid(n_axes: int, n_columns: int, n_legend: int, **shared: Any) -> tuple[Figure, list[Axes]]:
    """Return a figure of small multiples with room for the legend below."""
    n_columns = min(n_axes, n_columns)
    n_rows = -(-n_axes // n_columns)
    height = 2.9 * n_rows + 0.25 + 0.2 * -(-n_legend // _legend_columns(n_columns))
    figure = Figure(figsize=(3.5 * n_columns + 0.3, height), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False, **shared).ravel()
    for axis in axes[n_axes:]:
        axis.set_visible(False)
    return figure, list(axes[:n_axes])


def _legend_columns(n_columns: int) -> int:
    return {1: 2, 2: 3}.get(n_columns, 5)


def _finish(figure: Figure, axes: list[Axes], n_columns: int) -> Figure:
    """Put one legend of all methods below the axes."""
    handles = {text: handle for axis in axes for handle, text in zip(*_handles(axis), strict=True)}
    order = [label(name) for name in METHODS]
    texts = sorted(handles, key=lambda text: order.index(text) if text in order else len(order))
    figure.legend(
        [handles[text] for text in texts],
        texts,
        loc="outside lower center",
        ncols=_legend_columns(min(len(axes), n_columns)),
        fontsize=8,
        title=" ".join(mark for mark in MARKS if any(mark[0] in text for text in texts)) or None,
        title_fontsize=8,
    )
    return figure


def _handles(axis: Axes) -> tuple[list[Any], list[str]]:
    handles, texts = axis.get_legend_handles_labels()
    return [handle[0] if isinstance(handle, tuple) else handle for handle in handles], texts


def _scale_gap(axis: Axes, which: str) -> None:
    """Make an axis of gaps linear to .01 and logarithmic above, so that a gap of 0 has a place."""
    (axis.set_xscale if which == "x" else axis.set_yscale)("symlog", linthresh=0.01, linscale=0.5)
    scale = axis.xaxis if which == "x" else axis.yaxis
    scale.set_major_locator(FixedLocator(_GAP_TICKS))
    scale.set_minor_locator(NullLocator())
    scale.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _undominated(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points of a method, by rising gap, that none of its others is better than in both."""
    points = points.sort_values(["gap", "accuracy"], ascending=[True, False])
    return points[points["accuracy"] > points["accuracy"].shift().cummax().fillna(-np.inf)]


def _draw_frontier(axis: Axes, rows: pd.DataFrame, names: Iterable[str], gap: str) -> None:
    """Draw the frontier of each method; of ours with the standard errors of accuracy and gap."""
    points = frontier(rows, gap)
    for name in names:
        mine = _undominated(points[points["method"] == name])
        if mine.empty:
            continue
        style = _STYLES[name]
        if mine["tolerance"].isna().all():
            style = {**style, "linestyle": "none"}
        errors = {"xerr": mine["gap_error"].fillna(0), "yerr": mine["accuracy_error"].fillna(0)}
        axis.errorbar(
            mine["gap"],
            mine["accuracy"],
            **(errors if name == "bilevel" else {}),
            elinewidth=0.8,
            label=label(name),
            **style,
        )
    _scale_gap(axis, "x")
    axis.set_xlim(0, max(0.1, 1.15 * points["gap"].max()))
    _limit_accuracy(axis, points, rows["majority"].mean())


def _limit_accuracy(axis: Axes, points: pd.DataFrame, majority: float) -> None:
    """Leave out what collapsed, at most a quarter of the points: it would press all others together."""
    ours, top = points.loc[points["method"] == "bilevel", "accuracy"], points["accuracy"].max()
    if ours.empty:
        return
    low = max(top - 1.9 * (top - ours.min()), min(majority, ours.min()))
    low = min(low, points["accuracy"].quantile(0.25)) - 0.1 * (top - ours.min())
    axis.set_ylim(low, top + 0.12 * (top - low))


def _frontiers(frame: pd.DataFrame, names: list[str], constraint: str) -> Figure | None:
    """Accuracy over gap, one panel a set, on the splits that all methods of the panel have."""
    gap = gap_column(constraint)
    held = frame["constraint"] == constraint
    # References know no constraint: one point each.
    held |= (frame["constraint"] == "none") & frame["method"].isin(["hgb", "lr", "additive"])
    rows = common_seeds(whole_seeds(frame[held & frame["method"].isin(names) & frame["dataset"].isin(SETS)]))
    rows = rows[rows.groupby("dataset")["method"].transform("nunique") > 2]
    if rows[rows["constraint"] == constraint].empty:
        return None
    sets = sorted(rows["dataset"].unique())
    figure, axes = _grid(len(sets), 3, rows["method"].nunique())
    for axis, dataset in zip(axes, sets, strict=True):
        mine = rows[rows["dataset"] == dataset]
        _draw_frontier(axis, mine, names, gap)
        axis.set_title(f"{dataset.replace('_', ' ')}, {_count_splits(mine)}")
        axis.set_xlabel(f"{_TITLES[constraint]} gap (test)")
        axis.set_ylabel("accuracy")
    return _finish(figure, axes, 3)


def _count_splits(rows: pd.DataFrame) -> str:
    n = rows["seed"].nunique()
    return f"{n} split{'s' if n > 1 else ''}"


def draw_frontier(frame: pd.DataFrame) -> dict[str, Figure | None]:
    """Ours among other families, and ours among pruning methods."""
    shown = [name for name in METHODS if METHODS[name].family in ("ours", "network", "reference")]
    others = [name for name in METHODS if METHODS[name].family in ("reduction", "penalty")]
    pruning = [name for name in METHODS if METHODS[name].family == "pruning"]
    figures = {}
    for constraint in _TITLES:
        figures[f"methods-{constraint}"] = _frontiers(frame, [*shown, *others], constraint)
        if frame["method"].isin(pruning).any():
            names = ["bilevel", *pruning, "scratch", "dense"]
            figures[f"pruning-{constraint}"] = _frontiers(frame, names, constraint)
    return figures


def _draw_against(
    rows: pd.DataFrame,
    constraint: str,
    key: str,
    x: str,
    scale: Callable[[Axes, pd.DataFrame], None],
    goal: str | None = None,
) -> Figure:
    """Draw accuracy above and the gap below, against a setting, one column a set.

    A column has the methods that were run at all settings, on the splits that they have in common. Dotted
    are the figures, with their tolerances, of the method ``goal`` at its largest setting.
    """
    constraint = "equalized_odds" if constraint == "none" else constraint
    sets, gap = sorted(rows["dataset"].unique()), gap_column(constraint)
    figure, axes = _grid(2 * len(sets), len(sets), rows["method"].nunique())
    for position, dataset in enumerate(sets):
        mine = rows[rows["dataset"] == dataset]
        settings = mine.groupby("method")[key].transform("nunique")
        mine = common_seeds(whole_seeds(mine[settings == settings.max()], key))
        columns = (("accuracy", -ACCURACY_REACHED), (gap, GAP_REACHED))
        for axis, (column, allowed) in zip(
            (axes[position], axes[position + len(sets)]), columns, strict=True
        ):
            for name in [name for name in METHODS if name in set(mine["method"])]:
                groups = mine[mine["method"] == name].groupby(key)
                points = pd.DataFrame({"x": groups[x].mean(), "y": groups[column].mean()})
                points["error"] = groups[column].sem().fillna(0)
                points = points.sort_values("x")
                axis.errorbar(
                    points["x"],
                    points["y"],
                    points["error"],
                    elinewidth=0.6,
                    label=label(name),
                    **_STYLES[name],
                )
                if name == goal:
                    axis.axhline(points["y"].iloc[-1] + allowed, color="0.3", linestyle=":", label="goal")
            scale(axis, mine)
            axis.set_ylabel("accuracy" if column == "accuracy" else f"{_TITLES[constraint]} gap (test)")
        axes[position].set_title(f"{dataset.replace('_', ' ')}, {_count_splits(mine)}")
        bounds = mine["tolerance"].dropna().unique()
        for bound in bounds if len(bounds) == 1 else ():
            axes[position + len(sets)].axhline(
                bound, color="0.5", linewidth=1, linestyle="--", zorder=1, label="bound"
            )
    return _finish(figure, axes, len(sets))


def _scale_sparsity(axis: Axes, rows: pd.DataFrame) -> None:
    """Scale an axis by the logarithm of the share that is left; matplotlib asks for the place of 1, too."""
    axis.set_xscale(
        "function",
        functions=(lambda share: -np.log(np.maximum(1 - share, 1e-9)), lambda place: 1 - np.exp(-place)),
    )
    levels = sorted(rows["sparsity"].unique())
    axis.set_xticks(levels, [f"{100 * level:g}" for level in levels])
    axis.set_xlabel("parameters removed, %")


def _scale_epochs(axis: Axes, rows: pd.DataFrame) -> None:
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel(f"epochs run, all phases ({rows['sparsity'].iloc[0]:.0%} removed)")


def draw_sparsity(frame: pd.DataFrame) -> dict[str, Figure | None]:
    """Accuracy and gap against sparsity."""
    return {
        constraint.replace("none", "unconstrained"): _draw_against(
            rows, constraint, "sparsity", "sparsity", _scale_sparsity
        )
        for constraint, rows in frame[frame["sparsity"].notna()].groupby("constraint")
        if constraint in ("none", *_TITLES) and len(rows["sparsity"].unique()) > 1
    }


def draw_iterations(frame: pd.DataFrame) -> dict[str, Figure | None]:
    """Accuracy and gap against the epochs of a fit."""
    return {
        f"{constraint}-{100 * level:.0f}": _draw_against(
            rows, constraint, "max_epochs", "n_iter", _scale_epochs, goal="prune_then_fair"
        )
        for (constraint, level), rows in frame[frame["sparsity"].notna()].groupby(["constraint", "sparsity"])
        if constraint in _TITLES and len(rows["max_epochs"].unique()) > 1
    }


def draw_tradeoff(frame: pd.DataFrame) -> dict[str, Figure | None]:
    """Accuracy over gap at each sparsity, one row a set."""
    figures: dict[str, Figure | None] = {}
    pruned = frame[frame["sparsity"].notna()]
    for constraint, rows in pruned.groupby("constraint"):
        if constraint not in _TITLES:
            continue
        sets, levels = sorted(rows["dataset"].unique()), sorted(rows["sparsity"].unique())
        figure, axes = _grid(len(sets) * len(levels), len(levels), rows["method"].nunique())
        names = [name for name in METHODS if name in set(rows["method"])]
        cells = [(dataset, level) for dataset in sets for level in levels]
        for axis, (dataset, level) in zip(axes, cells, strict=True):
            part = rows[(rows["dataset"] == dataset) & (rows["sparsity"] == level)]
            part = common_seeds(whole_seeds(part))
            if len(part):
                _draw_frontier(axis, part, names, gap_column(constraint))
            axis.set_title(f"{dataset.replace('_', ' ')}, {level:.0%} removed, {_count_splits(part)}")
            axis.set_xlabel(f"{_TITLES[constraint]} gap (test)")
            axis.set_ylabel("accuracy")
        figures[constraint] = _finish(figure, axes, len(levels))
    return figures


#: The figures of each experiment, by the ends of their names.
FIGURES: dict[str, Callable[[pd.DataFrame], dict[str, Figure | None]]] = {
    "frontier": draw_frontier,
    "sparsity": draw_sparsity,
    "tradeoff": draw_tradeoff,
    "iterations": draw_iterations,
}
