"""What an audit found, and the document that tells it."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from skfairprune.audit.document import Block, Facts, Heading, Paragraph, Table, write_html, write_markdown

__all__ = ["Audit"]

_HEADLINES = {
    "within": "Within the bound.",
    "above": "Above the bound.",
    "undecided": "These rows cannot tell.",
    None: "No verdict.",
}
_RATES = {
    ("demographic_parity", "all"): "selection rate",
    ("equalized_odds", "y=0"): "false positive rate",
    ("equalized_odds", "y=1"): "true positive rate",
    ("false_positive_rate_parity", "y=0"): "false positive rate",
    ("true_positive_rate_parity", "y=1"): "true positive rate",
    ("error_rate_parity", "all"): "error rate",
    ("degradation_parity", "all"): "accuracy lost",
}


@dataclass(frozen=True)
class Audit:
    """What decisions on held-out rows say of a bound.

    Attributes
    ----------
    constraint : str
        The constraint that the bound is on.
    difference_bound : float or None
        The largest difference allowed between two groups' rates.
    verdict : {"within", "above", "undecided"} or None
        "within" if ``upper`` is not above the bound, "above" if ``lower`` is, and else "undecided"; None
        without a bound, or if no event has two groups that count.
    gap, standard_error : float
        The largest difference between two groups' rates, and its sampling standard error.
    lower : float
        The largest lower limit of a difference between two groups. The probability that any of these limits
        is above the true difference is about 5 % at most (Bonferroni, over all pairs of groups, events and
        strata).
    upper : float
        The largest one-sided 95 % limit of a difference. If some true difference is above the bound, the
        probability that all limits are below it is about 5 % at most (an intersection-union test: Berger,
        Technometrics 24, 1982).
    rows_needed : float
        How many rows with the same rates would have an ``upper`` within the bound; infinite if the gap itself
        is not below the bound, NaN without one.
    n_samples : int
        The number of rows.
    min_cell_size : int
        The least number of rows of a cell that counts.
    overall : Series
        ``accuracy`` and its ``standard_error``, ``balanced_accuracy`` (the mean over the classes of the share
        of a class that is decided rightly) and ``majority``, the share of the commonest class.
    gaps : DataFrame
        Of the constraint, demographic parity, equalized odds, error rate parity and, where the dense
        network's decisions are given, degradation parity, for each event (and stratum): gap, standard_error,
        upper, and the groups with the lowest and the highest rate.
    rates : DataFrame
        The rate of each cell as in :func:`skfairprune.metrics.group_rates`, its standard_error and n_samples;
        covered is False for those that no gap counts: cells with too few rows, and groups that the
        constraint of the fit left out or did not know.
    model : Series or None
        What the fitted estimator says of itself, as text.
    date : str
        The day of the audit.
    """

    constraint: str
    difference_bound: float | None
    verdict: str | None
    gap: float
    standard_error: float
    lower: float
    upper: float
    rows_needed: float
    n_samples: int
    min_cell_size: int
    overall: pd.Series
    gaps: pd.DataFrame
    rates: pd.DataFrame
    model: pd.Series | None
    date: str

    def to_markdown(self) -> str:
        """Return the audit as a document in Markdown."""
        return write_markdown(_title(self), _blocks(self))

    def to_html(self) -> str:
        """Return the audit as a page of HTML that needs no other file."""
        return write_html(_title(self), _blocks(self))


def _title(audit: Audit) -> str:
    return f"Audit of group gaps: {_words(audit.constraint)}"


def _blocks(audit: Audit) -> list[Block]:
    """Return the parts of the document."""
    overall = audit.overall
    figures = {
        "rows": f"{audit.n_samples:,}",
        "accuracy": _show(overall["accuracy"], overall["standard_error"]),
        "balanced accuracy": f"{overall['balanced_accuracy']:.3f}",
        "share of the commonest class": f"{overall['majority']:.3f}",
    }
    rates, n_labels = _rate_frame(audit)
    blocks: list[Block] = [
        Paragraph(_statement(audit), _HEADLINES[audit.verdict]),
        Heading("Accuracy"),
        Table(pd.DataFrame([figures]), n_labels=0),
        Heading("Gaps"),
        Paragraph(
            "A gap is the largest difference between two groups' rates, ± its sampling standard error. "
            "The upper limit is the largest of all pairs of groups (one-sided, 95 %). A bound on one gap "
            "says nothing of the others."
        ),
        Table(_gap_frame(audit), n_labels=2),
        Heading("Rates by group"),
        Table(rates, n_labels),
    ]
    if not audit.rates.dropna(subset="rate")["covered"].all():
        brackets = (
            f"In brackets: rates that no gap counts, of fewer than {audit.min_cell_size} rows, or of a group "
            "that the constraint of the fit left out or did not know. Nothing is said of these."
        )
        blocks.append(Paragraph(brackets))
    if audit.model is not None:
        blocks += [Heading("The model"), Facts(audit.model.to_dict())]
    limits = (
        "These are figures of some metrics on these rows. They hold for a population of which the rows are a "
        "random sample, take the labels as given, and are void if the rows have trained or chosen the model. "
        "Gaps within a bound do not make a model or its use fair."
    )
    return [*blocks, Heading("What this does not say"), Paragraph(f"{limits} Audited on {audit.date}.")]


def _statement(audit: Audit) -> str:
    """Say the verdict and what it comes from."""
    name = _words(audit.constraint)
    if not math.isfinite(audit.gap):
        return (
            f"There is no gap: no event of {name} has two groups that count, with at least "
            f"{audit.min_cell_size} rows each."
        )
    gap = (
        f"The {name} gap of these {audit.n_samples:,} rows is {_show(audit.gap, audit.standard_error)}; the "
        f"upper limit of the difference between any two groups is {audit.upper:.3f}"
    )
    bound = f"the bound of {audit.difference_bound}"
    if audit.verdict is None:
        return f"{gap}. No bound was given."
    if audit.verdict == "within":
        return f"{gap}, within {bound}."
    if audit.verdict == "above":
        return f"{gap}. With 95 % confidence two groups differ by at least {audit.lower:.3f}, above {bound}."
    advice = "More rows with these rates would not show that it is kept."
    if math.isfinite(audit.rows_needed):
        n_rows = f"{_two_digits(audit.rows_needed):,}"
        advice = f"About {n_rows} rows with these rates would show that it is kept."
    lower = f"the lower limit of the largest one is {max(audit.lower, 0.0):.3f}, within it"
    return f"{gap}, above {bound}, and {lower}. {advice}"


def _gap_frame(audit: Audit) -> pd.DataFrame:
    """Return the gaps, a row for each event (of a stratum), those of the audited constraint first."""
    rows = []
    found = audit.gaps.reset_index().to_dict("records")
    for row in sorted(found, key=lambda row: row["constraint"] != audit.constraint):
        event = _RATES.get((row["constraint"], row["event"]), row["event"])
        bounded = row["constraint"] == audit.constraint and audit.difference_bound is not None
        rows.append(
            {
                "constraint": _words(row["constraint"]),
                "rate": f"{event}, {_label(row['stratum'])}" if "stratum" in row else event,
                "gap": _show(row["gap"], row["standard_error"]),
                "upper limit": f"{row['upper']:.3f}" if math.isfinite(row["upper"]) else "-",
                "bound": f"{audit.difference_bound}" if bounded else "",
                "lowest": _label(row["lowest"]),
                "highest": _label(row["highest"]),
            }
        )
    return pd.DataFrame(rows)


def _rate_frame(audit: Audit) -> tuple[pd.DataFrame, int]:
    """Return the rates, a row for each group (of a stratum), and how many columns name it."""
    table = audit.rates
    names = table.index.names[2:]
    groups: dict[tuple[Any, ...], dict[str, str]] = {}
    for (constraint, event, *key), cell in zip(table.index, table.itertuples(index=False), strict=True):
        row = groups.setdefault(tuple(key), {"rows": ""})
        if constraint == "error_rate_parity":  # of all rows, with any number of classes
            row["rows"] = f"{cell.n_samples:,}"
        shown = _show(cell.rate, cell.standard_error)
        row[_RATES.get((constraint, event), event)] = shown if cell.covered else f"({shown})"
    labels = pd.DataFrame([list(map(_label, key)) for key in groups], columns=list(map(str, names)))
    return pd.concat([labels, pd.DataFrame(list(groups.values()))], axis=1), len(names)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _label(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _show(value: float, error: float) -> str:
    return f"{value:.3f} ± {error:.3f}" if math.isfinite(value) else "-"


def _two_digits(value: float) -> int:
    """Round up to two digits."""
    unit = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit
