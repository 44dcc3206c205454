"""Statistics over the seeds: means, paired differences, the frontier and its hypervolume."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from measure import GAPS
from numpy.typing import NDArray
from protocol import TEST_SIZE
from scipy.stats import t as student

__all__ = [
    "Reference",
    "common_seeds",
    "compare",
    "find_reference",
    "frontier",
    "gap_column",
    "hypervolume",
    "mean_error",
    "paired",
    "whole_seeds",
]

_DRAWS = 2000
# Splits below which a method is not drawn beside others that have more.
_DRAWN = 3
_SHORT = {constraint: name for name, constraint in GAPS.items()}


def gap_column(constraint: str) -> str:
    """Return the column that holds the gap of a constraint."""
    return "degradation_gap" if constraint == "degradation_parity" else f"{_SHORT[constraint]}_gap"


def mean_error(values: pd.Series) -> tuple[float, float]:
    """Return the mean over the seeds and its standard error, NaN with one seed."""
    return float(values.mean()), float(values.sem()) if len(values) > 1 else np.nan


def paired(ours: pd.DataFrame, other: pd.DataFrame, column: str) -> tuple[float, float]:
    """Return the mean of other - ours over common seeds and tolerances, and its standard error."""
    keys = ["seed", "tolerance"]
    both = ours[[*keys, column]].merge(other[[*keys, column]], on=keys, suffixes=("", "_other"))
    return mean_error((both[f"{column}_other"] - both[column]).groupby(both["seed"]).mean())


def whole_seeds(frame: pd.DataFrame, setting: str = "tolerance") -> pd.DataFrame:
    """Return the rows of the seeds on which a method has all tolerances that it has on any.

    Points of different splits are no frontier. Another setting than the tolerance is treated alike.
    """
    keys = ["dataset", "constraint", "method"]
    there = frame.groupby([*keys, "seed"])[setting].transform("nunique")
    return frame[there == there.groupby([frame[key] for key in keys]).transform("max")]


def common_seeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Return of each set the rows of the splits that all its methods have, to be drawn beside each other.

    Methods with fewer splits than ``_DRAWN``, where others have more, are left out.
    """
    parts = []
    for _, rows in frame.groupby("dataset"):
        seeds = {name: set(mine["seed"]) for name, mine in rows.groupby("method")}
        least = min(_DRAWN, max(map(len, seeds.values())))
        kept = {name: found for name, found in seeds.items() if len(found) >= least}
        common = set.intersection(*kept.values())
        parts.append(rows[rows["method"].isin(kept) & rows["seed"].isin(common)])
    return pd.concat(parts) if parts else frame


def frontier(frame: pd.DataFrame, gap: str) -> pd.DataFrame:
    """Return the mean point of each method and tolerance, with standard errors, by rising gap."""
    groups = frame.groupby(["method", "tolerance"], dropna=False)[["accuracy", gap]]
    points = groups.mean().join(groups.sem().add_suffix("_error")).reset_index()
    return points.rename(columns={gap: "gap", f"{gap}_error": "gap_error"}).sort_values(["method", "gap"])


class Reference(NamedTuple):
    """The worst point of the hypervolume (accuracy, gap) and the accuracy that scales it."""

    accuracy: float
    gap: float
    top: float


def find_reference(frame: pd.DataFrame, gap: str) -> Reference:
    """Return the reference of one set from its unconstrained boosting rows.

    The worst point has the accuracy of the majority class, which every constant classifier has at a gap of
    0, and the gap of unconstrained boosting, below which a constraint has begun to work. 100 % would be
    boosting's own accuracy at a gap of 0.
    """
    rows = frame[(frame["method"] == "hgb") & (frame["constraint"] == "none")]
    if rows.empty:
        raise ValueError(
            f"No rows of 'hgb' for {sorted(frame['dataset'].unique())}, and its mean gap is the reference "
            "point of the hypervolume: run the experiment with the method hgb first."
        )
    return Reference(rows["majority"].mean(), rows[gap].mean(), rows["accuracy"].mean())


def hypervolume(
    accuracy: NDArray[np.floating], gap: NDArray[np.floating], reference: Reference
) -> NDArray[np.floating]:
    """Return the area that points dominate, as a share of the best rectangle.

    Parameters
    ----------
    accuracy, gap : ndarray of shape (..., n_points)
        The points; NaN for missing ones.
    reference : Reference
        The worst point and the scale.

    Returns
    -------
    ndarray of shape (...)
        0 where no point is better than the reference in both; above 1 only beyond boosting's accuracy.
    """
    missing = np.isnan(accuracy) | np.isnan(gap)
    accuracy, gap = np.where(missing, -np.inf, accuracy), np.where(missing, np.inf, gap)
    order = np.argsort(gap, axis=-1)
    best = np.maximum.accumulate(np.take_along_axis(accuracy, order, axis=-1), axis=-1)
    heights = np.clip(best - reference.accuracy, 0, None)
    left = np.clip(np.take_along_axis(gap, order, axis=-1), 0, reference.gap)
    right = np.concatenate([left[..., 1:], np.full((*left.shape[:-1], 1), reference.gap)], axis=-1)
    return (heights * (right - left)).sum(axis=-1) / (
        reference.gap * max(reference.top - reference.accuracy, 1e-12)
    )


def _points(frame: pd.DataFrame, gap: str, seeds: list[int]) -> tuple[NDArray, NDArray]:
    """Return accuracy and gap, of shape (n_seeds, n_tolerances)."""
    tables = (
        frame.pivot_table(index="seed", columns="tolerance", values=column).reindex(seeds)
        for column in ("accuracy", gap)
    )
    accuracy, gaps = (table.to_numpy() for table in tables)
    return accuracy, gaps


def _half_width(draws: NDArray[np.floating], n_splits: int) -> float:
    """Return half of the 95 % interval of a mean for other samples of the population, from its bootstrap.

    Training parts of the splits overlap, so that their standard error says too little of other samples; the
    correction is that of Nadeau and Bengio (2003), with Student's distribution of ``n_splits`` - 1 degrees
    of freedom.
    """
    overlap = 1 + n_splits * TEST_SIZE / (1 - TEST_SIZE)
    error = draws.std() * np.sqrt(n_splits / (n_splits - 1) * overlap)
    return float(student.ppf(0.975, n_splits - 1) * error)


def _resample(
    points: tuple[NDArray, NDArray], draws: NDArray[np.intp], reference: Reference
) -> NDArray[np.floating]:
    """Return the hypervolume of the mean points of each draw of seeds."""
    with np.errstate(invalid="ignore"):  # a tolerance that no drawn seed has is a missing point
        sums = [np.nansum(values[draws], axis=1) for values in points]
        counts = [(~np.isnan(values[draws])).sum(axis=1) for values in points]
        accuracy, gap = (total / count for total, count in zip(sums, counts, strict=True))
    return hypervolume(accuracy, gap, reference)


def compare(
    frame: pd.DataFrame, gap: str, refer: Callable[[list[int]], Reference], ours: str = "bilevel"
) -> pd.DataFrame:
    """Compare the methods on one set under one constraint by hypervolume.

    The hypervolume is that of the mean points over the seeds, one for each tolerance, so that a lucky gap
    of one split is no point of the frontier. Intervals are 95 % percentile bootstrap intervals over the
    seeds, of means over splits of these rows; differences to ours draw the same seeds for both. An envelope
    of more points is higher by their noise alone: where a method has some of the bounds of ours, ours has
    these, too.

    Parameters
    ----------
    frame : DataFrame
        The rows.
    gap : str
        The column of the gap.
    refer : callable
        Returns the reference of some seeds: a mean over others is not what their gaps are held against.
    ours : str, default="bilevel"
        The method that the others are compared with.

    Returns
    -------
    DataFrame
        Indexed by method, best first: value, low, high, difference (NaN where neither has a volume),
        difference_low, difference_high, difference_wide (half of its interval for other samples of the
        population), n_seeds, n_common (those that ours has, too), n_points (the
        tolerances), n_points_of_ours, seconds (mean of a fit).
    """
    rng, rows = np.random.default_rng(0), {}
    constrained = frame[frame["tolerance"].notna()]
    seeds_of = {name: set(rows["seed"]) for name, rows in constrained.groupby("method")}
    for name, part in constrained.groupby("method"):
        seeds = sorted(seeds_of[name])
        points, n, reference = _points(part, gap, seeds), len(seeds), refer(seeds)
        drawn = _resample(points, rng.integers(n, size=(_DRAWS, n)), reference)
        row = {"value": float(_resample(points, np.arange(n)[None], reference)[0])}
        row["low"], row["high"] = np.quantile(drawn, [0.025, 0.975])
        common = sorted(seeds_of[name] & seeds_of.get(ours, set()))
        if name != ours and common:
            draws = rng.integers(len(common), size=(_DRAWS, len(common)))
            reference, own = refer(common), constrained[constrained["method"] == ours]
            grid = set(part["tolerance"])
            if grid < set(own["tolerance"]):
                own = own[own["tolerance"].isin(grid)]
            mine, other = _points(own, gap, common), _points(part, gap, common)
            row["n_points_of_ours"] = mine[0].shape[1]
            drawn = _resample(other, draws, reference) - _resample(mine, draws, reference)
            every = np.arange(len(common))[None]
            whole = _resample(other, every, reference) - _resample(mine, every, reference)
            if _resample(other, every, reference)[0] or _resample(mine, every, reference)[0]:
                row["difference"] = float(whole[0])
                row["difference_low"], row["difference_high"] = np.quantile(drawn, [0.025, 0.975])
                if len(common) > 1:
                    row["difference_wide"] = _half_width(drawn, len(common))
            row["n_common"] = len(common)
        rows[name] = row | {
            "n_seeds": n,
            "n_points": part["tolerance"].nunique(),
            "seconds": part["fit_seconds"].mean(),
        }
    columns = ["value", "low", "high", "difference", "difference_low", "difference_high", "difference_wide"]
    columns += ["n_seeds", "n_common", "n_points", "n_points_of_ours"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[*columns, "seconds"])
    return table.sort_values("value", ascending=False)
