"""The methods outside the estimator: references, fairlearn's, and networks with a penalty.

Networks get the encoding, optimiser and epochs of FairPrunedClassifier; boosting and logistic regression are
scikit-learn's with their defaults. Logistic regression is also there on the encoding of the networks, where
it is another model, an additive one, with the strength of its penalty from cross-validation.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from fairlearn.postprocessing import ThresholdOptimizer
from fairlearn.reductions import (
    DemographicParity,
    EqualizedOdds,
    ErrorRateParity,
    ExponentiatedGradient,
    TruePositiveRateParity,
)
from method import Method, Setting, Solution, Solver
from protocol import Part
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from baselines.adversarial import AdversarialNetwork
from baselines.encoding import Encoder
from baselines.penalties import PenaltyNetwork

__all__ = ["OUTSIDE"]

_PARITY = ("demographic_parity", "equalized_odds")
_MOMENTS = {
    "demographic_parity": DemographicParity,
    "equalized_odds": EqualizedOdds,
    "true_positive_rate_parity": TruePositiveRateParity,
    "error_rate_parity": ErrorRateParity,
}


def _fit_plain(make: Callable[[Setting, float | None], Any], *, grouped: bool = False) -> Callable:
    """Return the start of a scikit-learn estimator that is fitted anew for each tolerance."""

    def start(setting: Setting) -> Solver:
        def solve(tolerance: float | None) -> Solution:
            X, y, group = setting.train
            model = make(setting, tolerance)
            model.fit(X, y, **({"sensitive_features": group} if grouped else {}))
            return Solution(lambda test: _decide(model, test, setting.seed), model)

        return solve

    return start


def _decide(model: Any, test: Part, seed: int) -> np.ndarray:
    """Decide on the test part; a random decision is drawn once, with the task's seed."""
    if isinstance(model, ThresholdOptimizer):
        return np.asarray(model.predict(test.X, sensitive_features=test.group, random_state=seed))
    if isinstance(model, ExponentiatedGradient):
        return np.asarray(model.predict(test.X, random_state=seed))
    return model.predict(test.X)


def _logistic(setting: Setting, tolerance: float | None) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def _additive(*, reduced: bool) -> Callable:
    """Return the start of logistic regression on encoded rows, or of a reduction over it.

    The strength of its penalty is the one that five folds of the training part find best.
    """

    def start(setting: Setting) -> Solver:
        encoder = Encoder().fit(setting.train.X)

        def encode(part: Part) -> Part:
            return part._replace(X=encoder.transform(part.X))

        setting = setting._replace(train=encode(setting.train))
        search = GridSearchCV(
            LogisticRegression(solver="newton-cholesky"),
            {"C": [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]},
            scoring="neg_log_loss",
        ).fit(setting.train.X, setting.train.y)

        def base(setting: Setting, tolerance: float | None) -> LogisticRegression:
            return clone(search.best_estimator_)

        solve = (_reduction(base) if reduced else _fit_plain(base))(setting)

        def solve_encoded(tolerance: float | None) -> Solution:
            solution = solve(tolerance)
            return solution._replace(decide=lambda test: solution.decide(encode(test)))

        return solve_encoded

    return start


def _boosting(setting: Setting, tolerance: float | None) -> Any:
    return HistGradientBoostingClassifier(random_state=setting.seed)


def _network(setting: Setting, tolerance: float | None) -> Any:
    return PenaltyNetwork(max_epochs=setting.max_epochs, random_state=setting.seed)


def _reduction(base: Callable[[Setting, float | None], Any], **params: Any) -> Callable:
    def make(setting: Setting, bound: float | None) -> ExponentiatedGradient:
        assert setting.constraint is not None
        moment = _MOMENTS[setting.constraint](difference_bound=bound)
        return ExponentiatedGradient(base(setting, None), moment, **params)

    return _fit_plain(make, grouped=True)


def _threshold(setting: Setting, bound: float | None) -> ThresholdOptimizer:
    return ThresholdOptimizer(
        estimator=_boosting(setting, None),
        constraints=setting.constraint,
        predict_method="predict_proba",
        tol=bound or None,  # fairlearn relaxes demographic parity only
    )


def _penalised(penalty: str) -> Callable:
    def make(setting: Setting, weight: float | None) -> PenaltyNetwork:
        assert weight is not None
        return PenaltyNetwork(penalty, weight, max_epochs=setting.max_epochs, random_state=setting.seed)

    return _fit_plain(make, grouped=True)


def _adversarial(setting: Setting, alpha: float | None) -> AdversarialNetwork:
    assert setting.constraint is not None
    assert alpha is not None
    return AdversarialNetwork(setting.constraint, alpha, setting.max_epochs, setting.seed)


_LR_WEIGHTS = {"sample_weight_name": "logisticregression__sample_weight"}
_EG = {
    "eg_lr": ("EG over LR", _reduction(_logistic, **_LR_WEIGHTS), "reduction"),
    "eg_additive": ("EG over LR, encoded", _additive(reduced=True), "reduction"),
    "eg_hgb": ("EG over HGB", _reduction(_boosting), "reduction"),
    "eg_network": ("EG over dense", _reduction(_network, max_iter=15), "network reduction"),
}
_THRESHOLDS = _fit_plain(_threshold, grouped=True)
_ADVERSARY = _fit_plain(_adversarial, grouped=True)
#: The methods, in the order of tables.
OUTSIDE = (
    Method("lr", "logistic regression", "reference", _fit_plain(_logistic), None),
    Method("additive", "logistic regression, encoded", "reference", _additive(reduced=False), None),
    Method("hgb", "boosting (HGB)", "reference", _fit_plain(_boosting), None),
    *(
        Method(name, label, "reduction", start, grid, tuple(_MOMENTS), mark="‡")
        for name, (label, start, grid) in _EG.items()
    ),
    Method(
        "threshold_hgb_dp", "thresholds of HGB", "reduction", _THRESHOLDS, "bound", _PARITY[:1], mark="†‡"
    ),
    Method(
        "threshold_hgb_eo", "thresholds of HGB", "reduction", _THRESHOLDS, "exact", _PARITY[1:], mark="†‡"
    ),
    Method("adversarial", "adversarial", "penalty", _ADVERSARY, "adversary weight", _PARITY),
    Method("diff_dp", "DiffDP", "penalty", _penalised("diff_dp"), "difference weight", _PARITY[:1]),
    Method("diff_eodd", "DiffEOdd", "penalty", _penalised("diff_eodd"), "difference weight", _PARITY[1:]),
    Method("hsic", "HSIC", "penalty", _penalised("hsic"), "hsic weight", _PARITY[:1]),
)
