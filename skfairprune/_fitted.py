"""The fitted estimator: its attributes, the decisions of its network, and the bound that they keep."""

import warnings
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from skfairprune._assembly import Result
from skfairprune._data import check_inputs
from skfairprune._network import unread_columns
from skfairprune._problems import aware_problem, rule_problems
from skfairprune._reporting import (
    ValidationGap,
    describe_rows,
    event_gap_table,
    frontier_table,
    group_rate_table,
    multiplier_table,
    sparsity_path,
    validation_gap,
)
from skfairprune._row_order import refuse_other_order
from skfairprune._rules import AwareRules, merge_rules
from skfairprune.frontier import RuleFrontier
from skfairprune.gaps import CellRates, Gap
from skfairprune.modules import DecisionNetwork
from skfairprune.networks.rows import N_MIXED, logits_by_batch, mix_rows
from skfairprune.pruning.budget import Chain
from skfairprune.pruning.report import removal_report
from skfairprune.pruning.structure import Masks

__all__ = ["FittedMixin"]


class FittedMixin:
    """What a fitted estimator has and does: it decides, and sets its bound."""

    module: Any
    decision_rule: bool
    difference_bound: float
    classes_: NDArray
    n_features_in_: int
    feature_names_in_: NDArray
    module_: DecisionNetwork
    dense_module_: DecisionNetwork | None
    masks_: Masks
    dropped_columns_: list[Any]
    sparsity_: float
    sparsity_path_: pd.DataFrame | None
    pruning_report_: pd.DataFrame
    constraint_: str | None
    groups_: list[Any] | None
    bound_: float | None
    multipliers_: pd.DataFrame | None
    validation_gap_: ValidationGap | None
    event_gaps_: pd.DataFrame | None
    group_rates_: pd.DataFrame | None
    frontier_: pd.DataFrame | None
    history_: pd.DataFrame
    n_iter_: int
    _frontier: RuleFrontier | None
    _aware: AwareRules | None
    _events: tuple[str, ...]
    _rows: str
    _group_names: tuple[Any, ...] | None
    _unread: list[int]
    _own_weights: NDArray[np.float64]
    _example: NDArray[np.floating] | None
    _example_joint: NDArray[np.floating] | None
    _dense_shapes: dict[str, tuple[int, ...]] | None

    def __sklearn_is_fitted__(self) -> bool:
        """Tell whether a fit has ended: what its first checks set is not enough."""
        return hasattr(self, "module_")

    def _forget(self) -> None:
        """Delete all fitted attributes: a fit that fails on its rows leaves none of the model before.

        They are those declared above that have an underscore; a subclass can have others of its own.
        """
        fitted = {name for name in FittedMixin.__annotations__ if name.strip("_") != name}
        for name in fitted & vars(self).keys():
            delattr(self, name)

    def _store(self, result: Result, X: NDArray[np.floating], classes: NDArray) -> None:
        """Set all fitted attributes but those of the columns: what a fit on the rows X left."""
        self.classes_ = classes
        self.history_ = pd.DataFrame(result.history)
        self.n_iter_ = len(self.history_)
        self._store_network(result)
        try:
            self._store_example(result, X)
            self._store_sizes(result)
            self._store_rules(result)
        except BaseException:
            self._forget()  # an estimator that decides has everything else
            raise

    def _store_network(self, result: Result) -> None:
        """Set the attributes that decide."""
        self.module_, self.dense_module_ = merge_rules(result.outcome, result.targets)
        self._own_weights = result.targets.output_weights
        self._unread = unread_columns(self.module_.network, self.n_features_in_)
        names = getattr(self, "feature_names_in_", range(self.n_features_in_))
        self.dropped_columns_ = [names[position] for position in self._unread]

    def _store_example(self, result: Result, X: NDArray[np.floating]) -> None:
        """Set the attributes by which a network of the user's own is exported and known again."""
        self._example = self._example_joint = self._dense_shapes = None
        if self.module is not None:
            self._example = mix_rows(X)
            self._example_joint = self.module_.joint_proba(self.example_rows()).numpy()
            whole = result.dense.network.get_submodule("module").named_parameters()
            self._dense_shapes = {name: tuple(parameter.shape) for name, parameter in whole}

    def _store_sizes(self, result: Result) -> None:
        """Set the attributes that tell what was removed."""
        dense, masks = result.dense, result.outcome.masks
        layout = dense.structure.layout
        small = layout.resized([int(mask.sum()) for mask in masks])
        prunes_inputs = isinstance(layout, Chain) and layout.prune_inputs
        self.masks_ = masks[1:] if prunes_inputs else masks
        self.sparsity_ = float(1 - small.cost() / layout.cost()) if layout.cost() else 0.0
        self.pruning_report_ = removal_report(dense.network, dense.structure, small, dense.left_out)
        self.sparsity_path_ = sparsity_path(result.trials, layout) if result.trials else None

    def _store_rules(self, result: Result) -> None:
        """Set the attributes that describe the constraint and its rules."""
        outcome, targets, task = result.outcome, result.targets, result.targets.task
        self.constraint_ = None if task is None else task.constraint.name
        self.groups_, self._group_names = targets.group_labels, targets.group_names
        self.bound_ = self.multipliers_ = self.validation_gap_ = self.event_gaps_ = None
        self.group_rates_ = None
        if task is not None:
            self._events = task.constraint.events
            self._rows = describe_rows(result.split, result.plan, task.with_rule, bool(result.trials))
            multipliers = None if outcome.rule is None else outcome.rule.multipliers
            covered = targets.group_labels or []
            left_out = [label for label, code in targets.group_codes.items() if code >= len(covered)]
            counted = task.included
            if outcome.driven is not None:
                counted = counted & outcome.driven
            rows = result.split.upper
            self.group_rates_ = group_rate_table(task, rows, counted, self._events, covered, left_out)
            self._describe(task.bound, multipliers, outcome.event_gaps, outcome.cells)
        self._frontier, self.frontier_, self._aware = outcome.frontier, None, None
        if outcome.frontier is not None:
            self.frontier_ = frontier_table(outcome.frontier)
        if outcome.aware is not None:
            self._aware = AwareRules(outcome.aware, targets.group_codes, targets.order, targets.group_names)

    def _describe(
        self,
        bound: float,
        multipliers: NDArray[np.float64] | None,
        event_gaps: Sequence[Gap],
        cells: CellRates | None,
    ) -> None:
        """Set the attributes that describe the rule of one bound, or the network that decides itself."""
        assert self.groups_ is not None
        self.bound_ = bound
        if multipliers is not None:
            self.multipliers_ = multiplier_table(multipliers, self._events, self.groups_)
        self.validation_gap_ = validation_gap(event_gaps, cells, self._events, self.groups_, self._rows)
        self.event_gaps_ = event_gap_table(event_gaps, self._events, self.groups_)
        if self.group_rates_ is not None and cells is not None:
            n_groups = len(self.group_rates_) // len(self._events)
            rates, errors, _ = (table[:, :n_groups].ravel() for table in cells)
            self.group_rates_ = self.group_rates_.assign(rate=rates, standard_error=errors)

    def set_bound(self, difference_bound: float) -> Self:
        """Set the bound of the fitted network, without training.

        The network carries rules for a grid of bounds, from 0 to its unconstrained gap; `frontier_` shows
        what each reaches on held-out rows. The rule of the largest bound not above the one asked for is
        taken.
        ``module_``, ``bound_``, ``multipliers_``, ``validation_gap_``, ``event_gaps_`` and ``group_rates_``
        follow; the parameter `difference_bound` stays what `fit` was asked for.

        Parameters
        ----------
        difference_bound : float
            The largest difference in [0, 1] allowed between any two groups' rates.

        Returns
        -------
        FairPrunedClassifier
            The estimator itself.

        Raises
        ------
        NotFittedError
            If it is not fitted.
        ValueError
            If the bound is not in [0, 1], or no rule was fitted.

        Warns
        -----
        ConvergenceWarning
            As `fit`: if the held-out gap of that rule is above the bound by more than its standard error, in
            any event, or it gives all held-out rows the same class, and that of a larger bound does not; if
            it has little left of what the network gains in accuracy; or if the rules behind its figures
            decide many rows otherwise.
        """
        check_is_fitted(self, "module_")
        number = isinstance(difference_bound, Real) and not isinstance(difference_bound, bool)
        if not (number and 0 <= difference_bound <= 1):
            raise ValueError(f"difference_bound must be a number in [0, 1]; got {difference_bound!r}.")
        if self._frontier is None:
            raise ValueError(
                "set_bound needs the decision rules of a constraint, and this model was fitted with "
                f"{'constraint_=None' if self.constraint_ is None else 'decision_rule=False'}. Fit it with a "
                "constraint and decision_rule=True."
            )
        rule = self._frontier.rules[self.module_.set_bound(float(difference_bound))]
        self._describe(float(difference_bound), rule.fit.multipliers, rule.event_gaps, rule.cells)
        assert self.constraint_ is not None
        bound, same = float(difference_bound), difference_bound == self.difference_bound
        problems = rule_problems(self._frontier, self.constraint_, bound, fitted=same)
        aware = aware_problem(None if self._aware is None else self._aware.frontier, bound)
        for problem in problems if aware is None else [*problems, aware]:
            warnings.warn(problem, ConvergenceWarning, stacklevel=2)
        return self

    def _require_own_rule(self) -> None:
        """Refuse to give away a network that decides by another rule than the estimator tells of.

        Raises
        ------
        ValueError
            If ``module_.set_bound`` has set one.
        """
        if self._frontier is None or self.bound_ is None:
            return
        module = self.module_
        if not torch.equal(module.output_weights, module.rules[module.position(self.bound_)]):
            raise ValueError(
                f"module_ has another rule than that of bound_={self.bound_}: module_.set_bound changes "
                "decisions and nothing that the estimator tells of them. Call set_bound of the estimator."
            )

    def _joint_proba(self, rows: Any) -> Iterator[torch.Tensor]:
        """Yield the joint probabilities of checked rows, a batch at a time."""
        names = getattr(self, "feature_names_in_", range(self.n_features_in_))
        dtype = self.module_.output_weights.dtype
        for logits in logits_by_batch(self.module_.network, rows, dtype, self._example, names):
            yield torch.softmax(logits.double(), dim=1)

    def predict_proba(self, X: ArrayLike, *, sensitive_features: Any = None) -> NDArray[np.floating]:
        """Predict class probabilities, after the decision rule.

        Under a constraint these are the merged rule's outputs: their argmax is the decision, and they are
        not calibrated. :meth:`predict_uncorrected_proba` gives the network's own probabilities.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows; no sensitive feature is needed.
        sensitive_features : like in `fit`, default=None
            The group of each row, for the rules that are told it: only with ``attribute_aware=True``. Such
            decisions treat rows alike but for their group differently, which may be unlawful.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities in the order of ``classes_``.

        Raises
        ------
        ValueError
            If the rows are not like those of `fit`, the groups have the index of ``X`` in another order, or a
            network of one's own fails on a row.
        """
        check_is_fitted(self, "module_")
        rows = check_inputs(self, X, self._unread)
        if sensitive_features is not None:
            refuse_other_order(X=X, sensitive_features=sensitive_features)
            return self._aware_proba(rows, sensitive_features)
        weights = self.module_.output_weights.T.double()
        parts = [(joint @ weights).numpy() for joint in self._joint_proba(rows)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _aware_proba(self, rows: Any, sensitive_features: Any) -> NDArray[np.floating]:
        """Predict class probabilities of rows whose groups are told."""
        if self._aware is None or self.bound_ is None:
            raise ValueError(
                "predict got sensitive_features, but no attribute-aware rule was fitted. Predict without "
                "them, or fit with attribute_aware=True and a constraint."
            )
        group = self._aware.encode(sensitive_features, rows.shape[0])
        joint = np.concatenate([part.numpy() for part in self._joint_proba(rows)])
        return self._aware.proba(joint, group, self.bound_)

    def predict_uncorrected_proba(self, X: ArrayLike) -> NDArray[np.floating]:
        """Predict the network's own class probabilities, before the decision rule.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities in the order of ``classes_``.
        """
        check_is_fitted(self, "module_")
        rows = check_inputs(self, X, self._unread)
        return np.concatenate([joint.numpy() for joint in self._joint_proba(rows)]) @ self._own_weights.T

    def decision_function(self, X: ArrayLike, *, sensitive_features: Any = None) -> NDArray[np.floating]:
        """Return the score whose sign or argmax is the decision.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows.
        sensitive_features : like in `fit`, default=None
            As in :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            With two classes the probability of ``classes_[1]`` minus that of ``classes_[0]``, in [-1, 1];
            with more the probabilities.
        """
        proba = self.predict_proba(X, sensitive_features=sensitive_features)
        return proba[:, 1] - proba[:, 0] if len(self.classes_) == 2 else proba

    def predict(self, X: ArrayLike, *, sensitive_features: Any = None) -> NDArray:
        """Predict class labels: the classes of the largest probability.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows; no sensitive feature is needed.
        sensitive_features : like in `fit`, default=None
            As in :meth:`predict_proba`.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels from ``classes_``.
        """
        proba = self.predict_proba(X, sensitive_features=sensitive_features)
        return self.classes_[proba.argmax(axis=1)]

    def example_rows(self) -> torch.Tensor:
        """Return rows that an export of the network can be traced and tried with.

        Returns
        -------
        Tensor of shape (9, `n_features_in_`)
            For the built-in network random numbers; for others quantiles of each column of the training rows,
            in another order in each column: values that the network knows. :meth:`save` stores them. They are
            single values of the data; where there are few columns, or few values, a row of them can be one of
            the data.
        """
        check_is_fitted(self, "module_")
        dtype = self.module_.output_weights.dtype
        if self._example is not None:
            return torch.tensor(self._example, dtype=dtype)
        generator = torch.Generator().manual_seed(0)
        return torch.randn(N_MIXED, self.n_features_in_, dtype=dtype, generator=generator)
