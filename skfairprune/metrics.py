"""Group-fairness metrics of binary decisions: rates, gaps, sampling errors, a scorer that routes.

The constraints and their formulas are those of :mod:`skfairprune.constraints`. A rate without rows
is undefined: it is NaN, never 0, and its group takes no part in a gap.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn import config_context
from sklearn.metrics._scorer import _BaseScorer
from sklearn.utils.validation import _check_sample_weight

from skfairprune._validation import GroupCodes, encode_binary, encode_sensitive
from skfairprune.constraints import GroupCounts, get_constraint

__all__ = ["GapWithError", "gap", "gap_scorer", "gap_with_error", "group_rates"]


class GapWithError(NamedTuple):
    """A gap with its sampling error and the two groups between which it lies.

    Attributes
    ----------
    value : float
        Largest minus smallest rate, in [0, 1]; NaN if undefined.
    standard_error : float
        Sampling standard error of ``value``; NaN if undefined.
    event : str or None
        The event with the largest gap: "all", "y=0" (negatives) or "y=1" (positives).
    lowest : group label or None
        The group with the smallest rate in that event.
    highest : group label or None
        The group with the largest rate in that event.
    """

    value: float
    standard_error: float
    event: str | None
    lowest: Hashable
    highest: Hashable


def gap(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    constraint: str,
    sensitive_features: Any,
    sample_weight: ArrayLike | None = None,
    pos_label: Hashable = None,
) -> float:
    r"""Compute the gap of a constraint: the largest minus the smallest rate between groups.

    .. math:: \max_e \; (\max_g r_{e,g} - \min_g r_{e,g}),
        \qquad r_{e,g} = \frac{\sum_{i \in e, g} w_i u_i}{\sum_{i \in e, g} w_i}

    where the utility :math:`u_i` is 1 for a positive decision (``error_rate_parity``: for an error)
    and else 0. For equalized odds, it is the larger of the gaps in true and in false positive rate.
    It is the number of fairlearn's ``*_difference(method="between_groups")``, except that fairlearn
    takes an undefined rate for 0.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels of any type, at most two different ones together with ``y_pred``.
    y_pred : array-like of shape (n_samples,)
        Decisions, in the labels of ``y_true``.
    constraint : str
        A name in :data:`skfairprune.constraints.CONSTRAINTS`: "demographic_parity",
        "equalized_odds", "true_positive_rate_parity", "false_positive_rate_parity" or
        "error_rate_parity".
    sensitive_features : list, array, Series, DataFrame or dict of columns, with n_samples rows
        The groups, with labels of any type. Several columns are intersected.
    sample_weight : array-like of shape (n_samples,), default=None
        Non-negative weights; None weighs every row 1.
    pos_label : str, int, float or bool, default=None
        The positive label. None means the greater of the two labels, as ``classes_[1]`` of a
        classifier; if only one of -1, 0, False, 1 and True occurs, it means 1. A label that does
        not occur is allowed if only one does: then every row is negative.

    Returns
    -------
    float
        In [0, 1]. A group without weight in an event is left out of it; NaN if no event has two
        groups left.

    Raises
    ------
    ValueError
        If the constraint is unknown, the lengths differ, values are missing, there are more than
        two labels, or a single one that does not tell whether it is the positive one.

    Examples
    --------
    >>> from skfairprune.metrics import gap
    >>> y_true = ["no", "yes", "no", "yes"]
    >>> y_pred = ["no", "yes", "yes", "yes"]
    >>> sex = ["f", "f", "m", "m"]
    >>> gap(y_true, y_pred, constraint="demographic_parity", sensitive_features=sex)
    0.5
    >>> gap(y_true, y_pred, constraint="true_positive_rate_parity", sensitive_features=sex)
    0.0
    """
    return gap_with_error(
        y_true,
        y_pred,
        constraint=constraint,
        sensitive_features=sensitive_features,
        sample_weight=sample_weight,
        pos_label=pos_label,
    ).value


def gap_with_error(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    constraint: str,
    sensitive_features: Any,
    sample_weight: ArrayLike | None = None,
    pos_label: Hashable = None,
) -> GapWithError:
    r"""Compute the gap of a constraint, its sampling error, and where it lies.

    With :math:`r_1, r_2` the largest and the smallest rate, the standard error is

    .. math:: \sqrt{\mathrm{se}(r_1)^2 + \mathrm{se}(r_2)^2},
        \qquad \mathrm{se}(r)^2 = \frac{r (1 - r) \sum w_i^2}{(\sum w_i)^2}

    It is that of the difference between two given groups: it does not know that they were chosen as
    the extreme ones, and it is 0 between rates of 0 or 1, however few rows they have.

    Parameters
    ----------
    y_true, y_pred, constraint, sensitive_features, sample_weight, pos_label
        As in :func:`gap`.

    Returns
    -------
    GapWithError
        ``value``, ``standard_error``, ``event``, ``lowest`` and ``highest``.

    Raises
    ------
    ValueError
        As :func:`gap`.

    Examples
    --------
    >>> from skfairprune.metrics import gap_with_error
    >>> found = gap_with_error(
    ...     [0, 1, 0, 1, 0, 1],
    ...     [0, 1, 1, 1, 0, 0],
    ...     constraint="demographic_parity",
    ...     sensitive_features=["f", "f", "m", "m", "x", "x"],
    ... )
    >>> found.value, found.lowest, found.highest
    (1.0, 'x', 'm')
    """
    rule = get_constraint(constraint)
    counts, _, groups = _count(y_true, y_pred, sensitive_features, sample_weight, pos_label)
    found = counts.gap(rule)
    if found.event < 0:
        return GapWithError(found.value, found.standard_error, None, None, None)
    return GapWithError(
        found.value,
        found.standard_error,
        rule.events[found.event],
        groups.labels[found.lowest],
        groups.labels[found.highest],
    )


def group_rates(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    constraint: str,
    sensitive_features: Any,
    sample_weight: ArrayLike | None = None,
    pos_label: Hashable = None,
) -> pd.DataFrame:
    """Tabulate the rates of a constraint, one row per event and group.

    Parameters
    ----------
    y_true, y_pred, constraint, sensitive_features, sample_weight, pos_label
        As in :func:`gap`.

    Returns
    -------
    DataFrame
        Indexed by the event ("all", "y=0" or "y=1") and the group, with one level per sensitive
        feature, named as in fairlearn's ``MetricFrame``. The columns are ``rate``, in [0, 1];
        ``standard_error``, as in :func:`gap_with_error`; and ``n_samples``, the number of rows,
        unweighted. Rate and error are NaN where there are no rows, or only rows of weight 0.

    Raises
    ------
    ValueError
        As :func:`gap`.

    Examples
    --------
    >>> from skfairprune.metrics import group_rates
    >>> rates = group_rates(
    ...     [0, 0, 1, 0, 1, 1],
    ...     [0, 1, 1, 0, 1, 1],
    ...     constraint="equalized_odds",
    ...     sensitive_features={"sex": ["f", "f", "f", "m", "m", "m"]},
    ... )
    >>> rates["rate"].unstack("event")
    event  y=0  y=1
    sex
    f      0.5  1.0
    m      0.0  1.0
    >>> rates.loc["y=1", "n_samples"].to_dict()
    {'f': 1, 'm': 2}
    """
    rule = get_constraint(constraint)
    counts, n_rows, groups = _count(y_true, y_pred, sensitive_features, sample_weight, pos_label)
    keys = [label if isinstance(label, tuple) else (label,) for label in groups.labels]
    names = groups.names or [f"sensitive_feature_{position}" for position in range(len(keys[0]))]
    return pd.DataFrame(
        {
            "rate": counts.rates(rule).ravel(),
            "standard_error": counts.standard_errors(rule).ravel(),
            "n_samples": rule.cell_sums(n_rows).ravel().astype(np.int64),
        },
        index=pd.MultiIndex.from_tuples(
            [(event, *key) for event in rule.events for key in keys], names=["event", *names]
        ),
    )


def gap_scorer(constraint: str, *, pos_label: Hashable = None) -> Callable[..., float]:
    """Make a scorer of the negative gap, to which scikit-learn routes the sensitive features.

    With metadata routing enabled, searches and cross-validation hand ``sensitive_features`` and
    ``sample_weight`` to it, split as the rows are, without a call of ``set_score_request``. They do
    not split a dict of columns: pass a DataFrame. With or without routing,
    ``scorer(estimator, X, y, sensitive_features=A)`` works.

    Parameters
    ----------
    constraint : str
        As in :func:`gap`.
    pos_label : str, int, float or bool, default=None
        The positive label; None means ``classes_[1]`` of the scored classifier.

    Returns
    -------
    callable
        The scorer. Its scores are in [-1, 0], greater is better; NaN where :func:`gap` is.

    Raises
    ------
    ValueError
        If the constraint is unknown. When scoring: as :func:`gap`, and if no sensitive features
        arrive.

    Examples
    --------
    >>> import numpy as np
    >>> import sklearn
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_validate
    >>> from skfairprune.metrics import gap_scorer
    >>> X = np.arange(40.0)[:, None] % 10
    >>> y = X[:, 0] > 4
    >>> sex = np.where(X[:, 0] % 10 < 7, "f", "m")
    >>> with sklearn.config_context(enable_metadata_routing=True):
    ...     scores = cross_validate(
    ...         LogisticRegression(),
    ...         X,
    ...         y,
    ...         scoring={"accuracy": "accuracy", "dp": gap_scorer("demographic_parity")},
    ...         params={"sensitive_features": sex},
    ...         cv=2,
    ...     )
    >>> scores["test_dp"].round(2)
    array([-0.71, -0.71])
    """
    get_constraint(constraint)
    scorer = _GapScorer(gap, -1, {"constraint": constraint, "pos_label": pos_label})
    with config_context(enable_metadata_routing=True):
        return scorer.set_score_request(sensitive_features=True, sample_weight=True)


class _GapScorer(_BaseScorer):
    """A scorer as of make_scorer that takes its metadata with routing off, too."""

    def __call__(self, estimator: Any, X: Any, y_true: ArrayLike, **metadata: Any) -> float:
        def call(estimator: Any, method: str, X: Any) -> Any:
            return getattr(estimator, method)(X)

        return self._score(call, estimator, X, y_true, **metadata)

    def _score(
        self,
        method_caller: Callable[..., Any],
        estimator: Any,
        X: Any,
        y_true: ArrayLike,
        *,
        sensitive_features: Any = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        if sensitive_features is None:
            raise ValueError(
                f"{self!r} got no sensitive_features. In a search or cross-validation, enable "
                "metadata routing with sklearn.set_config(enable_metadata_routing=True) and pass "
                "sensitive_features to fit, or in params to cross_validate and cross_val_score."
            )
        kwargs = dict(self._kwargs)
        classes: Any = getattr(estimator, "classes_", ())
        if kwargs["pos_label"] is None and len(classes) == 2:
            kwargs["pos_label"] = classes[1]  # a fold may hold one of the labels only
        return self._sign * self._score_func(
            y_true,
            method_caller(estimator, "predict", X),
            sensitive_features=sensitive_features,
            sample_weight=sample_weight,
            **kwargs,
        )

    def __repr__(self) -> str:
        constraint, pos_label = self._kwargs["constraint"], self._kwargs["pos_label"]
        suffix = "" if pos_label is None else f", pos_label={pos_label!r}"
        return f"gap_scorer({constraint!r}{suffix})"


def _count(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    sensitive_features: Any,
    sample_weight: ArrayLike | None,
    pos_label: Hashable,
) -> tuple[GroupCounts, np.ndarray, GroupCodes]:
    """Return the weighted counts, the number of rows by label and group, and the groups."""
    y, decision = encode_binary(y_true, y_pred, pos_label)
    groups = encode_sensitive(sensitive_features, len(y))
    n_groups = len(groups.labels)
    unweighted = GroupCounts.from_rows(y, decision, groups.codes, n_groups)
    if sample_weight is None:
        return unweighted, unweighted.totals, groups
    weight = _check_sample_weight(
        sample_weight, y, dtype=np.float64, ensure_non_negative=True, allow_all_zero_weights=True
    )
    weighted = GroupCounts.from_rows(y, decision, groups.codes, n_groups, weight)
    return weighted, unweighted.totals, groups
