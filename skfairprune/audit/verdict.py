"""The audit of decisions on held-out rows: is a bound kept, is it broken, or can these rows not tell?

The gap of a sample says little by itself: on a few hundred rows that of a model without any is above most
bounds, and that of a model with a large one can be below. So the bound is held against limits of the
difference between every two groups, and a rate that has too few rows for that is not passed over.
"""

from collections.abc import Hashable
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import accuracy_score, recall_score
from sklearn.utils.validation import _check_sample_weight

from skfairprune._labels import align_labels, encode_labels
from skfairprune._measured import check_size, measure, resolve
from skfairprune._row_order import refuse_other_order
from skfairprune.audit.comparison import Comparison
from skfairprune.audit.model import (
    are_others,
    describe,
    find_classifier,
    find_labels,
    find_question,
    order_columns,
    promised_cells,
)
from skfairprune.audit.report import Audit
from skfairprune.constraints import get_constraint

__all__ = ["audit"]

_DEGRADATION = "degradation_parity"
#: The constraints that every audit measures.
_ALWAYS = ("demographic_parity", "equalized_odds", "error_rate_parity")


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

    The difference of a rate between two groups has limits (:mod:`skfairprune.audit.limits`). The bound is
    kept if the upper limits of all pairs are within it, each with a probability of error of 5 % at most (an
    intersection-union test: Berger, Technometrics 24, 1982), and broken if some lower limit is above it, all
    of them together with one of 5 % at most (Bonferroni).

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels of any type.
    y_pred : array-like of shape (n_samples,)
        Decisions, in the labels of ``y_true``: of ``predict``, of an export, or of any other model.
    sensitive_features : list, array, Series, DataFrame or dict of columns, with n_samples rows
        The groups, with labels of any type; they need not be those of the fit. Several columns are
        intersected.
    control_features : like sensitive_features, default=None
        The strata within which groups are compared; a model that was fitted within strata needs them.
    sample_weight : array-like of shape (n_samples,), default=None
        Non-negative weights; None weighs every row 1. With weights the confidence holds if they do not depend
        on the decisions.
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
        Rates of fewer rows that have weight are not compared. None takes that of the model, and else 30.

    Returns
    -------
    Audit
        The verdict with the largest gap and its limits, the rates of all groups, and the document.

    Raises
    ------
    ValueError
        As :func:`skfairprune.metrics.gap`; if a column has the index of another in another order; if no
        row has weight; if ``model`` is no such estimator, is not fitted, or has other classes; if there is no
        constraint, or one that needs ``y_pred_dense``; if ``difference_bound`` is not in [0, 1], or to be
        taken from a model whose bound is within strata where there are no ``control_features``, or the other
        way round.

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
    ('within', 0.0, 0.034)
    >>> print(found.to_markdown()[:42])
    # Audit of group gaps: demographic parity
    """
    clf = None if model is None else find_classifier(model)
    constraint, bound = find_question(clf, constraint, difference_bound, control_features is not None)
    if constraint == _DEGRADATION and y_pred_dense is None:
        raise ValueError(
            f"{_DEGRADATION} is of the accuracy lost against the dense network: pass its decisions as "
            "y_pred_dense, or another constraint."
        )
    if min_cell_size is None:
        min_cell_size = 30 if clf is None else clf.min_cell_size
    size = check_size(min_cell_size)
    refuse_other_order(
        y_true=y_true,
        y_pred=y_pred,
        sensitive_features=sensitive_features,
        y_pred_dense=y_pred_dense,
        control_features=control_features,
        sample_weight=sample_weight,
    )
    columns = {"y_true": y_true, "y_pred": y_pred}
    if y_pred_dense is not None:
        columns["y_pred_dense"] = y_pred_dense
    (y, decision, *dense), labels = align_labels(columns)
    if clf is not None:
        found_labels, (labels, pos_label) = labels, find_labels(clf, labels, pos_label)
        position = np.array([labels.index(label) for label in found_labels])
        y, decision, *dense = (position[codes] for codes in (y, decision, *dense))
    elif pos_label is None and len(labels) == 2:
        pos_label = labels[1]
    weight = _check_sample_weight(sample_weight, y, dtype=np.float64, ensure_non_negative=True)
    weight = weight / weight.max()  # squares of huge or tiny ones are no numbers

    rows = (
        order_columns(clf, sensitive_features),
        control_features,
        None if sample_weight is None else weight,
    )
    # by the labels of the model, in whose type they name the events
    truth, decided = (np.array(labels, dtype=object)[codes] for codes in (y, decision))
    truth, decided, classes = encode_labels(truth, decided, pos_label, labels if len(labels) > 2 else ())
    compared: dict[str, Comparison] = {}
    for name in sorted({constraint, *_ALWAYS} - {_DEGRADATION}):  # unsorted, pandas warns of the index
        compared[name] = Comparison(measure(resolve(name, classes), truth, decided, *rows), size)
    if dense:
        rule = get_constraint(_DEGRADATION, max(2, len(labels)))
        compared = {_DEGRADATION: Comparison(measure(rule, y, decision, *rows, *dense), size), **compared}
    own, promised = compared[constraint], promised_cells(clf, constraint, control_features is not None)
    other_groups = are_others(promised, set(own.event_names), set(own.groups))
    missing = [] if other_groups else sorted(promised - own.compared(), key=str)
    return Audit(
        constraint=constraint,
        difference_bound=bound,
        **own.judge(bound, missing)._asdict(),
        n_samples=own.n_samples,
        min_cell_size=size,
        classes=labels,
        pos_label=1 if pos_label is None and len(labels) == 1 else pos_label,
        not_compared=sorted({*missing, *own.too_few()}, key=str),
        overall=_overall(y, decision, weight, len(labels)),
        gaps=pd.concat({name: part.gap_table() for name, part in compared.items()}, names=["constraint"]),
        rates=pd.concat({name: part.rate_table() for name, part in compared.items()}, names=["constraint"]),
        model=None if clf is None else describe(clf, other_groups),
        date=date.today().isoformat(),
    )


def _overall(
    y: NDArray[np.intp], decision: NDArray[np.intp], weight: NDArray[np.float64], n_classes: int
) -> pd.Series:
    """Return the shares of right decisions and of the commonest, and the numbers of rows."""
    right, total = y == decision, weight.sum()
    accuracy = accuracy_score(y, decision, sample_weight=weight)
    by_class, by_decision = (np.bincount(codes, weight, minlength=n_classes) for codes in (y, decision))
    there = np.flatnonzero(by_class)
    # not balanced_accuracy_score, which warns of decisions that no label is
    recall = recall_score(y, decision, labels=there, average="macro", sample_weight=weight)
    return pd.Series(
        {
            "accuracy": accuracy,
            "standard_error": np.sqrt(weight**2 @ (right - accuracy) ** 2) / total,
            "balanced_accuracy": recall,
            "majority": by_class.max() / total,
            "commonest_decision": by_decision.max() / by_decision.sum(),
            "n_samples": np.count_nonzero(weight),
            "effective_samples": total**2 / (weight @ weight),
        }
    )
