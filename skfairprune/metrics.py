"""Group-fairness metrics of decisions: rates, gaps, sampling errors, a scorer that routes.

The constraints and their formulas are those of :mod:`skfairprune.constraints`. A rate without rows
is undefined: it is NaN, never 0, and its group takes no part in a gap. Control features form strata,
and a gap is then the largest over the strata of the gaps within them.
"""

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn import config_context
from sklearn.metrics._scorer import _BaseScorer
from sklearn.pipeline import Pipeline

from skfairprune._labels import align_labels, show_labels
from skfairprune._measured import GapWithError, check_size, encode, measure, resolve
from skfairprune._row_order import refuse_other_order
from skfairprune.constraints import get_constraint

__all__ = ["GapWithError", "degradation_gap", "gap", "gap_scorer", "gap_with_error", "group_rates"]

# With two classes their gap is the same, whichever is the positive one.
_SYMMETRIC = {"demographic_parity", "error_rate_parity"}


def gap(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    constraint: str,
    sensitive_features: Any,
    control_features: Any = None,
    sample_weight: ArrayLike | None = None,
    pos_label: Hashable = None,
    min_cell_size: int = 1,
) -> float:
    r"""Compute the gap of a constraint: the largest minus the smallest rate between groups.

    .. math:: \max_e \; (\max_g r_{e,g} - \min_g r_{e,g}),
        \qquad r_{e,g} = \frac{\sum_{i \in e, g} w_i u_i}{\sum_{i \in e, g} w_i}

    where the utility :math:`u_i` is 1 for a positive decision (``error_rate_parity``: for an error)
    and else 0. For equalized odds, it is the larger of the gaps in true and in false positive rate.
    It is the number of fairlearn's ``*_difference(method="between_groups")``, except that fairlearn
    takes an undefined rate for 0. With more than two classes every class in turn is the positive one
    (one against the rest), and the largest of their gaps counts.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels of any type.
    y_pred : array-like of shape (n_samples,)
        Decisions, in the labels of ``y_true``.
    constraint : str
        A name in :data:`skfairprune.constraints.CONSTRAINTS`: "demographic_parity",
        "equalized_odds", "true_positive_rate_parity", "false_positive_rate_parity" (these two
        for two classes only) or "error_rate_parity".
    sensitive_features : list, array, Series, DataFrame or dict of columns, with n_samples rows
        The groups, with labels of any type. Several columns are intersected.
    control_features : like sensitive_features, default=None
        The strata within which groups are compared; the gap is the largest over them.
    sample_weight : array-like of shape (n_samples,), default=None
        Non-negative weights; None weighs every row 1.
    pos_label : str, int, float or bool, default=None
        The positive one of two labels. None means the greater, as ``classes_[1]`` of a
        classifier; if only one of -1, 0, False, 1 and True occurs, it means 1. A label that does
        not occur is allowed if only one does: then every row is negative. Another single label needs one,
        but under demographic parity and error rate parity, whose gap is the same with either.
    min_cell_size : int, default=1
        Cells (event, group) with fewer rows that have weight are left out, as by the parameter of this name
        of the estimator: among the groups that several columns form, the gap is else that of a few rows.

    Returns
    -------
    float
        In [0, 1]. A group without weight in an event of a stratum is left out of it; NaN if no
        event has two groups left.

    Raises
    ------
    ValueError
        If the constraint is unknown or not for so many classes, the lengths differ, a column has the index
        of another in another order, values are missing, the labels are scores or of different types,
        ``pos_label`` is not one of two labels, or there is a single one that does not tell whether it is
        the positive one; or if ``min_cell_size`` is no integer of at least 1.

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
        control_features=control_features,
        sample_weight=sample_weight,
        pos_label=pos_label,
        min_cell_size=min_cell_size,
    ).value


def gap_with_error(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    constraint: str,
    sensitive_features: Any,
    control_features: Any = None,
    sample_weight: ArrayLike | None = None,
    pos_label: Hashable = None,
    min_cell_size: int = 1,
) -> GapWithError:
    r"""Compute the gap of a constraint, its sampling error, and where it lies.

    With :math:`r_1, r_2` the largest and the smallest rate, the standard error is

    .. math:: \sqrt{\mathrm{se}(r_1)^2 + \mathrm{se}(r_2)^2},
        \qquad \mathrm{se}(r)^2 = \frac{\sum w_i^2 (u_i - r)^2}{(\sum w_i)^2}

    before half an observation is added at each end of the utility's range (see
    :meth:`skfairprune.gaps.GroupCounts.standard_errors`): so it is not 0 between rates of 0 or 1,
    the less so the fewer rows they have. It is that of the difference between two given groups: it
    does not know that they were chosen as the extreme ones.

    Parameters
    ----------
    y_true, y_pred, constraint, sensitive_features, control_features, sample_weight, pos_label, min_cell_size
        As in :func:`gap`.

    Returns
    -------
    GapWithError
        ``value``, ``standard_error``, ``event``, ``lowest``, ``highest`` and ``stratum``.

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
    refuse_other_order(
        y_true=y_true,
        y_pred=y_pred,
        sensitive_features=sensitive_features,
        control_features=control_features,
        sample_weight=sample_weight,
    )
    rule, y, decision = encode(constraint, y_true, y_pred, pos_label, symmetric=constraint in _SYMMETRIC)
    found = measure(rule, y, decision, sensitive_features, control_features, sample_weight)
    return found.gap(check_size(min_cell_size))


def degradation_gap(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    y_pred_dense: ArrayLike,
    *,
    sensitive_features: Any,
    control_features: Any = None,
    sample_weight: ArrayLike | None = None,
    min_cell_size: int = 1,
) -> GapWithError:
    r"""Compute how unequally groups pay for a smaller network, and its sampling error.

    .. math:: \max_g R_g - \min_g R_g, \qquad R_g = \mathrm{acc}_g(h_0) - \mathrm{acc}_g(h)

    where :math:`R_g` is the accuracy that a group lost (negative: won) from the dense network's decisions
    :math:`h_0` to the small one's :math:`h`: Def. 2 and 3 of Dai et al., arXiv 2312.10181. The standard
    error is that of :func:`gap_with_error` with :math:`u_i = 1[h_0(x_i) = y_i] - 1[h(x_i) = y_i]`. It is
    paired: rows on which both networks are right, or both wrong, add next to nothing to it.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels of any type.
    y_pred : array-like of shape (n_samples,)
        Decisions of the small network.
    y_pred_dense : array-like of shape (n_samples,)
        Decisions of the dense network.
    sensitive_features, control_features, sample_weight, min_cell_size
        As in :func:`gap`.

    Returns
    -------
    GapWithError
        ``value`` is in [0, 2], ``event`` is "all"; ``highest`` is the group that lost most.

    Raises
    ------
    ValueError
        If the lengths differ, a column has the index of another in another order, values are missing, the
        labels are scores or of different types, or ``min_cell_size`` is no integer of at least 1.

    Examples
    --------
    >>> from skfairprune.metrics import degradation_gap
    >>> found = degradation_gap(
    ...     y_true=[0, 1, 1, 0, 1, 1],
    ...     y_pred=[0, 0, 1, 0, 1, 1],
    ...     y_pred_dense=[0, 1, 0, 0, 1, 0],
    ...     sensitive_features=["f", "f", "m", "f", "f", "m"],
    ... )
    >>> found.value, found.lowest, found.highest
    (1.25, 'm', 'f')
    """
    refuse_other_order(
        y_true=y_true,
        y_pred=y_pred,
        y_pred_dense=y_pred_dense,
        sensitive_features=sensitive_features,
        control_features=control_features,
        sample_weight=sample_weight,
    )
    columns = {"y_true": y_true, "y_pred": y_pred, "y_pred_dense": y_pred_dense}
    (y, decision, dense), labels = align_labels(columns)
    rule = get_constraint("degradation_parity", max(2, len(labels)))
    found = measure(rule, y, decision, sensitive_features, control_features, sample_weight, dense)
    return found.gap(check_size(min_cell_size))


def group_rates(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    constraint: str,
    sensitive_features: Any,
    control_features: Any = None,
    sample_weight: ArrayLike | None = None,
    pos_label: Hashable = None,
) -> pd.DataFrame:
    """Tabulate the rates of a constraint, one row per event and group.

    Parameters
    ----------
    y_true, y_pred, constraint, sensitive_features, control_features, sample_weight, pos_label
        As in :func:`gap`.

    Returns
    -------
    DataFrame
        Indexed by the event, the stratum and the group, with one level per control and per sensitive
        feature, named as in fairlearn's ``MetricFrame``. The events are "all", "y=0" or "y=1"; with more
        than two classes, of each class c, "decision c", or "y!=c" and "y=c", in which the rate is
        that of the decision c. The columns are ``rate``, in [0, 1]; ``standard_error``, as in
        :func:`gap_with_error`; and ``n_samples``, the number of rows, unweighted. Rate and error are
        NaN where there are no rows, or only rows of weight 0.

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
    refuse_other_order(
        y_true=y_true,
        y_pred=y_pred,
        sensitive_features=sensitive_features,
        control_features=control_features,
        sample_weight=sample_weight,
    )
    rule, y, decision = encode(constraint, y_true, y_pred, pos_label)
    found = measure(rule, y, decision, sensitive_features, control_features, sample_weight)
    return found.frame(
        rate=[counts.rates(rule) for counts in found.counts],
        standard_error=[counts.standard_errors(rule) for counts in found.counts],
        n_samples=[rule.cell_sums(rows).astype(np.int64) for rows in found.n_rows],
    )


def gap_scorer(
    constraint: str, *, pos_label: Hashable = None, min_cell_size: int = 1
) -> Callable[..., float]:
    """Make a scorer of the negative gap, to which scikit-learn routes the sensitive features.

    With metadata routing enabled, searches and cross-validation hand ``sensitive_features``,
    ``control_features`` and ``sample_weight`` to it, split as the rows are, without a call of
    ``set_score_request``. They do not split a dict of columns: pass a DataFrame. With or without
    routing, ``scorer(estimator, X, y, sensitive_features=A)`` works.

    Parameters
    ----------
    constraint : str
        As in :func:`gap`.
    pos_label : str, int, float or bool, default=None
        The positive one of two labels; None means the ``pos_label`` of the scored classifier, in a pipeline,
        a search or another wrapper, too, or if it has none ``classes_[1]``.
    min_cell_size : int, default=1
        As in :func:`gap`, of the scored rows. In a search over groups of which some are small, set it, or the
        score is noise.

    Returns
    -------
    callable
        The scorer. Its scores are in [-1, 0], greater is better; NaN where :func:`gap` is.

    Raises
    ------
    ValueError
        If the constraint is unknown or ``min_cell_size`` is no integer of at least 1. When scoring: as
        :func:`gap`, if no sensitive features arrive, and if a wrapper has encoded the labels or classifiers
        in it have several ``pos_label``, where the constraint has a positive class.

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
    resolve(constraint)
    settings = {"pos_label": pos_label, "min_cell_size": check_size(min_cell_size)}
    scorer = _GapScorer(gap, -1, {"constraint": constraint, **settings})
    with config_context(enable_metadata_routing=True):
        return scorer.set_score_request()


def _find_pos_label(estimator: Any, classes: list[Hashable]) -> Hashable:
    """Return the positive one of two classes: that which a classifier was given, or the last.

    In other wrappers than pipelines and searches it is that of the classifiers in them; None if these have
    several, or others than the classes, as in an ensemble that encodes them.
    """
    while isinstance(estimator, Pipeline) or hasattr(estimator, "best_estimator_"):
        in_pipeline = isinstance(estimator, Pipeline)
        estimator = estimator.steps[-1][1] if in_pipeline else estimator.best_estimator_
    own = getattr(estimator, "pos_label", None)
    if own is not None:
        return own if own in classes else classes[1]
    parameters = estimator.get_params() if hasattr(estimator, "get_params") else {}
    inner = [
        value for name, value in parameters.items() if name.endswith("__pos_label") and value is not None
    ]
    if not inner:
        return classes[1]
    return inner[0] if inner[0] in classes and inner.count(inner[0]) == len(inner) else None


class _GapScorer(_BaseScorer):
    """A scorer as of make_scorer that takes its metadata with routing off, too."""

    def set_score_request(self, **requests: Any) -> "_GapScorer":
        """Set what is requested; all that is not named stays requested."""
        every = dict.fromkeys(("sensitive_features", "control_features", "sample_weight"), True)
        return super().set_score_request(**(every | requests))

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
        control_features: Any = None,
        sample_weight: ArrayLike | None = None,
    ) -> float:
        if sensitive_features is None:
            raise ValueError(
                f"{self!r} got no sensitive_features. In a search or cross-validation, enable "
                "metadata routing with sklearn.set_config(enable_metadata_routing=True) and pass "
                "sensitive_features to fit, or in params to cross_validate and cross_val_score."
            )
        refuse_other_order(
            y_true=y_true,
            sensitive_features=sensitive_features,
            control_features=control_features,
            sample_weight=sample_weight,
        )
        constraint, pos_label = self._kwargs["constraint"], self._kwargs["pos_label"]
        classes = np.asarray(getattr(estimator, "classes_", ())).tolist()
        if len(classes) == 2 and pos_label is None:  # a fold may hold one of the labels only
            pos_label = _find_pos_label(estimator, classes)
            if pos_label is None and constraint.endswith("positive_rate_parity"):
                raise ValueError(
                    f"{self!r} cannot tell which of the classes {show_labels(classes)} is the positive one: "
                    f"{type(estimator).__name__} has classifiers with several pos_label, or such as are no "
                    "class of it. Pass pos_label to gap_scorer."
                )
            pos_label = classes[1] if pos_label is None else pos_label
        rule, y, decision = encode(
            constraint,
            y_true,
            method_caller(estimator, "predict", X),
            pos_label,
            classes if len(classes) > 2 else (),
        )
        found = measure(rule, y, decision, sensitive_features, control_features, sample_weight)
        return self._sign * found.gap(self._kwargs["min_cell_size"]).value

    def __repr__(self) -> str:
        given = [repr(self._kwargs["constraint"])]
        if self._kwargs["pos_label"] is not None:
            given.append(f"pos_label={self._kwargs['pos_label']!r}")
        if self._kwargs["min_cell_size"] != 1:
            given.append(f"min_cell_size={self._kwargs['min_cell_size']}")
        return f"gap_scorer({', '.join(given)})"
