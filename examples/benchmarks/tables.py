"""The tables of the benchmark, as Markdown, from the rows of the store."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from methods import CRITERIA, METHODS
from protocol import SETS
from summary import Reference, compare, find_reference, frontier, gap_column, mean_error, paired, whole_seeds

__all__ = ["ACCURACY_REACHED", "GAP_REACHED", "MARKS", "TABLES", "label", "markdown", "value"]

_TITLES = {
    "demographic_parity": "demographic parity",
    "equalized_odds": "equalized odds",
    "true_positive_rate_parity": "true positive rate parity",
    "error_rate_parity": "error rate parity",
    "degradation_parity": "degradation parity",
    "none": "unconstrained",
}
_PUBLISHED = "_published"
#: How near accuracy and gap have to come to those of a longer training to have reached them.
ACCURACY_REACHED, GAP_REACHED = 0.002, 0.005
_ONE_SIDED = 1.645  # standard errors, of a one-sided limit at 95 %
_SOME = 5  # splits, below which their standard error says little
#: What the marks of methods say.
MARKS = ("† reads the group to predict.", "‡ decides at random, one draw a split.")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; columns after the first are aligned to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def label(name: str) -> str:
    """Return the label of a method with its marks."""
    method = METHODS[name.removesuffix(_PUBLISHED)]
    return method.label + method.mark + (", as published" if name.endswith(_PUBLISHED) else "")


def value(mean: float, error: float, digits: int = 4, sign: bool = False) -> str:
    """Return a figure with its error."""
    if np.isnan(mean):
        return "-"
    text = f"{mean:{'+' if sign else ''},.{digits}f}"
    return text if np.isnan(error) else f"{text} ± {error:,.{digits}f}"


def _list(values: pd.Series) -> str:
    return " and ".join(f"{value:g}" for value in sorted(values.dropna().unique()))


def _column(frame: pd.DataFrame, name: str, digits: int = 4) -> str:
    values = frame[name].dropna() if name in frame else pd.Series(dtype=float)
    return value(*mean_error(values), digits) if len(values) else "-"


def _in_order(names: Iterable[str]) -> list[str]:
    """Return methods in the order of the registry."""
    known = set(names)
    return [name for name in METHODS if name in known]


def _constraints(frame: pd.DataFrame) -> list[str]:
    return [name for name in _TITLES if name in set(frame["constraint"])]


def means(frame: pd.DataFrame) -> str:
    """Accuracy, gaps and size of each method: means over the seeds and their standard errors."""
    columns = {"accuracy": 4, "dp_gap": 4, "eo_gap": 4, "degradation_gap": 4, "sparsity_parameters": 3}
    columns |= {"parameters": 0, "fit_seconds": 1}
    header = ["method", "constraint", "bound", "accuracy", "DP gap", "EO gap", "degradation gap", "sparsity"]
    parts = []
    for dataset, rows in frame.groupby("dataset"):
        lines = []
        for constraint in _constraints(rows):
            held = rows[rows["constraint"] == constraint]
            for name in _in_order(held["method"]):
                for bound, group in held[held["method"] == name].groupby("tolerance", dropna=False):
                    line = [label(name), _TITLES[constraint], "-" if pd.isna(bound) else f"{bound:g}"]
                    line += [_column(group, key, digits) for key, digits in columns.items()]
                    lines.append([*line, str(len(group))])
        error = ", ".join(f"{rows[f'{name}_se'].mean():.3f} ({name.upper()})" for name in ("dp", "eo"))
        note = f"Sampling standard error of one split's gap: {error} on average."
        parts += [f"## {dataset}", markdown([*header, "parameters", "fit s", "splits"], lines), note]
    return "\n\n".join(parts)


def _accuracy_at(points: pd.DataFrame, gap: float) -> str:
    """Return the best mean accuracy of the points within a gap."""
    within = points.loc[points["gap"] <= gap, "accuracy"]
    return f"{within.max():.4f}" if len(within) else "-"


def _as_published(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the criteria without a constraint and its rule, as their authors have them: one point each."""
    rows = rows[rows["method"].isin(CRITERIA) & (rows["constraint"] == "none")]
    return rows.assign(method=rows["method"] + _PUBLISHED, tolerance=0.0)


def _whole_frontiers(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the methods that have a frontier, on the splits where it is whole.

    A method of several tolerances that was run at one only has none.
    """
    n_points = frame.groupby("method")["tolerance"].nunique()
    exact = {name for name, method in METHODS.items() if method.tolerances == "exact"}
    whole = [name for name, n in n_points.items() if n > 1 or name in exact or name.endswith(_PUBLISHED)]
    return whole_seeds(frame[frame["method"].isin(whole)])


def _difference_of_volumes(row: pd.Series) -> str:
    """Return the paired difference to ours in per cent, with its interval if there is one."""
    low, middle, high = (100 * row[f"difference{end}"] for end in ("_low", "", "_high"))
    if np.isnan(middle):
        return "-"
    return f"{middle:+.1f}" + (f" [{low:+.1f}, {high:+.1f}]" if row["n_common"] > 1 else "")


def _frontier_table(frame: pd.DataFrame, compared: pd.DataFrame, reference: Reference, gap: str) -> str:
    points = frontier(frame[frame["tolerance"].notna()], gap)
    lines = []
    for name, row in compared.iterrows():
        mine = points[points["method"] == name]
        volume = f"{100 * row['value']:.1f}"
        if row["n_seeds"] > 1:  # one split has no interval
            volume += f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
        at = [_accuracy_at(mine, bound) for bound in (0.02, 0.05, 0.1)]
        lines.append([label(str(name)), volume, _difference_of_volumes(row), *at, f"{row['n_seeds']:.0f}"])
        lines[-1].append(f"{row['seconds']:.1f}")
    header = ["method", "hypervolume %", "difference to ours", "accuracy at gap ≤ .02", "≤ .05", "≤ .1"]
    note = f"Reference: accuracy {reference.accuracy:.4f}, gap {reference.gap:.4f}; "
    note += f"100 % is accuracy {reference.top:.4f} at gap 0."
    return markdown([*header, "seeds", "fit s"], lines) + f"\n\n{note}"


def _summary(compared: dict[str, pd.DataFrame]) -> str:
    """Ours on all its splits, and by method and set the difference to it on the splits that both have."""
    names = [*METHODS, *(name + _PUBLISHED for name in CRITERIA)]
    there = {name for table in compared.values() for name in table.index[table["n_common"].notna()]}

    def tell(table: pd.DataFrame, name: str) -> str:
        if name not in table.index or np.isnan(table.loc[name, "n_common"]):
            return "-"
        row = table.loc[name]
        number = f"({row['n_common']:.0f})"
        if np.isnan(row["difference"]):
            return f"- {number}"
        if row["n_points"] < row["n_points_of_ours"] / 2:
            return f"{100 * row['difference']:+.0f}° {number}"
        mark = ""
        if row["n_common"] >= _SOME and row["difference_low"] * row["difference_high"] > 0:
            mark = "**" if abs(row["difference"]) > row["difference_wide"] else "*"
        return f"{100 * row['difference']:+.0f}{mark} {number}"

    ours = [
        f"{100 * table.loc['bilevel', 'value']:.0f} ({table.loc['bilevel', 'n_seeds']:.0f})"
        if "bilevel" in table.index
        else "-"
        for table in compared.values()
    ]
    lines = [[f"{label('bilevel')}, hypervolume", *ours]]
    lines += [
        [label(name), *(tell(table, name) for table in compared.values())] for name in names if name in there
    ]
    return markdown(["method", *compared], lines)


def frontiers(frame: pd.DataFrame) -> str:
    """Hypervolume with intervals and accuracy at equal gap, for each set and constraint."""
    parts = [
        "Hypervolume of the mean (accuracy, gap) points over the tolerances, in per cent of the rectangle "
        "between the reference point and boosting's accuracy at gap 0, with 95 % bootstrap intervals over "
        "the seeds; differences are paired by seed. The reference point is the accuracy of the majority "
        "class and the mean gap of unconstrained boosting, of the same splits. Pruning criteria get the "
        "constraint and the rule of ours; as published they have neither. " + " ".join(MARKS),
        "A panel of a figure has the splits that all its methods have, and of each method the points that "
        "none of its others is better than in both; with standard errors for ours. Methods with fewer than "
        "three splits of a set are in its table only.",
    ]
    compared: dict[str, dict[str, pd.DataFrame]] = {}
    details = []
    for dataset, rows in frame.groupby("dataset"):
        for constraint in [name for name in _constraints(rows) if name != "none"]:
            gap = gap_column(constraint)
            reference = find_reference(rows, gap)

            def refer(seeds: list[int], rows: pd.DataFrame = rows, gap: str = gap) -> Reference:
                return find_reference(rows[rows["seed"].isin(seeds)], gap)

            held = pd.concat([rows[rows["constraint"] == constraint], _as_published(rows)])
            held = _whole_frontiers(held)
            found = compare(held, gap, refer)
            compared.setdefault(constraint, {})[str(dataset)] = found
            details += [f"## {dataset}, {_TITLES[constraint]}", _frontier_table(held, found, reference, gap)]
    for constraint, tables in compared.items():
        parts.append(f"## All sets, {_TITLES[constraint]}")
        parts.append(
            "Hypervolume of ours, and below the paired difference of each method to it on the splits that "
            f"both have, whose number is in brackets; * marks those of {_SOME} splits or more whose interval "
            "excludes 0, which is that of a mean over resampled splits of these rows, and ** those whose "
            "interval for other samples of the population does, too: the splits overlap, for which the "
            "corrected resampled t-test (Nadeau and Bengio, 2003) makes it nearly three times as wide. Below "
            "0 ours is ahead. A method with two of the bounds of ours is held against ours at these; ° marks "
            "one of a single point, whose volume is smaller by that alone. Where neither is below the gap "
            "of unconstrained boosting stands -."
        )
        parts.append(_summary(tables))
    return "\n\n".join([*parts, *details])


def by_sparsity(frame: pd.DataFrame) -> str:
    """Accuracy and gap of each method at each sparsity, and ours against the dense and the small network."""
    parts = []
    for (dataset, constraint), rows in frame.groupby(["dataset", "constraint"]):
        pruned = rows[rows["sparsity"].notna()]
        if pruned.empty:
            continue
        levels = sorted(pruned["sparsity"].unique())
        gap = "eo_gap" if constraint == "none" else gap_column(constraint)
        ours, header = pruned[pruned["method"] == "bilevel"], [f"{level:.0%}" for level in levels]
        for column in ("accuracy", gap):
            lines = []
            for name in _in_order(pruned["method"]):
                mine = pruned[pruned["method"] == name]
                cells = (_column(mine[mine["sparsity"] == level], column) for level in levels)
                lines.append([label(name), *cells])
            others = [name for name in _in_order(rows["method"]) if name != "bilevel"]
            differences = []
            for name in others:
                line = [label(name)]
                for level in levels:
                    other = rows[(rows["method"] == name) & rows["sparsity"].isin([level, np.nan])]
                    mine = ours[ours["sparsity"] == level]
                    number = f" ({len(set(other['seed']) & set(mine['seed']))})"
                    found = value(*paired(other, mine, column), sign=True)
                    line.append(found if found == "-" else found + number)
                differences.append(line)
            title = (
                f"{dataset}, {_TITLES[constraint]}: {column.replace('eo_gap', 'EO gap').replace('_', ' ')}"
            )
            parts += [f"## {title}", markdown(["method", *header], lines)]
            parts += ["Ours less each:", markdown(["method", *header], differences)]
    note = "Differences are paired by split, whose number is in brackets; one split has no error."
    return "\n\n".join([note, *parts])


def tradeoff(frame: pd.DataFrame) -> str:
    """The points of the trade-off curves."""
    parts = []
    pruned = frame[frame["sparsity"].notna() & frame["tolerance"].notna()]
    for (dataset, constraint), rows in pruned.groupby(["dataset", "constraint"]):
        gap, levels = gap_column(constraint), sorted(rows["sparsity"].unique())
        lines = []
        for name in _in_order(rows["method"]):
            for bound, mine in rows[rows["method"] == name].groupby("tolerance"):
                cells = []
                for level in levels:
                    part = mine[mine["sparsity"] == level]
                    cells += [_column(part, "accuracy"), _column(part, gap)]
                lines.append([label(name), f"{bound:g}", *cells])
        header = [f"{what}, {level:.0%}" for level in levels for what in ("accuracy", "gap")]
        table = markdown(["method", "bound", *header], lines)
        parts += [f"## {dataset}, {_TITLES[constraint]}", table]
    return "\n\n".join(parts)


def iterations(frame: pd.DataFrame) -> str:
    """The least training with which each order reaches what prune-then-fair reaches with the most."""
    cost = "updates" if frame["updates"].notna().all() else "n_iter"
    unit = "updates of the weights" if cost == "updates" else "epochs over all phases"
    parts = [
        "What prune-then-fair reaches with its longest training is the goal; a training reaches it within "
        f"{ACCURACY_REACHED:g} of accuracy and {GAP_REACHED:g} of gap, in means over the seeds. Cost in "
        f"{unit} and in seconds; ≤ marks the least that was tried: where prune-then-fair needs no more, what "
        "is saved cannot be told."
    ]
    header = ["set", "sparsity", "accuracy to reach", "gap to reach", "prune-then-fair", "ours", "saved"]
    for rule, end in (("with the decision rule", ""), ("without it", "_raw")):
        ours, other = f"bilevel{end}", f"prune_then_fair{end}"
        lines = []
        for (dataset, constraint, level), rows in frame[frame["method"].isin([ours, other])].groupby(
            ["dataset", "constraint", "sparsity"]
        ):
            if set(rows["method"]) == {ours, other}:
                costs = _cost_of_training(rows, gap_column(constraint), cost, ours, other)
                lines.append([dataset, f"{level:.0%}", *costs])
        if lines:
            parts += [f"## {rule.capitalize()}", markdown(header, lines)]
    return "\n\n".join(parts)


def _cost_of_training(rows: pd.DataFrame, gap: str, cost: str, ours: str, other: str) -> list[str]:
    """Return what the other reaches with the most, what either needs for it, and what ours saves."""
    table = rows.groupby(["method", "max_epochs"])[["accuracy", gap, cost, "fit_seconds"]].mean()
    goal = table.loc[other].sort_values(cost).iloc[-1]
    needed, least, told = {}, {}, {}
    for name in (other, ours):
        mine = table.loc[name].sort_values(cost)
        reached = mine["accuracy"] >= goal["accuracy"] - ACCURACY_REACHED
        reached &= mine[gap] <= goal[gap] + GAP_REACHED
        least[name], told[name] = bool(reached.iloc[0]), "not reached"
        if reached.any():
            need = mine[reached].iloc[0]
            needed[name] = need[cost]
            told[name] = f"{'≤ ' * least[name]}{need[cost]:.0f} ({need['fit_seconds']:.1f} s)"
    saved = "-"
    if ours in needed and not least[other]:
        saved = f"{'≥ ' * least[ours]}{1 - needed[ours] / needed[other]:+.0%}"
    return [f"{goal['accuracy']:.4f}", f"{goal[gap]:.4f}", told[other], told[ours], saved]


def _difference(ours: pd.DataFrame, other: pd.DataFrame, column: str) -> str:
    """Write a paired difference, with a star beyond two errors if the splits can tell an error."""
    mean, error = paired(ours, other, column)
    n_splits = len(set(ours["seed"]) & set(other["seed"]))
    return value(mean, error, sign=True) + ("*" if abs(mean) > 2 * error and n_splits >= _SOME else "")


def ablation(frame: pd.DataFrame) -> str:
    """Differences of the ablations to the whole method, paired by seed."""
    parts = [
        "Differences to the constraint in both levels, paired by seed, ± standard error; * marks those "
        f"of {_SOME} splits or more that are beyond two standard errors. Accuracy: higher is better; gap: "
        "lower is better."
    ]
    for rule, end in (("with the decision rule", ""), ("without it", "_raw")):
        names = [f"{name}{end}" for name in ("bilevel", "no_gates", "no_weights", "no_constraint")]
        rows = frame[frame["method"].isin(names)]
        if rows["method"].nunique() < 2 or names[0] not in set(rows["method"]):
            continue
        others = [name for name in names[1:] if name in set(rows["method"])]
        lines = []
        keys = ["constraint", "dataset", "sparsity", "tolerance"]
        for (constraint, dataset, level, bound), cell in rows.groupby(keys):
            gap, whole = gap_column(constraint), cell[cell["method"] == names[0]]
            line = [f"{dataset}, {_TITLES[constraint]}", f"{level:.0%}", f"{bound:g}"]
            line += [_column(whole, "accuracy"), _column(whole, gap)]
            for name in others:
                for column in ("accuracy", gap):
                    line.append(_difference(whole, cell[cell["method"] == name], column))
            lines.append(line)
        header = ["set, constraint", "sparsity", "bound", "accuracy, both", "gap, both"]
        for name in others:
            short = METHODS[name].label.removesuffix(", no rule")
            header += [f"accuracy, {short}", f"gap, {short}"]
        parts += [f"## {rule.capitalize()}", markdown(header, lines)]
    return "\n\n".join(parts)


def options(frame: pd.DataFrame) -> str:
    """Differences of other options to the defaults, one change at a time."""
    parts = [
        "Differences to the defaults, paired by seed, ± standard error, over the bounds of "
        f"{_list(frame['tolerance'])}; * marks those of {_SOME} splits or more that are beyond two standard "
        "errors. Accuracy: higher is better; gap: lower is better."
    ]
    for (constraint, level), rows in frame.groupby(["constraint", "sparsity"]):
        gap, lines = gap_column(constraint), []
        sets = sorted(rows.loc[rows["method"] != "bilevel", "dataset"].unique())
        default = rows[rows["method"] == "bilevel"]
        for name in _in_order(rows["method"]):
            line = ["defaults" if name == "bilevel" else label(name)]
            for dataset in sets:
                mine = rows[(rows["method"] == name) & (rows["dataset"] == dataset)]
                for column in ("accuracy", gap):
                    if name == "bilevel":
                        line.append(_column(mine, column))
                        continue
                    line.append(_difference(default[default["dataset"] == dataset], mine, column))
            lines.append([*line, f"{rows.loc[rows['method'] == name, 'fit_seconds'].mean():.1f}"])
        header = [f"{dataset}, {what}" for dataset in sets for what in ("accuracy", "gap")]
        title = f"## {_TITLES[constraint]}, {level:.0%} removed"
        parts += [title, markdown(["option", *header, "fit s"], lines)]
    return "\n\n".join(parts)


def bound(frame: pd.DataFrame) -> str:
    """How often the test gap exceeds the bound by more than two standard errors, and what bounds cost."""
    whole = frame
    frame = frame[frame["tolerance"].notna()].copy()
    gaps = [gap_column(constraint) for constraint in frame["constraint"]]
    values = np.array([frame[gap].iloc[i] for i, gap in enumerate(gaps)], float)
    errors = np.array([frame[gap.replace("_gap", "_se")].iloc[i] for i, gap in enumerate(gaps)], float)
    frame["exceeds"] = values > frame["tolerance"] + 2 * errors
    frame["above"] = values > frame["tolerance"]
    frame["shown"] = values + _ONE_SIDED * errors <= frame["tolerance"]
    frame["gap"] = values

    def tell(cells: pd.DataFrame) -> str:
        return f"{cells['exceeds'].sum()}/{len(cells)}" if len(cells) else "-"

    keys = [(name, level) for name in _constraints(frame) for level in sorted(frame["tolerance"].unique())]
    lines: list[list[str]] = []
    main = frame[frame["dataset"].isin(SETS)]
    parts = [*frame.groupby("dataset"), ("all sets", frame)]
    if 0 < len(main) < len(frame):
        others = sorted(set(frame["dataset"]) - set(SETS))
        parts.append((f"without {', '.join(others)}", main))
    for title, rows in parts:
        cells = [rows[(rows["constraint"] == name) & (rows["tolerance"] == level)] for name, level in keys]
        means = rows.groupby(["constraint", "tolerance"])[["gap", "accuracy"]].mean().mean()
        levels = [rows[rows["tolerance"] == level] for level in sorted(frame["tolerance"].unique())]
        told = [f"{tell(found)} ({found['exceeds'].mean():.1%})" for found in (*levels, rows)]
        lines.append([str(title), *map(tell, cells), *told])
        lines[-1] += [
            f"{rows['above'].mean():.0%}",
            f"{rows['shown'].mean():.0%}",
            f"{means['gap']:.3f}",
            f"{means['accuracy']:.3f}",
        ]
    every = [f"all, {level:g}" for level in sorted(frame["tolerance"].unique())]
    header = [
        "set",
        *(f"{_TITLES[name]}, {level:g}" for name, level in keys),
        *every,
        "all",
        "above the bound",
        "shown to be within",
    ]
    return (
        "Splits whose test gap exceeds the bound by more than two sampling standard errors; above the bound "
        "counts every gap above it, however little, and shown to be within those that are 1.645 errors or "
        "more below it, so that the test part alone shows, at 95 %, that it is kept. Gaps and accuracies are "
        "means over the constraints and bounds.\n\n"
        + markdown([*header, "mean gap", "mean accuracy"], lines)
        + _cost_of_bounds(whole)
    )


def _cost_of_bounds(frame: pd.DataFrame) -> str:
    """Return a table of mean accuracy and gap by set, without a constraint and under each bound."""
    none, lines = frame[frame["constraint"] == "none"], []
    if none.empty:
        return ""
    held = frame[frame["tolerance"].notna()]
    keys = [(name, level) for name in _constraints(held) for level in sorted(held["tolerance"].unique())]
    for dataset, rows in held.groupby("dataset"):
        free = none[none["dataset"] == dataset]
        line = [str(dataset), *(_mean(free, column) for column in ("accuracy", "dp_gap", "eo_gap"))]
        for name, level in keys:
            mine = rows[(rows["constraint"] == name) & (rows["tolerance"] == level)]
            line.append(f"{_mean(mine, 'accuracy')} / {_mean(mine, gap_column(name))}" if len(mine) else "-")
        lines.append(line)
    header = ["set", "accuracy without a constraint", "DP gap", "EO gap"]
    header += [f"{_TITLES[name]}, {level:g}" for name, level in keys]
    return (
        "\n\n## What a bound costs\n\nMean accuracy / mean gap on the test part, by constraint and bound; "
        "before them those of the network without a constraint.\n\n" + markdown(header, lines)
    )


def _mean(frame: pd.DataFrame, column: str) -> str:
    return f"{frame[column].mean():.3f}" if len(frame) else "-"


def degradation(frame: pd.DataFrame) -> str:
    """What pruning costs one group more than another."""
    lines = []
    pruned = frame[frame["sparsity"].notna()]
    for (dataset, level), rows in pruned.groupby(["dataset", "sparsity"]):
        for name in _in_order(rows["method"]):
            for constraint in _constraints(rows):
                mine = rows[(rows["method"] == name) & (rows["constraint"] == constraint)]
                if len(mine):
                    line = [dataset, f"{level:.0%}", label(name), _TITLES[constraint]]
                    gaps = [_column(mine, "degradation_gap"), f"{mine['degradation_se'].mean():.4f}"]
                    lines.append([*line, _column(mine, "accuracy"), *gaps])
    header = ["set", "sparsity", "method", "constraint", "accuracy", "degradation gap", "sampling error"]
    return (
        "The degradation gap is the largest minus the smallest accuracy lost by a group against the dense, "
        "unconstrained network of the same split (Def. 3 of the paper); the sampling error is that of one "
        "split.\n\n" + markdown(header, lines)
    )


def auto(frame: pd.DataFrame) -> str:
    """The smallest network whose accuracy stays within the allowed drop."""
    lines = []
    small = frame[frame["method"] == "auto"]
    for (dataset, constraint), rows in small.groupby(["dataset", "constraint"]):
        dense = frame[(frame["method"] == "dense") & (frame["dataset"] == dataset)]
        mean, error = paired(dense[dense["constraint"] == constraint], rows, "accuracy")
        gap = None if constraint == "none" else gap_column(constraint)
        kept = "-"
        if gap is not None:
            error_of_gap = rows[gap.replace("_gap", "_se")]
            kept = f"{(rows[gap] <= rows['tolerance'] + 2 * error_of_gap).mean():.0%}"
        removed = f"{rows['sparsity_parameters'].median():.2%}"
        line = [dataset, _TITLES[constraint], removed, f"{rows['parameters'].median():,.0f}"]
        line += [_column(rows, "accuracy"), value(mean, error, sign=True)]
        lines.append([*line, "-" if gap is None else _column(rows, gap), kept])
    header = ["set", "constraint", "removed (median)", "parameters (median)", "accuracy", "against dense"]
    return markdown([*header, "gap", "bound kept within 2 errors"], lines)


#: The body of each experiment's page.
TABLES: dict[str, Callable[[pd.DataFrame], Any]] = {
    "means": means,
    "frontier": frontiers,
    "sparsity": by_sparsity,
    "tradeoff": tradeoff,
    "iterations": iterations,
    "ablation": ablation,
    "options": options,
    "bound": bound,
    "later": bound,
    "degradation": degradation,
    "auto": auto,
}
