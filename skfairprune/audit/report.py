"""What an audit found, and the document that tells it."""

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from skfairprune.audit.comparison import Place
from skfairprune.audit.document import (
    Block,
    Facts,
    Heading,
    Paragraph,
    Table,
    show_label,
    write_html,
    write_markdown,
)

__all__ = ["Audit"]

_HEADLINES = {
    "within": "Within the bound.",
    "above": "Above the bound.",
    "undecided": "These rows cannot tell.",
    None: "No verdict.",
}
_MOST_LISTED = 40


@dataclass(frozen=True, eq=False)
class Audit:
    """What decisions on held-out rows say of a bound.

    Attributes
    ----------
    constraint : str
        The constraint that the bound is on.
    difference_bound : float or None
        The largest difference allowed between two groups' rates.
    verdict : {"within", "above", "undecided"} or None
        "within" if ``upper`` is not above the bound, and all rates were compared of the groups that are
        compared and of those under the model's constraint; "above" if ``lower`` is above the bound; and else
        "undecided", also where nothing can be compared of what should be. None without a bound, or if no
        group has enough rows beside another.
    gap, standard_error : float
        The largest difference between two groups' rates, and its sampling standard error.
    widest : Place or None
        Where that is: event, stratum (None without strata), and the groups with the smaller and larger rate.
    lower : float
        The largest lower limit of a difference between two groups, of the larger rate less the smaller. The
        probability that it is above the largest true difference is 5 % at most; with weights, if they do not
        depend on the decisions.
    surest : Place or None
        Where that is, as in ``widest``.
    upper : float
        The largest upper limit of a difference. The probability that it is below the largest true difference
        is 5 % at most; with weights, if they do not depend on the decisions.
    rows_needed : float
        Where the rows cannot tell, about how many with the same rates would have an ``upper`` within the
        bound in nine of ten samples, if one difference alone is near the bound; where some rates have too few
        rows to be compared, at least as many as they need for that. Infinite if the gap itself is not below
        the bound; NaN if the bound is kept or not given, or if a rate of its groups has no rows at all.
    n_samples : int
        The number of rows with weight of the groups that are compared.
    min_cell_size : int
        The least number of rows of a rate that is compared.
    classes : tuple
        The labels.
    pos_label : object
        The positive one of two; None of more.
    not_compared : list of tuple
        Event and group of the rates that keep the verdict from "within": with too few rows, of a group that
        has enough, and those that the model's bound is for and that have too few rows, or none.
    overall : Series
        ``accuracy`` and its ``standard_error``, ``balanced_accuracy`` (the mean over the classes of the share
        of a class that is decided rightly), ``majority``, the share of the commonest class,
        ``commonest_decision``, that of the commonest decision, ``n_samples``, the rows with weight, and
        ``effective_samples``, as many as they would be without weights (Kish).
    gaps : DataFrame
        Of the constraint, demographic parity, equalized odds, error rate parity and, where the dense
        network's decisions are given, degradation parity, for each event (and stratum): gap, standard_error,
        lower, upper, and the groups with the lowest and the highest rate. ``lower`` and ``upper`` are the
        one-sided limits of two verdicts, and no interval: at a confidence of 95 % some difference of any
        event of the constraint is at least the largest ``lower``, and none of the event is above ``upper``.
    rates : DataFrame
        The rate of each cell as in :func:`skfairprune.metrics.group_rates`, its standard_error and n_samples,
        and status: "compared"; "left out", of a group that has fewer than ``min_cell_size`` rows with weight
        (in its stratum); "too few rows", of another group; or "alone", if no other group has enough. Rows are
        those with weight.
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
    widest: Place | None
    lower: float
    surest: Place | None
    upper: float
    rows_needed: float
    n_samples: int
    min_cell_size: int
    classes: tuple[Hashable, ...]
    pos_label: Hashable
    not_compared: list[tuple[str, Hashable]]
    overall: pd.Series
    gaps: pd.DataFrame
    rates: pd.DataFrame
    model: pd.Series | None
    date: str

    def to_markdown(self, title: str | None = None) -> str:
        """Return the audit as a document in Markdown.

        Parameters
        ----------
        title : str, default=None
            The heading, such as the name of the model and of the rows; None names the constraint.

        Returns
        -------
        str
            The document.
        """
        return write_markdown(title or _title(self), _blocks(self))

    def to_html(self, title: str | None = None) -> str:
        """Return the audit as a page of HTML that needs no other file.

        Parameters
        ----------
        title : str, default=None
            The heading, such as the name of the model and of the rows; None names the constraint.

        Returns
        -------
        str
            The document.
        """
        return write_html(title or _title(self), _blocks(self))


def _title(audit: Audit) -> str:
    return f"Audit of group gaps: {_words(audit.constraint)}"


def _blocks(audit: Audit) -> list[Block]:
    """Return the parts of the document."""
    rates, n_labels = _rate_frame(audit)
    blocks: list[Block] = [
        Paragraph(" ".join(_statements(audit)), _HEADLINES[audit.verdict]),
        *(Paragraph(text, strong) for strong, text in _not_compared(audit)),
        Heading("Accuracy"),
        Table(_overall_frame(audit), n_labels=0),
        Heading("Gaps"),
        Table(*_gap_frame(audit)),
        Heading("Rates by group"),
        Table(rates, n_labels),
    ]
    if audit.model is not None:
        told = "The decisions were handed in; that they are this model's was not checked."
        blocks += [Heading("The model"), Facts(audit.model.to_dict()), Paragraph(told)]
    blocks += [Heading("How to read this"), Facts(_glossary(audit))]
    return [*blocks, Paragraph(f"Audited on {audit.date}.")]


def _statements(audit: Audit) -> list[str]:
    """Say the verdict and what it comes from."""
    if audit.widest is None or audit.surest is None:
        return [f"There are no two groups to compare in any rate, with at least {audit.min_cell_size} rows."]
    seen = [
        f"The largest difference that was seen is {audit.gap:.3f}, with a standard error of "
        f"{audit.standard_error:.3f}: the {_difference(audit, audit.widest)}. The groups that are compared "
        f"have {audit.n_samples:,} rows."
    ]
    if audit.overall["commonest_decision"] == 1:
        seen.append("All rows got the same decision.")
    limit = f"At a confidence of 95 % no two of the groups compared differ by more than {_up(audit.upper, 4)}"
    if audit.difference_bound is None:
        return [f"{limit}. No bound was given.", *seen]
    bound = f"the bound of {audit.difference_bound:.10g}"
    if audit.verdict == "within":
        return [f"{limit}, which is within {bound}.", *seen]
    if audit.verdict == "above":
        sure = f"the {_difference(audit, audit.surest)}, is at least {_up(audit.lower, 4, -1)}"
        return [f"At a confidence of 95 % a difference, {sure}, which is above {bound}.", *seen]
    told = []
    if audit.upper > audit.difference_bound:
        told.append(
            f"At a confidence of 95 % a difference may be as large as {_up(audit.upper, 4)}, above {bound}, "
            "and none is sure to be above it."
        )
    if audit.gap >= audit.difference_bound:
        more = "That is not below the bound: more rows with these rates would not show that it is kept."
    elif audit.not_compared:
        more = "Not all that the bound is for could be compared."
        if math.isfinite(audit.rows_needed):
            more = f"{more[:-1]}: that would take about {_rounded(audit.rows_needed)} rows at least."
    else:
        more = (
            f"With these rates it would take about {_rounded(audit.rows_needed)} rows to show that the bound "
            "is kept (in nine of ten samples)."
        )
    return [*told, *seen, more]


def _difference(audit: Audit, place: Place) -> str:
    """Name a difference: the rate, the groups, and the stratum."""
    within = "" if place.stratum is None else f" in {show_label(place.stratum)}"
    rate = _rate(audit, audit.constraint, place.event)
    return f"{rate} of {show_label(place.larger)} less that of {show_label(place.smaller)}{within}"


def _not_compared(audit: Audit) -> list[tuple[str, str]]:
    """Say which rates and groups were not compared, and what that means."""
    too_few = f"for fewer than {audit.min_cell_size} rows"
    own = audit.rates.loc[[audit.constraint]]
    promised = set(audit.not_compared)
    every = audit.rates.loc[["error_rate_parity"]]  # of all rows
    n_rows = {key[2:]: n_samples for key, n_samples in every["n_samples"].items()}
    wanting: dict[str, str] = {}  # rates and their groups
    left_out, alone = [], []
    for key, status in own["status"].items():
        stratum, group = _split(audit, key[2:])
        event = key[1] if stratum is None else f"{key[1]} | {stratum!r}"
        name = show_label(group) if stratum is None else f"{show_label(group)} in {show_label(stratum)}"
        if status == "too few rows" or (event, group) in promised:
            wanting[f"{_rate(audit, *key[:2])} of {name}"] = name
            promised.discard((event, group))
        elif status == "alone":
            alone.append(f"{_rate(audit, *key[:2])} of {name}")
        elif status == "left out" and n_rows[key[2:]]:
            left_out.append(name)
    for event, group in sorted(promised, key=str):  # of groups or strata that no row is of
        rate, _, stratum = event.rpartition(" | ") if _has_strata(audit) else (event, "", "")
        within = f" in {stratum}" if stratum else ""
        wanting[f"{_rate(audit, audit.constraint, rate)} of {show_label(group)}{within}"] = show_label(group)
    found = []
    if wanting:
        told = f"{_listed(list(wanting))}."
        if audit.difference_bound is not None:
            told += " So the verdict cannot be that the bound is kept."
        few = f"fewer than {audit.min_cell_size} rows, or no other group with as many"
        found.append((f"Not compared ({few}):", told))
    if alone:
        found.append(("With no other group to compare:", f"{_listed(alone)}. The verdict is not about them."))
    names = [name for name in dict.fromkeys(left_out) if name not in wanting.values()]
    if names:
        found.append((f"Groups left out, {too_few}:", f"{_listed(names)}. The verdict is not about them."))
    if audit.model is not None and "groups that are audited" in audit.model:
        told = "The model's bound is for other groups, and so is what its fit foresaw."
        found.append(("The groups are others than those of the fit.", told))
    return found


def _has_strata(audit: Audit) -> bool:
    return "stratum" in audit.gaps.index.names


def _split(audit: Audit, key: tuple[Hashable, ...]) -> tuple[Hashable, Hashable]:
    """Return the stratum, None without strata, and the group of a cell; the columns of strata come first."""
    n_columns = 0
    if _has_strata(audit):
        stratum = audit.gaps.index.get_level_values("stratum")[0]
        n_columns = len(stratum) if isinstance(stratum, tuple) else 1
    parts = [part[0] if len(part) == 1 else part or None for part in (key[:n_columns], key[n_columns:])]
    return parts[0], parts[1]


def _overall_frame(audit: Audit) -> pd.DataFrame:
    overall = audit.overall
    figures = {
        "rows": f"{overall['n_samples']:,.0f}",
        "accuracy": _show(overall["accuracy"], overall["standard_error"]),
        "balanced accuracy": f"{overall['balanced_accuracy']:.3f}",
        "commonest class": f"{overall['majority']:.3f}",
        "commonest decision": f"{overall['commonest_decision']:.3f}",
    }
    if _is_weighted(audit):
        figures["effective rows"] = f"{overall['effective_samples']:,.0f}"
    return pd.DataFrame([figures])


def _is_weighted(audit: Audit) -> bool:
    return not math.isclose(audit.overall["n_samples"], audit.overall["effective_samples"])


def _gap_frame(audit: Audit) -> tuple[pd.DataFrame, int]:
    """Return the gaps, a row for each event (of a stratum), those of the audited constraint first."""
    rows = []
    found = audit.gaps.reset_index().to_dict("records")
    for row in sorted(found, key=lambda row: row["constraint"] != audit.constraint):
        bounded = row["constraint"] == audit.constraint and audit.difference_bound is not None
        there = math.isfinite(row["gap"])
        rows.append(
            {
                "constraint": _words(row["constraint"]),
                "rate": _rate(audit, row["constraint"], row["event"]),
                **({"stratum": show_label(row["stratum"])} if "stratum" in row else {}),
                "lowest": show_label(row["lowest"]) if there else "-",
                "highest": show_label(row["highest"]) if there else "-",
                "gap": _show(row["gap"], row["standard_error"]),
                "upper 95 % limit": _up(row["upper"], 3) if there else "-",
                "bound": f"{audit.difference_bound:.10g}" if bounded else "",
            }
        )
    frame = pd.DataFrame(rows)
    return frame, len(frame.columns) - 3


def _rate_frame(audit: Audit) -> tuple[pd.DataFrame, int]:
    """Return what is compared, a row for each group (of a stratum), and how many columns name it."""
    names = audit.rates.index.names[2:]
    groups: dict[tuple[Any, ...], dict[str, str]] = {}
    for (constraint, event, *key), cell in zip(
        audit.rates.index, audit.rates.itertuples(index=False), strict=True
    ):
        row = groups.setdefault(tuple(key), {"rows": ""})
        compared = cell.status == "compared"
        if constraint == "error_rate_parity":  # of all rows, with any number of classes
            row["rows"] = f"{cell.n_samples:,}" if compared else f"< {audit.min_cell_size}"
        shown = _show(cell.rate, cell.standard_error) if compared else "-"
        if compared and event != "all" and not event.startswith("decision "):
            shown += f" of {cell.n_samples:,}"
        row[_rate(audit, constraint, event)] = shown
    labels = pd.DataFrame([list(map(show_label, key)) for key in groups], columns=list(map(str, names)))
    return pd.concat([labels, pd.DataFrame(list(groups.values()))], axis=1), len(names)


def _glossary(audit: Audit) -> dict[str, str]:
    """Explain the figures."""
    facts = {"classes": "; ".join(map(str, audit.classes))}
    if len(audit.classes) <= 2:
        facts |= {
            "positive decision": str(audit.pos_label),
            "selection rate": "share of positive decisions",
            "false, true positive rate": "the same among the rows whose label is negative, positive",
        }
    else:
        facts["decision, y=, y!="] = (
            "share of one decision: of all rows, of those with this label, of those with another"
        )
    facts["error rate"] = "share of decisions that are not the label"
    if "degradation_parity" in audit.rates.index:
        facts["accuracy lost"] = "accuracy of the dense network less that of the audited decisions"
    if _is_weighted(audit):
        facts["weights"] = (
            "rates and shares are weighted, numbers of rows are not; the limits hold if weights do not "
            "depend on the decisions"
        )
    return facts | {
        "gap": "the largest difference of a rate between two groups",
        "±": "standard error of sampling these rows",
        "upper 95 % limit": (
            "at a confidence of 95 % no two groups differ by more in this rate (limits built from exact ones "
            "of each rate)"
        ),
        "within, above": (
            "each of these verdicts is wrong in 5 % of samples at most; otherwise these rows cannot tell"
        ),
        "what it does not say": (
            "The figures hold for a population that the rows are a random sample of, take the labels as "
            "given, and are void if the rows have trained or chosen the model. A bound on one gap says "
            "nothing of the others, and gaps within a bound do not make a model or its use fair."
        ),
    }


def _rate(audit: Audit, constraint: str, event: Hashable) -> str:
    """Name the rate of an event."""
    if constraint == "error_rate_parity":
        return "error rate"
    if constraint == "degradation_parity":
        return "accuracy lost"
    if len(audit.classes) > 2:
        return str(event)
    return {"all": "selection rate", "y=0": "false positive rate", "y=1": "true positive rate"}[str(event)]


def _up(value: float, digits: int, sign: int = 1) -> str:
    """Round a limit up, or with a sign of -1 down: so it says no more than it does."""
    return f"{sign * math.ceil(sign * value * 10**digits - 1e-9) / 10**digits:.{digits}f}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_LISTED
    return "; ".join(names[:_MOST_LISTED]) + (f"; and {more} more" if more > 0 else "")


def _show(value: float, error: float) -> str:
    return f"{value:.3f} ± {error:.3f}" if math.isfinite(value) else "-"


def _rounded(value: float) -> str:
    """Round a number of rows up to two digits."""
    if value > 1e9:
        return "a billion or more"
    unit = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / unit) * unit:,}"
