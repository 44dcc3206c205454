"""The methods that are compared: the registry, and every way in which the estimator itself is called.

Each bound is a fit of its own, as each weight of a penalty is, but for the method that serves all of them
with one network (`set_bound`). A method whose parameters the estimator does not have is listed in SKIPPED
with the reason.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from baselines.outside import OUTSIDE
from method import TOLERANCES, Method, Setting, Solution, Solver
from sklearn.utils._param_validation import InvalidParameterError

from skfairprune import FairPrunedClassifier
from skfairprune.modules import find_knots

__all__ = ["CRITERIA", "METHODS", "OPTIONS", "SKIPPED", "is_possible"]

CRITERIA = ("magnitude", "fpgm", "snip", "taylor", "lottery", "obs", "fairgrape", "fairprune", "random")

#: What the defaults are held against, one change at a time.
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "one_shot": ("sparsity_schedule one_shot", {"sparsity_schedule": "one_shot"}),
    "gates_soft": ("gate_temperature (1, 1)", {"gate_temperature": (1.0, 1.0)}),
    "gates_sharp": ("gate_temperature (.2, .05)", {"gate_temperature": (0.2, 0.05)}),
    "closed_form": ("hypergradient closed_form", {"hypergradient": "closed_form"}),
    "implicit": ("hypergradient implicit", {"hypergradient": "implicit"}),
    "ramp": ("surrogate ramp", {"surrogate": "ramp"}),
    "linear": ("surrogate linear", {"surrogate": "linear"}),
    "surrogate_sharp": ("surrogate_temperature .1", {"surrogate_temperature": 0.1}),
    "surrogate_soft": ("surrogate_temperature 1", {"surrogate_temperature": 1.0}),
    "strength_0": ("constraint_strength 0", {"constraint_strength": 0.0}),
    "strength_2": ("constraint_strength 2", {"constraint_strength": 2.0}),
    "distill_dense": ("distill dense", {"distill": "dense"}),
    "distill_boosting": ("distill boosting", {"distill": "boosting"}),
}

#: All methods by name, in the order of tables.
METHODS: dict[str, Method] = {}
#: Why a method is missing.
SKIPPED: dict[str, str] = {}


def _add(method: Method) -> None:
    METHODS[method.name] = method


def _why_not(params: dict[str, Any]) -> str | None:
    """Return why the estimator does not take these parameters, or None if it does."""
    try:
        FairPrunedClassifier(**params)._validate_params()
    except (TypeError, InvalidParameterError) as error:
        return str(error).replace("FairPrunedClassifier.__init__() ", "")
    return None


def is_possible(method: Method, constraint: str | None) -> bool:
    """Tell whether a method knows a constraint."""
    if constraint is None or method.tolerances is None:
        return constraint is None and method.constraints is None
    if method.constraints is None:
        return _why_not({"constraint": constraint}) is None
    return constraint in method.constraints


def _add_estimator(
    name: str,
    label: str,
    family: str,
    *,
    serves: bool = False,
    as_small: bool = False,
    sized_by: str | None = None,
    **params: Any,
) -> None:
    """Register a way of calling FairPrunedClassifier, if it takes these parameters.

    One that serves all bounds is fitted under the loosest of them. One that has another encoding and is to be
    as small leaves no more parameters than the default encoding would at that sparsity.
    """
    if reason := _why_not(params):
        SKIPPED[name] = reason
        return
    pruned = "sparsity" not in params

    def start(setting: Setting) -> Solver:
        fitted: list[FairPrunedClassifier] = []

        def solve(bound: float | None) -> Solution:
            shared = bool(fitted)
            if shared:
                clf = fitted[0]
            else:
                settings = {"sparsity": setting.sparsity, **params} if pruned else dict(params)
                if setting.sizes is not None:
                    settings["hidden_layer_sizes"] = setting.sizes
                if bound is not None:
                    settings["difference_bound"] = max(TOLERANCES["bound"]) if serves else bound
                settings = {"max_epochs": setting.max_epochs, **settings}
                if as_small:
                    settings["sparsity"] = _as_small(setting, params["n_bins"])
                clf = FairPrunedClassifier(
                    constraint=setting.constraint, random_state=setting.seed, **settings
                )
                X, y, group = setting.train
                # The criteria that know groups need them without a constraint, too.
                clf.fit(X, y, sensitive_features=group)
            if bound is not None and serves:
                fitted[:] = [clf]
                clf.set_bound(bound)
            return Solution(lambda test: clf.predict(test.X), clf, shared)

        return solve

    _add(Method(name, label, family, start, pruned=pruned, sized_by=sized_by))


def _as_small(setting: Setting, n_bins: int) -> float:
    """Return the sparsity at which a network with so many bins is as small as the default one."""

    def parameters(n_bins: int) -> int:
        columns = setting.train.X.T
        inputs = sum(len(find_knots(column, np.ones(len(column)), n_bins)) - 1 for column in columns)
        sizes = [inputs, *default.hidden_layer_sizes, 2]
        return sum((before + 1) * after for before, after in pairwise(sizes))

    default = FairPrunedClassifier()
    assert setting.sparsity is not None
    return 1 - (1 - setting.sparsity) * parameters(default.n_bins) / parameters(n_bins)


def _add_raw(name: str, label: str, family: str, **params: Any) -> None:
    """Register a method with the final decision rule and without it."""
    _add_estimator(name, label, family, **params)
    _add_estimator(f"{name}_raw", f"{label}, no rule", family, decision_rule=False, **params)


# Ours and its ablations.
_add_raw("bilevel", "bi-level (ours)", "ours")
_add_estimator("bilevel_one", "bi-level (ours), one network", "ours", serves=True)
_add_raw("no_gates", "w/o gates' constraint", "ablation", constrain="weights")
_add_raw("no_weights", "w/o weights' constraint", "ablation", constrain="gates")
_add_raw("no_constraint", "w/o both", "ablation", constrain=None)
_add_estimator("auto", "smallest network (auto)", "ours", sparsity="auto", max_accuracy_drop=0.003)
# What gains on Adult and loses on another set, so that it is not the default.
_add_estimator("finer", "bi-level, 128 bins", "ours", as_small=True, n_bins=128)
_DISTILLED = {"distill": "boosting", "n_bins": 128, "max_epochs": 40}
_add_estimator("distilled", "bi-level, boosting teacher, 128 bins", "ours", as_small=True, **_DISTILLED)
for _name, (_label, _params) in OPTIONS.items():
    _add_estimator(_name, _label, "ablation", **_params)
for _name in CRITERIA:
    _label = _name.upper() if _name in ("fpgm", "snip", "obs") else _name
    _add_raw(_name, _label, "pruning", criterion=_name)
for _name in ("prune_then_fair", "fair_then_prune"):
    _add_raw(_name, _name.replace("_", "-"), "pruning", order=_name)
# Networks that are not pruned.
_add_raw("scratch", "small from scratch", "network", sized_by="bilevel", sparsity=0)
_add_raw("dense", "dense 256-256", "network", sparsity=0)
METHODS.update({method.name: method for method in OUTSIDE})
