"""An audit of decisions on held-out rows: is a bound kept, is it broken, or can these rows not tell?

The gap of a sample says little by itself: on a few hundred rows that of a model without any is above most
bounds, and that of a model with a large one can be below. So the audit holds the bound against limits of the
difference between every two groups.
"""

from collections.abc import Hashable
from datetime import date
from importlib.metadata import version
from numbers import Real
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skfairprune._classifier import FairPrunedClassifier
from skfairprune._labels import align_labels, show_labels
from skfairprune._measured import Measured, check_size, encode, measure
from skfairprune.audit.report import Audit
from skfairprune.constraints import CONSTRAINTS, get_constraint
from skfairprune.gaps import NORMAL_95, CellRates

__all__ = ["audit"]

#: The constraints that every audit measures.
_ALWAYS = ("demographic_parity", "equalized_odds", "error_rate_parity")
_DEGRADATION = "degradation_parity"
_CHOICE = f"one of {', '.join(CONSTRAINTS)}"
_CONFIDENCE = 0.95


def audit(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    sensitive_features: Any,
    control_features: Any = None,
    sample_weight: ArrayLike | None = None,
    y_pred_dense: ArrayLike | None = None,
    model: Any = None,
    constraint: str | None = None,
    difference_bound: float | None = None,
    pos_label: Hashable = None,
    min_cell_size: int | None = None,
) -> Audit:
    r"""Audit decisions on rows that neither trained nor chose the model.

    For every two groups :math:`g, h` of an event with rates :math:`r` and standard errors :math:`s` (see
    :func:`skfairprune.metrics.gap_with_error`) the limits of their difference are

    .. math:: |r_g - r_h| \pm z \sqrt{s_g^2 + s_h^2},

    with :math:`z = 1.645` above, and below with that of 95 % for all pairs together.

    Parameters
    ----------
    y_true, y_pred, sensitive_features, control_features, sample_weight
        As in :func:`skfairprune.metrics.gap`. Any decisions will do: of ``predict``, of an export, of another
        model.
    y_pred_dense : array-like of shape (n_samples,), default=None
        The decisions of the dense network, for what pruning cost each group: as in
        :func:`skfairprune.metrics.degradation_gap`.
    model : FairPrunedClassifier, Pipeline or search, default=None
        The fitted estimator that is described in the audit, or a pipeline that ends with one, or a search
        over either. The following parameters, where they are None, are taken from it.
    constraint : str, default=None
        As in :func:`skfairprune.metrics.gap`, or "degradation_parity", which needs ``y_pred_dense``; None
        takes ``constraint_``.
    difference_bound : float, default=None
        The largest difference in [0, 1] allowed between two groups' rates. None takes ``bound_``, unless a
        constraint is given that is not the model's.
    pos_label : str, int, float or bool, default=None
        The positive one of two labels; None takes that of the model, and else the greater label.
    min_cell_size : int, default=None
        Cells (event, group) with fewer rows that have weight count in no gap. None takes that of the model,
        and else 30.

    Returns
    -------
    Audit

    Raises
    ------
    ValueError
        As :func:`skfairprune.metrics.gap`; if ``model`` is no such estimator, or not fitted; if there is no
        constraint, or one that needs more than decisions; if ``difference_bound`` is not in [0, 1]; or if
        no row belongs to a group that the model's constraint covers.

    Examples
    --------
    >>> import numpy as np
    >>> from skfairprune.audit import audit
    >>> sex = np.repeat(["f", "m"], 1000)
    >>> y_true = np.tile([0, 0, 0, 1], 500)
    >>> y_pred = np.where(np.arange(2000) % 100 == 2, 1, y_true)
    >>> found = audit(
    ...     y_true,
    ...     y_pred,
    ...     sensitive_features=sex,
    ...     constraint="demographic_parity",
    ...     difference_bound=0.05,
    ... )
    >>> found.verdict, found.gap, round(found.upper, 3)
    ('within', 0.0, 0.032)
    >>> print(found.to_markdown()[:42])
    # Audit of group gaps: demographic parity
    """
    clf = None if model is None else _find_classifier(model)
    if constraint is None:
        constraint = _own_constraint(clf)
    elif not isinstance(constraint, str):
        raise ValueError(f"constraint must be a name; got {constraint!r}. Pass {_CHOICE}.")
    if constraint == _DEGRADATION and y_pred_dense is None:
        raise ValueError(
            f"{_DEGRADATION} is of the accuracy lost against the dense network: pass its decisions as "
            "y_pred_dense, or another constraint."
        )
    if difference_bound is None and clf is not None and constraint == clf.constraint_:
        difference_bound = clf.bound_
    if difference_bound is not None:
        number = isinstance(difference_bound, Real) and not isinstance(difference_bound, bool)
        if not (number and 0 <= difference_bound <= 1):
            raise ValueError(f"difference_bound must be a number in [0, 1]; got {difference_bound!r}.")
        difference_bound = float(difference_bound)
    if min_cell_size is None:
        min_cell_size = 30 if clf is None else clf.min_cell_size
    size = check_size(min_cell_size)
    classes: list[Hashable] = [] if clf is None else clf.classes_.tolist()
    if pos_label is None and len(classes) == 2 and clf is not None:
        pos_label = classes[1] if clf.pos_label is None else clf.pos_label
    columns = {"y_true": y_true, "y_pred": y_pred}
    (y, decision, *dense), labels = align_labels(
        columns if y_pred_dense is None else columns | {"y_pred_dense": y_pred_dense}, classes
    )

    rows = (sensitive_features, control_features, sample_weight)
    names = sorted({constraint, *_ALWAYS, *([_DEGRADATION] if dense else [])})  # else pandas warns
    measured = {}
    for name in names:
        if name == _DEGRADATION:
            rule = get_constraint(name, max(2, len(labels)))
            measured[name] = measure(rule, y, decision, *rows, *dense)
        else:
            coded = encode(name, y_true, y_pred, pos_label, classes if len(classes) > 2 else ())
            measured[name] = measure(*coded, *rows)
    known = _known_groups(measured[constraint], clf)
    cells = {name: _cells(found, size, known) for name, found in measured.items()}
    gaps = {name: _gap_table(measured[name], cells[name]) for name in names}
    rates = {name: _rate_table(measured[name], cells[name]) for name in names}

    weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, float)
    return Audit(
        constraint=constraint,
        difference_bound=difference_bound,
        **_judge(cells[constraint], difference_bound, len(y)),
        n_samples=len(y),
        min_cell_size=size,
        overall=_overall(y, decision, weight, len(labels)),
        gaps=pd.concat(gaps, names=["constraint"]),
        rates=pd.concat(rates, names=["constraint"]),
        model=None if clf is None else _describe(clf, pos_label),
        date=date.today().isoformat(),
    )


def _judge(cells: list[CellRates], bound: float | None, n_rows: int) -> dict[str, Any]:
    """Return the verdict on the differences between all pairs of groups, and what it comes from."""
    pairs = [table.differences() for table in cells]
    values, errors = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    if not len(values):
        found = dict.fromkeys(("gap", "standard_error", "lower", "upper", "rows_needed"), np.nan)
        return {"verdict": None, **found}
    largest = int(values.argmax())
    strict = NormalDist().inv_cdf(1 - (1 - _CONFIDENCE) / len(values))
    found = {
        "gap": float(values[largest]),
        "standard_error": float(errors[largest]),
        "lower": float((values - strict * errors).max()),
        "upper": float((values + NORMAL_95 * errors).max()),
    }
    if bound is None:
        return {"verdict": None, **found, "rows_needed": np.nan}
    verdict = "within" if found["upper"] <= bound else "above" if found["lower"] > bound else "undecided"
    needed = np.inf
    if found["gap"] < bound:
        needed = float(n_rows * ((NORMAL_95 * errors / (bound - values)) ** 2).max())
    return {"verdict": verdict, **found, "rows_needed": needed}


def _find_classifier(model: Any) -> FairPrunedClassifier:
    """Return the fitted classifier in a pipeline or a search."""
    found = model
    while not isinstance(found, FairPrunedClassifier):
        if isinstance(found, Pipeline):
            found = found.steps[-1][1]
        elif hasattr(found, "best_estimator_"):
            found = found.best_estimator_
        else:
            raise ValueError(
                "model must be a fitted FairPrunedClassifier, a pipeline that ends with one, or a search "
                f"over either, with refit; got {type(model).__name__}. The decisions of other models are "
                "audited without model, with constraint and difference_bound."
            )
    check_is_fitted(found, "module_")
    return found


def _own_constraint(clf: FairPrunedClassifier | None) -> str:
    """Return the constraint of the model; refuse moments of the user's own."""
    if clf is None or clf.constraint_ is None:
        got = "neither a constraint nor a model" if clf is None else "a model that was fitted without one"
        raise ValueError(f"audit needs a constraint, and got {got}. Pass {_CHOICE}.")
    if clf.constraint_ not in CONSTRAINTS:
        raise ValueError(
            f"The model was fitted under {clf.constraint_}, a moment that the metrics do not have. Pass the "
            f"constraint to audit: {_CHOICE}."
        )
    return clf.constraint_


def _known_groups(found: Measured, clf: FairPrunedClassifier | None) -> NDArray[np.bool_]:
    """Tell of each group whether the model's constraint covers it; all, if there is none."""
    labels = found.groups.labels
    if clf is None or clf.groups_ is None:
        return np.ones(len(labels), bool)
    known = np.array([label in clf.groups_ for label in labels])
    if not known.any():
        raise ValueError(
            f"No row is of a group that the model was fitted for: sensitive_features has "
            f"{show_labels(labels)}, and in fit the groups were {show_labels(clf.groups_)}. Pass the same "
            "columns, in the same order."
        )
    return known


def _cells(found: Measured, size: int, known: NDArray[np.bool_]) -> list[CellRates]:
    """Return the rates of each stratum; those of enough rows of known groups count."""
    rule = found.constraint
    return [
        counts.cell_rates(rule, (rule.cell_sums(rows) >= size) & known)
        for counts, rows in zip(found.counts, found.n_weighted, strict=True)
    ]


def _gap_table(found: Measured, cells: list[CellRates]) -> pd.DataFrame:
    """Tabulate the gap of each event and stratum."""
    events, labels = found.constraint.events, found.groups.labels
    strata = [{}] if found.strata is None else [{"stratum": label} for label in found.strata.labels]
    where, rows = [], []
    for position in np.argsort(events):
        for stratum, table in zip(strata, cells, strict=True):
            event = table.of_event(position)
            gap = event.event_gaps()[0]
            ends = [labels[at] if at >= 0 else None for at in (gap.lowest, gap.highest)]
            where.append({"event": events[position]} | stratum)
            rows.append([gap.value, gap.standard_error, event.upper_limit(), *ends])
    columns = ["gap", "standard_error", "upper", "lowest", "highest"]
    return pd.DataFrame(rows, pd.MultiIndex.from_frame(pd.DataFrame(where)), columns)


def _rate_table(found: Measured, cells: list[CellRates]) -> pd.DataFrame:
    """Tabulate the rate of each event, stratum and group."""
    return found.frame(
        rate=[table.rates for table in cells],
        standard_error=[table.standard_errors for table in cells],
        n_samples=[found.constraint.cell_sums(rows).astype(np.int64) for rows in found.n_rows],
        covered=[table.included for table in cells],
    )


def _overall(
    y: NDArray[np.intp], decision: NDArray[np.intp], weight: NDArray[np.float64], n_classes: int
) -> pd.Series:
    """Return the accuracy, its standard error, the mean over the classes, and the commonest class's share."""
    right, total = y == decision, weight.sum()
    accuracy = weight @ right / total
    by_class = np.bincount(y, weight, minlength=n_classes)
    right_by_class = np.bincount(y, weight * right, minlength=n_classes)
    there = by_class > 0
    return pd.Series(
        {
            "accuracy": accuracy,
            "standard_error": np.sqrt(weight**2 @ (right - accuracy) ** 2) / total,
            "balanced_accuracy": np.mean(right_by_class[there] / by_class[there]),
            "majority": by_class.max() / total,
        }
    )


def _describe(clf: FairPrunedClassifier, pos_label: Hashable) -> pd.Series:
    """Say what the fitted estimator is, as text."""
    total = clf.pruning_report_.loc["total"]
    facts = {"classes": ", ".join(map(str, clf.classes_.tolist()))}
    if len(clf.classes_) == 2:
        facts["positive class"] = str(pos_label)
    facts["parameters"] = f"{total['parameters_after']:,.0f} of {total['parameters_before']:,.0f}"
    read = clf.n_features_in_ - len(clf.dropped_columns_)
    facts["columns that are read"] = f"{read} of {clf.n_features_in_}"
    if clf.constraint_ is None:
        facts["constraint of the fit"] = "none"
    else:
        facts["constraint of the fit"] = f"{clf.constraint_} at {clf.bound_:g}"
        facts["groups under it"] = show_labels(clf.groups_ or [])
        rates = clf.group_rates_
        if rates is not None and not rates["covered"].all():
            apart = dict.fromkeys(rates.loc[~rates["covered"], "group"].map(str))
            facts["not under it in every event"] = "; ".join(apart)
        told = clf.validation_gap_
        assert told is not None
        facts["gap foreseen by the fit"] = (
            f"{told.value:.3f} ± {told.standard_error:.3f}, upper limit {told.upper:.3f}, on {told.rows}"
        )
        facts["decided by"] = (
            "a rule that the network carries" if clf.frontier_ is not None else "the network"
        )
    facts["made with"] = ", ".join(
        f"{name} {version(name)}" for name in ("skfairprune", "torch", "scikit-learn")
    )
    return pd.Series(facts)
