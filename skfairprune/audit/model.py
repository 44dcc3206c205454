"""What an audit takes from the fitted estimator: the question, the classes, the groups, and a description."""

from collections.abc import Hashable
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import sklearn
import torch
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

import skfairprune
from skfairprune._classifier import FairPrunedClassifier
from skfairprune._labels import show_labels
from skfairprune.audit.document import show_label
from skfairprune.constraints import CONSTRAINTS, get_constraint

__all__ = [
    "are_others",
    "describe",
    "find_classifier",
    "find_labels",
    "find_question",
    "order_columns",
    "promised_cells",
]

_CHOICE = f"one of {', '.join(CONSTRAINTS)}"


def find_classifier(model: Any) -> FairPrunedClassifier:
    """Return the fitted classifier in a pipeline or a search.

    Raises
    ------
    ValueError
        If there is none, it is not fitted, or its network has another rule than the estimator tells of.
    """
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
    found._require_own_rule()
    return found


def find_question(
    clf: FairPrunedClassifier | None, constraint: Any, bound: Any, with_strata: bool
) -> tuple[str, float | None]:
    """Return the constraint and the bound to audit; where they are None they are the model's.

    Raises
    ------
    ValueError
        If there is no constraint, or none that has a name; if the bound is not in [0, 1], or the model's is
        within strata and the audit is not, or the other way round.
    """
    if constraint is None:
        constraint = None if clf is None else clf.constraint_
        if constraint is None:
            got = "neither a constraint nor a model" if clf is None else "a model that was fitted without one"
            raise ValueError(f"audit needs a constraint, and got {got}. Pass {_CHOICE}.")
        if constraint not in CONSTRAINTS:
            raise ValueError(
                f"The model was fitted under {constraint}, a moment that the metrics do not have. Pass the "
                f"constraint to audit: {_CHOICE}."
            )
    if not isinstance(constraint, str) or constraint not in CONSTRAINTS:
        raise ValueError(f"constraint must be {_CHOICE}; got {constraint!r}.")
    if bound is None:
        if clf is None or constraint != clf.constraint_:
            return constraint, None
        if _has_strata(clf) != with_strata:
            told, cure = (
                ("without strata, and control_features are given", "Leave them out")
                if with_strata
                else ("within strata, and no control_features are given", "Pass those of these rows")
            )
            raise ValueError(
                f"The model's bound is on the gap {told}. {cure}, or pass the difference_bound to audit."
            )
        return constraint, clf.bound_
    number = isinstance(bound, Real) and not isinstance(bound, bool | np.bool_)
    if not (number and 0 <= bound <= 1):
        raise ValueError(f"difference_bound must be a number in [0, 1]; got {bound!r}.")
    return constraint, float(bound) + 0.0  # no -0


def _has_strata(clf: FairPrunedClassifier) -> bool:
    """Tell whether the model's constraint is within strata: its events have more names then."""
    classes = clf.classes_.tolist()
    return clf._events != get_constraint(str(clf.constraint_), len(classes), classes).events


def find_labels(
    clf: FairPrunedClassifier, labels: tuple[Hashable, ...], pos_label: Hashable
) -> tuple[tuple[Hashable, ...], Hashable]:
    """Return the model's classes, and the positive one of two.

    Raises
    ------
    ValueError
        If there are labels of no class, or another positive one is asked for.
    """
    classes = tuple(clf.classes_.tolist())
    unknown = [label for label in labels if label not in classes]
    if unknown:
        raise ValueError(
            f"y_true or y_pred have the labels {show_labels(unknown)}, and the model has the classes "
            f"{show_labels(classes)}. Pass labels as in fit."
        )
    if len(classes) > 2:
        return classes, pos_label
    own = classes[1] if clf.pos_label is None else clf.pos_label
    if pos_label is not None and pos_label != own:
        raise ValueError(f"pos_label is {pos_label!r}, and that of the model is {own!r}. Leave it out.")
    return classes, own


def order_columns(clf: FairPrunedClassifier | None, sensitive_features: Any) -> Any:
    """Return several named columns in the order of those of the fit, if they have the same names."""
    names = None if clf is None else clf._group_names
    given = isinstance(sensitive_features, dict | pd.DataFrame)
    if names is None or not given or set(names) != set(sensitive_features) or len(names) < 2:
        return sensitive_features
    if isinstance(sensitive_features, dict):
        return {name: sensitive_features[name] for name in names}
    return sensitive_features[list(names)]


def promised_cells(
    clf: FairPrunedClassifier | None, constraint: str, with_strata: bool
) -> set[tuple[str, Hashable]]:
    """Return event and group of the rates that the model's bound is for; none if another gap is audited."""
    if clf is None or constraint != clf.constraint_ or clf.groups_ is None or _has_strata(clf) != with_strata:
        return set()
    if clf.group_rates_ is None:  # of a file of before
        return {(event, group) for event in clf._events for group in clf.groups_}
    covered = clf.group_rates_[clf.group_rates_["covered"]]
    return set(zip(covered["event"], covered["group"], strict=True))


def are_others(promised: set[tuple[str, Hashable]], events: set[str], groups: set[Hashable]) -> bool:
    """Tell whether the groups are others than those of the fit.

    Raises
    ------
    ValueError
        If they are the same, but of another type or with their columns in another order; or if the strata are
        others.
    """
    if not promised:
        return False
    own, named = ({cell[at] for cell in promised} for at in (1, 0))
    if not own & groups:
        if {_spelt(group) for group in own} & {_spelt(group) for group in groups}:
            raise ValueError(
                f"The groups are {show_labels(sorted(groups, key=str))}, and in fit they were "
                f"{show_labels(sorted(own, key=str))}. Pass sensitive_features of the same type, and the "
                "same columns in the same order."
            )
        return True
    if not named & events:
        raise ValueError(
            f"The strata are others than those of the fit: the events are {show_labels(sorted(events))}, "
            f"and in fit they were {show_labels(sorted(map(str, named)))}. Pass control_features of the same "
            "type, and the same columns in the same order."
        )
    return False


def _spelt(group: Hashable) -> tuple[str, ...]:
    """Return the values of a group as text, in any order."""
    return tuple(sorted(map(str, group if isinstance(group, tuple) else (group,))))


def describe(clf: FairPrunedClassifier, other_groups: bool) -> pd.Series:
    """Say what the fitted estimator is, as text, and whether the audit is of other groups than its own."""
    total = clf.pruning_report_.loc["total"]
    facts = {
        "parameters": f"{total['parameters_after']:,.0f} of {total['parameters_before']:,.0f}",
        "columns that are read": f"{clf.n_features_in_ - len(clf.dropped_columns_)} of {clf.n_features_in_}",
        "constraint of the fit": "none",
    }
    if clf.constraint_ is not None:
        told = clf.validation_gap_
        assert told is not None
        within = " within strata" if clf.constraint_ in CONSTRAINTS and _has_strata(clf) else ""
        facts["constraint of the fit"] = (
            f"{clf.constraint_.replace('_', ' ')}{within}, bound {clf.difference_bound:g}"
        )
        facts["bound in force"] = f"{clf.bound_:g}"
        facts["groups under it"] = "; ".join(map(show_label, clf.groups_ or []))
        if other_groups:
            facts["groups that are audited"] = "others than these"
        rates = clf.group_rates_
        if rates is not None and not rates["covered"].all():
            apart = dict.fromkeys(map(show_label, rates.loc[~rates["covered"], "group"]))
            facts["not under it in every event"] = "; ".join(apart)
        ruled = clf.multipliers_ is not None and bool(np.any(clf.multipliers_))
        facts["decided by"] = "the network and its decision rule" if ruled else "the network alone"
        if clf.attribute_aware:
            facts["decided by"] += "; by rules that are told the group, where predict is given it"
        facts["gap foreseen by the fit"] = (
            f"{told.value:.3f} (standard error {told.standard_error:.3f}), upper limit {told.upper:.3f}, on "
            f"{told.rows.partition(',')[0]}"
        )
    facts["made with"] = (
        f"skfairprune {skfairprune.__version__}, torch {torch.__version__}, "
        f"scikit-learn {sklearn.__version__}"
    )
    return pd.Series(facts)
