"""fairlearn's moments as constraints: the events and utilities of a ``UtilityParity`` are taken over.

A moment of :mod:`fairlearn.reductions` gives every row an event, or none, and a utility of either decision
(Agarwal et al., "A Reductions Approach to Fair Classification", 2018, Definition 1). Rows of the same label,
event and utilities are one kind of rows, and kinds are all that a
:class:`~skfairprune.constraints.Constraint` needs. Sample weights count in our rates; fairlearn's moments
know none.

The bound is not taken over. A moment's own ``difference_bound`` is on the deviation of a group's rate from
the rate of all, the estimator's on the largest minus the smallest rate; only the latter counts.
A gap within it keeps every deviation within it, too.
"""

import copy
import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from fairlearn.reductions import (
    DemographicParity,
    EqualizedOdds,
    ErrorRateParity,
    FalsePositiveRateParity,
    TruePositiveRateParity,
    UtilityParity,
)
from numpy.typing import ArrayLike, NDArray
from sklearn.utils._param_validation import InvalidParameterError

from skfairprune.constraints import Constraint, Floats, get_constraint

__all__ = ["MAX_KINDS", "check_moment", "take_over"]

#: The most kinds of rows that a moment may tell apart: the network predicts them, so each needs its rows.
MAX_KINDS = 64

_NAMES = {
    DemographicParity: "demographic_parity",
    EqualizedOdds: "equalized_odds",
    TruePositiveRateParity: "true_positive_rate_parity",
    FalsePositiveRateParity: "false_positive_rate_parity",
    ErrorRateParity: "error_rate_parity",
}
_DEFAULT_BOUND = UtilityParity().eps


def check_moment(moment: Any, difference_bound: float) -> None:
    """Check that a moment can be taken over.

    Parameters
    ----------
    moment : object
        What was passed as a constraint.
    difference_bound : float
        The bound in force.

    Raises
    ------
    InvalidParameterError
        If it is not a difference of utilities, or has data loaded that a copy would carry along.

    Warns
    -----
    UserWarning
        If the moment has a bound of its own, other than fairlearn's default and the one in force.
    """
    name = type(moment).__name__
    if not isinstance(moment, UtilityParity):
        raise InvalidParameterError(
            f"{name} is not a fairlearn.reductions.UtilityParity, and only these have the events and "
            "utilities of decisions that a constraint needs. Pass one of "
            f"{', '.join(known.__name__ for known in _NAMES)}, or a subclass of UtilityParity."
        )
    if moment.ratio != 1:
        raise InvalidParameterError(
            f"{name} has ratio_bound={moment.ratio}, and a bound on the ratio of rates is not supported. "
            f"Pass {name}() and a difference_bound of the estimator, the largest difference between rates."
        )
    methods = ("gamma", "bound", "signed_weights")
    changed = [m for m in methods if getattr(type(moment), m) is not getattr(UtilityParity, m)]
    if changed:
        raise InvalidParameterError(
            f"{name} has its own {' and '.join(changed)}; only events and utilities can be taken over. Say "
            "what it demands through those that its load_data passes to UtilityParity.load_data."
        )
    if type(moment) not in _NAMES and moment.data_loaded:
        raise InvalidParameterError(
            f"This {name} has data loaded already, and a moment takes data only once; pass a new one."
        )
    if moment.eps not in (_DEFAULT_BOUND, difference_bound):
        warnings.warn(
            f"difference_bound={moment.eps} of {name} is not used: it is on the deviation from the overall "
            f"rate. What counts is difference_bound={difference_bound} of the estimator, on the largest "
            "difference between two groups. Set that one, and leave the moment's out.",
            UserWarning,
            stacklevel=5,
        )


def take_over(
    moment: UtilityParity,
    X: ArrayLike,
    y: NDArray[np.intp],
    group: NDArray[np.intp],
    group_labels: Sequence[Hashable],
    *,
    stratum: NDArray[np.intp] | None = None,
    stratum_labels: Sequence[Hashable] = (),
    feature_names: Sequence[str] | None = None,
) -> tuple[Constraint, NDArray[np.intp]]:
    """Turn a moment into a constraint, and tell the kinds of rows apart.

    fairlearn's own classes are the constraints of the same names. Any other subclass of
    ``UtilityParity`` is copied and loaded with the rows, all of them at once, so that held-out rows
    have the kinds of the training rows.

    Parameters
    ----------
    moment : UtilityParity
        A moment that :func:`check_moment` lets pass; it stays as it is.
    X : ndarray of shape (n_samples, n_features)
        The rows, as the moment gets them.
    y : ndarray of shape (n_samples,)
        Label codes, 0 or 1.
    group : ndarray of shape (n_samples,)
        Group codes.
    group_labels : sequence of length n_groups
        The groups' labels; the moment gets those of intersected columns joined by commas, as
        fairlearn joins them.
    stratum : ndarray of shape (n_samples,), default=None
        Stratum codes; None without strata. The moment does not see them: the strata are formed here,
        since fairlearn's (0.15) true and false positive rate parity with control features have a
        further event of the rows that are in none.
    stratum_labels : sequence of length n_strata, default=()
        The strata's labels.
    feature_names : sequence of length n_features, default=None
        The columns' names. With them the moment gets ``X`` as a DataFrame.

    Returns
    -------
    constraint : Constraint
        The constraint, within strata if there are any.
    kind : ndarray of shape (n_samples,)
        The kind of each row.

    Raises
    ------
    ValueError
        If there are more than two classes, no event, utilities that are not two finite numbers for each
        row, or more than ``MAX_KINDS`` kinds.

    Examples
    --------
    >>> import numpy as np
    >>> from fairlearn.reductions import EqualizedOdds
    >>> from skfairprune.moments import take_over
    >>> y, group = np.array([0, 1, 1]), np.array([0, 0, 1])
    >>> constraint, kind = take_over(EqualizedOdds(), np.zeros((3, 1)), y, group, ["f", "m"])
    >>> constraint.events, kind
    (('y=0', 'y=1'), array([0, 1, 1]))
    """
    if y.max(initial=0) > 1:
        raise ValueError(
            f"{type(moment).__name__} is for two classes, and y has {y.max() + 1}. Name a constraint "
            "instead: demographic_parity, equalized_odds (one class against the rest) or error_rate_parity."
        )
    if type(moment) in _NAMES:
        constraint = get_constraint(_NAMES[type(moment)])
        kind = constraint.kinds(y)
    else:
        labels = [",".join(map(str, g)) if isinstance(g, tuple) else g for g in group_labels]
        rows = X if feature_names is None else pd.DataFrame(X, columns=list(feature_names))
        loaded, features = copy.deepcopy(moment), pd.Series(labels).iloc[group].reset_index(drop=True)
        with warnings.catch_warnings():
            # fairlearn 0.15 does what pandas 3 deprecates; the user can do nothing about it
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="fairlearn")
            loaded.load_data(rows, pd.Series(y), sensitive_features=features)
        constraint, kind = _tell_apart(loaded, y)
    if stratum is None:
        return constraint, kind
    return constraint.stratified(stratum_labels), stratum * constraint.n_kinds + kind


def _tell_apart(moment: UtilityParity, y: NDArray[np.intp]) -> tuple[Constraint, NDArray[np.intp]]:
    """Return the constraint that a loaded moment makes, and the kinds of its rows."""
    name = type(moment).__name__
    event, found = pd.factorize(moment.tags["event"])
    utilities = np.asarray(moment.utilities, dtype=np.float64)
    if not len(found):
        raise ValueError(
            f"{name} puts no row in any event, so it compares nothing. Pass an event for each row to "
            "UtilityParity.load_data, NaN for none."
        )
    if utilities.shape != (len(y), 2) or not np.isfinite(utilities[event >= 0]).all():
        raise ValueError(
            f"{name} has utilities of shape {utilities.shape}, or not finite; need two finite numbers for "
            f"each row, those of the decisions 0 and 1: the shape ({len(y)}, 2)."
        )
    order = sorted(range(len(found)), key=lambda code: str(found[code]))
    event = np.array([*np.argsort(order), -1])[event]
    utilities = np.where(event[:, None] >= 0, utilities, 0.0)
    table, kind = np.unique(np.column_stack([y, event, utilities]), axis=0, return_inverse=True)
    if len(table) > MAX_KINDS:
        raise ValueError(
            f"{name} tells {len(table)} kinds of rows apart by label, event and utilities, and the network "
            f"must predict the kind: at most {MAX_KINDS} are supported. Use fewer events, or round "
            "the utilities."
        )
    members = (table[:, 1] == np.arange(len(found))[:, None]).astype(np.float64)
    inside: Floats = members[:, :, None] * table[None, :, 2:]
    events = tuple(str(found[code]) for code in order)
    return Constraint(name, events, table[:, 0].astype(np.intp), members, inside), kind.ravel()
