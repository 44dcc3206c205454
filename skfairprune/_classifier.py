"""The estimator: parameters, validation of the data, one fit, and prediction."""

import threading
import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from fairlearn.reductions import Moment, UtilityParity
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags, check_random_state
from sklearn.utils._param_validation import Hidden, Interval, StrOptions
from skorch import NeuralNet

from skfairprune._data import FitData, check_fit_data, check_held_out_data, concatenate
from skfairprune._fitted import FittedMixin, choose_example
from skfairprune._network import DenseNetwork, built_in_network, by_weights, own_network, unread_columns
from skfairprune._parameters import (
    GRANULARITIES,
    check_granularity,
    check_module,
    check_plan,
    check_sizes,
    gate_schedule,
)
from skfairprune._preparation import (
    Targets,
    choose_knots,
    encode_targets,
    output_weights,
    resolve_device,
    resolve_dtype,
    resolve_lengths,
    share_rows,
)
from skfairprune._reporting import (
    describe_rows,
    find_problem,
    sparsity_path,
)
from skfairprune._rules import AwareRules, frontier_table
from skfairprune.constraints import CONSTRAINTS
from skfairprune.modules import ACTIVATIONS, DecisionNetwork
from skfairprune.moments import check_moment
from skfairprune.networks.rows import check_rows
from skfairprune.networks.template import Recipe, take_over
from skfairprune.pruning.budget import MEASURES, Chain
from skfairprune.pruning.criteria import CRITERIA
from skfairprune.pruning.layout import NetworkLayout
from skfairprune.pruning.report import network_report, pruning_report, weight_report
from skfairprune.pruning.weights import WeightLayout
from skfairprune.training.batches import Rows
from skfairprune.training.distillation import TEACHERS
from skfairprune.training.hypergradient import HYPERGRADIENTS
from skfairprune.training.lagrangian import Lagrangian
from skfairprune.training.levels import Levels
from skfairprune.training.objective import SURROGATES
from skfairprune.training.phases import PhaseRunner
from skfairprune.training.plan import CONSTRAIN, ORDERS, Plan, make_plan
from skfairprune.training.progress import ProgressBar
from skfairprune.training.pruner import Pruner
from skfairprune.training.schedules import REMOVALS
from skfairprune.training.search import Trial, geometric_budgets
from skfairprune.training.splits import LevelSplit, is_tiny
from skfairprune.training.trainer import Outcome, Trainer

__all__ = ["FairPrunedClassifier"]

_ONE_FIT = threading.RLock()
_PROBE_ROWS = 32  # on which a network that is brought along is tried


class FairPrunedClassifier(FittedMixin, ClassifierMixin, BaseEstimator):
    """A small neural classifier for tabular data whose group gaps keep within a bound.

    One fit trains a network, prunes its hidden units by bi-level optimisation with a group-fairness
    constraint in both levels, fine-tunes the physically small network, and merges into it a group-blind
    decision rule that meets the bound. The result is deterministic and needs no sensitive attribute to
    predict. The method follows Dai et al., "Integrating Fairness and Model Pruning Through Bi-level
    Optimization" (arXiv 2312.10181); what differs, and why, is in the documentation.

    Parameters
    ----------
    module : nn.Module, callable, NeuralNet or None, default=None
        The dense network. None is the built-in one, a multilayer perceptron on piecewise-linearly encoded
        columns, which the parameters from `hidden_layer_sizes` to `n_bins` describe. Any other maps rows of
        shape (n_samples, n_features_in_), as they are given to `fit`, in `dtype`, to class scores of shape
        (n_samples, n_classes), or (n_samples,) or (n_samples, 1) of two classes: logits, or their softmax,
        logarithm of the softmax or sigmoid. A ``torch.nn.Module`` is a template: a copy of it is trained,
        from the weights that it has. A callable ``(n_features_in_, n_outputs) -> nn.Module``, such as a
        class, makes one with the outputs asked for. Of an unfitted skorch ``NeuralNet`` the module,
        optimizer, lr, max_epochs, batch_size and callbacks are taken over.

    hidden_layer_sizes : tuple of int, default=(256, 256)
        The units of each hidden layer of the dense network, each at least 1.

    activation : {"relu", "gelu", "silu", "tanh"}, default="relu"
        The activation of the hidden units.

    dropout : float, default=0.0
        The probability in [0, 1) with which a hidden unit is dropped in training.

    n_bins : int, default=48
        The largest number of bins of a column's piecewise-linear encoding.

    sparsity : float or "auto", default=0.9
        The share in [0, 1) of the dense network to remove, by whole units, counted by `sparsity_measure`.
        The smallest removal that reaches it is taken. 0 gives the dense network. "auto" takes the smallest
        network that is as good as the dense one, see `max_accuracy_drop`.

    sparsity_measure : {"parameters", "units", "macs"}, default="parameters"
        What is counted, over all layers together: trainable parameters (weights and biases), hidden units,
        or MACs (multiplications of one row in the linear layers).

    prune_inputs : bool, default=False
        Whether encoded inputs (bins of a column) are removed, too, where that loses least for what it frees.
        A column without any is not read any more. Not with ``sparsity_measure="units"``, nor with criteria
        that are published for neurons alone ("magnitude", "fpgm", "lottery").

    granularity : {"unit", "weight"}, default="unit"
        What is removed: whole units, which makes the network physically smaller, or single weights of linear
        layers and convolutions, which become zeros. These are stored, and dense kernels multiply by them:
        they gain with compression, and where a kernel knows their pattern. Then `criterion` is "bilevel",
        "magnitude", "snip", "taylor", "lottery" or "random", and the hypergradient not "closed_form".

    weight_pattern : (int, int) or None, default=None
        With ``granularity="weight"``: (n, m) lets at most n of the weights of every m consecutive inputs of
        an output stay, such as (2, 4); in a convolution for each tap. What the pattern removes counts;
        `sparsity` can ask for more.

    max_accuracy_drop : float, default=0.003
        With ``sparsity="auto"``: how much less accurate on held-out rows than the dense network, trained and
        corrected in the same way, the small one may be, in [0, 1). Its gap must keep within the bound, by
        a standard error. Sizes in equal ratios are bisected, so that some four to six networks are trained;
        ``sparsity_path_`` shows them.

    criterion : str, default="bilevel"
        What chooses the units that stay. "bilevel" trains gates under the constraint. The others are
        baselines: the published scores "magnitude", "fpgm", "snip", "taylor", "fairgrape", "fairprune" and
        "obs" (see :mod:`skfairprune.pruning.criteria`), "lottery" (magnitude in rounds, going back to the
        first weights) and "random". Epochs that a criterion does not need go to the fine-tuning.

    order : {"joint", "prune_then_fair", "fair_then_prune"}, default="joint"
        Whether the constraint enters the training while units are removed, in a last phase after the
        fine-tuning, or in the dense phase alone.

    constrain : {"both", "weights", "gates"} or None, default="both"
        Which levels of the joint order carry the constraint, for ablations.

    constraint : str, UtilityParity or None, default="auto"
        One of "demographic_parity", "equalized_odds", "true_positive_rate_parity",
        "false_positive_rate_parity", "error_rate_parity", "degradation_parity" (what pruning costs in
        accuracy); None trains unconstrained; "auto" is demographic parity when `sensitive_features` are
        given to `fit`, else None. With more than two classes, demographic parity and equalized odds are
        one-vs-rest, and the rate parities of two classes are refused. An instance of fairlearn's
        ``UtilityParity`` has its events and utilities taken over; its own bound does not count.

    difference_bound : float, default=0.05
        The largest difference in [0, 1] allowed between any two groups' rates: the bound on fairlearn's
        ``*_difference`` metrics (for equalized odds, the larger of the two gaps).

    decision_rule : bool, default=True
        Whether a group-blind decision rule that meets the bound is fitted and merged into the network. If
        not, the constraint acts in training only, and the network has to meet the bound by itself.

    attribute_aware : bool, default=False
        Whether rules that are told the group of each row are fitted beside the blind ones. They are used only
        where `predict` is given `sensitive_features`.

    constraint_strength : float, default=0.5
        The weight of the constraint's Lagrangian in the loss, at least 0.

    surrogate : {"sigmoid", "ramp", "linear"}, default="sigmoid"
        The smooth stand-in for the indicator of a decision in that Lagrangian: see
        :class:`skfairprune.training.objective.Objective`.

    surrogate_temperature : float, default=0.3
        The width of the surrogate above 0, in units of the score.

    hypergradient : {"first_order", "closed_form", "implicit"}, default="first_order"
        The gradient of the upper level by the gates: see :mod:`skfairprune.training.hypergradient`.

    hypergradient_damping : float, default=1.0
        The ridge (gamma) that "closed_form" and "implicit" suppose at the lower level, above 0.

    sparsity_schedule : {"cubic", "one_shot"} or callable, default="cubic"
        How the removal proceeds in the bilevel phase. A callable takes the share of the phase that is over,
        in (0, 1], and returns the share of the removal that is done, in [0, 1].

    gate_temperature : tuple of float, default=(1.0, 0.05)
        The gates' temperature at the start and the end of the bilevel phase, above 0, in units of the
        scores' spread; it falls geometrically, so that the gates end all but binary.

    distill : {"dense", "boosting"} or None, default=None
        The teacher whose soft (label, group) probabilities the fine-tuning learns beside the labels: the
        dense network, or gradient boosting that saw neither the row it speaks of nor the fold that a copy
        is blind to (five models, on half of the rows each).

    min_cell_size : int, default=30
        A cell, that is a group within an event (all rows, or the rows of one label), with fewer training
        samples leaves the constraint with a warning.

    pos_label : object, default=None
        The label of the positive class in a binary problem; None means ``classes_[1]``.

    lr : float, default=0.005
        The peak learning rate of AdamW, in each phase.

    weight_decay : float, default=0.1
        The weight decay of AdamW, at least 0.

    max_epochs : int or "auto", default="auto"
        The epochs of all phases together, at least 3; with ``sparsity="auto"`` those of each network that is
        tried. "auto" is 20, or on small data as many as make about 1,000 updates, up to 200.

    batch_size : int or "auto", default="auto"
        The rows of a batch. "auto" is a sixty-fourth of the data, from 32 to 512; with at most 200
        distinct rows, all of them.

    n_iter_no_change : int or None, default=8
        The epochs without a better held-out loss after which the dense phase and the fine-tuning stop;
        they then return to their best epoch. None never stops early.

    validation_fraction : float, default=0.5
        The share in (0, 1) of the training rows that the weights do not see before the fine-tuning: the
        gates, the multipliers, the rule and early stopping read them. The fine-tuning is on all rows. Not
        used when `X_val` is given, nor in an unconstrained fit on at most 200 distinct rows, where all
        rows serve both levels and nothing stops early.

    class_weight : dict, "balanced" or None, default=None
        Weights of the classes in the loss. They do not count in the constraint's rates.

    dtype : {"auto", "float32", "float64"}, default="auto"
        The precision. "auto" is float64 with at most 200 distinct rows, and where float32 could not tell
        a column's knots apart; else float32.

    device : str, default="auto"
        Where to train: "auto" takes a GPU if there is one; else a name such as "cpu" or "cuda:0". The
        fitted network is always on the CPU.

    random_state : int, RandomState instance or None, default=None
        Seeds the weights, the splits and the batches. The same seed gives the same network on one machine.

    verbose : int, default=0
        1 shows a progress bar; 0 is silent.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels.

    n_features_in_ : int
        The number of columns seen in `fit`.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        The columns' names, when `X` had string names.

    module_ : DecisionNetwork
        The small network with the decision rule merged in, in eval mode, on the CPU. It maps rows to
        class probabilities.

    dense_module_ : DecisionNetwork or None
        With "degradation_parity" the dense network that the small one is compared with, as `module_`.

    masks_ : list of ndarray of shape (n_units,) of bool
        For each layer of units of the dense network, which stayed; with ``granularity="weight"``, for each
        weight, in its shape, which are not 0.

    dropped_columns_ : list
        The columns of `X` that are not read: constant ones, and with `prune_inputs` those of which no
        encoded input stayed. Their names, or positions where `X` had none.

    sparsity_ : float
        The share of the dense network removed, by `sparsity_measure`.

    sparsity_path_ : DataFrame or None
        With ``sparsity="auto"`` one row for each size that was tried, the dense network first: sparsity,
        widths (units of the prunable layers), parameters, held-out accuracy, accuracy_drop and
        drop_standard_error (both against the dense network, on the same rows), gap and gap_standard_error,
        within (what is allowed), chosen.

    pruning_report_ : DataFrame
        For each layer and in total: units, parameters and MACs before and after.

    constraint_ : str or None
        The constraint in force.

    groups_ : list or None
        The labels of the groups under the constraint; with several sensitive columns, tuples.

    bound_ : float or None
        The bound in force: `difference_bound`, or what :meth:`set_bound` set.

    frontier_ : DataFrame or None
        What :meth:`set_bound` can choose from: one row for each bound, with the gap, gap_standard_error,
        gap_upper (the largest one-sided 95 % limit of its events) and accuracy on held-out rows. blind tells
        whether the weights did not see these rows, either; the rule behind a decision never did.

    multipliers_ : DataFrame or None
        The constraint's multipliers, in accuracy per unit of rate; events by groups.

    validation_gap_ : ValidationGap or None
        The constraint's largest gap on held-out rows, its standard error, the upper limit over all events,
        and which rows these were.

    event_gaps_ : DataFrame or None
        The gap of each event there, its standard_error, and the groups of the lowest and the highest rate.

    history_ : DataFrame
        One row for each epoch, with the columns phase ("dense", "bilevel", "fine-tune", "repair"), epoch
        (within the phase), updates (of the weights), train_loss, valid_loss (NaN where nothing is held out,
        or the multipliers move) and seconds; trial, with ``sparsity="auto"``. In the fine-tuning train_loss
        is the sum over the network and its copies.

    n_iter_ : int
        The epochs run, over all phases.

    See Also
    --------
    skfairprune.metrics.gap_scorer : Scores a gap in a search.

    Examples
    --------
    >>> from skfairprune import FairPrunedClassifier
    >>> from skfairprune.datasets import make_biased_classification
    >>> data = make_biased_classification(2000, random_state=0)
    >>> clf = FairPrunedClassifier(
    ...     hidden_layer_sizes=(32, 32), difference_bound=0.05, max_epochs=6, random_state=0
    ... )
    >>> clf.fit(data.X, data.y, sensitive_features=data.sensitive_features).constraint_
    'demographic_parity'
    >>> bool(clf.sparsity_ >= 0.9)
    True
    """

    _parameter_constraints: dict[str, Any] = {
        "module": [None, torch.nn.Module, NeuralNet, callable],
        "hidden_layer_sizes": [tuple, list],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "n_bins": [Interval(Integral, 1, None, closed="left")],
        "sparsity": [Interval(Real, 0, 1, closed="left"), StrOptions({"auto"})],
        "sparsity_measure": [StrOptions(set(MEASURES))],
        "prune_inputs": ["boolean"],
        "granularity": [StrOptions(set(GRANULARITIES))],
        "weight_pattern": [tuple, list, None],
        "max_accuracy_drop": [Interval(Real, 0, 1, closed="left")],
        "criterion": [StrOptions({"bilevel", "lottery", *CRITERIA})],
        "order": [StrOptions(set(ORDERS))],
        "constrain": [StrOptions(set(CONSTRAIN)), None],
        "constraint": [StrOptions({"auto", *CONSTRAINTS}), Moment, None],
        "difference_bound": [Interval(Real, 0, 1, closed="both")],
        "decision_rule": ["boolean"],
        "attribute_aware": ["boolean"],
        "constraint_strength": [Interval(Real, 0, None, closed="left")],
        "surrogate": [StrOptions(set(SURROGATES))],
        "surrogate_temperature": [Interval(Real, 0, None, closed="neither")],
        "hypergradient": [StrOptions(set(HYPERGRADIENTS))],
        "hypergradient_damping": [Interval(Real, 0, None, closed="neither")],
        "sparsity_schedule": [StrOptions(set(REMOVALS)), callable],
        "gate_temperature": [tuple, list],
        "distill": [StrOptions(set(TEACHERS)), None],
        "min_cell_size": [Interval(Integral, 1, None, closed="left")],
        "pos_label": "no_validation",
        "lr": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_epochs": [Interval(Integral, 3, None, closed="left"), StrOptions({"auto"})],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), None],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "dtype": [StrOptions({"auto", "float32", "float64"})],
        "device": [str, Hidden(torch.device)],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    # Delivered by pipelines, searches and ensembles without a call by the user.
    __metadata_request__fit = {
        "sensitive_features": True,
        "control_features": True,
        "X_val": True,
        "y_val": True,
        "sensitive_features_val": True,
        "control_features_val": True,
    }

    def __init__(
        self,
        module: Any = None,
        *,
        hidden_layer_sizes: tuple[int, ...] = (256, 256),
        activation: str = "relu",
        dropout: float = 0.0,
        n_bins: int = 48,
        sparsity: float | str = 0.9,
        sparsity_measure: str = "parameters",
        prune_inputs: bool = False,
        granularity: str = "unit",
        weight_pattern: tuple[int, int] | None = None,
        max_accuracy_drop: float = 0.003,
        criterion: str = "bilevel",
        order: str = "joint",
        constrain: str | None = "both",
        constraint: str | UtilityParity | None = "auto",
        difference_bound: float = 0.05,
        decision_rule: bool = True,
        attribute_aware: bool = False,
        constraint_strength: float = 0.5,
        surrogate: str = "sigmoid",
        surrogate_temperature: float = 0.3,
        hypergradient: str = "first_order",
        hypergradient_damping: float = 1.0,
        sparsity_schedule: str | Callable[[float], float] = "cubic",
        gate_temperature: tuple[float, float] = (1.0, 0.05),
        distill: str | None = None,
        min_cell_size: int = 30,
        pos_label: Any = None,
        lr: float = 5e-3,
        weight_decay: float = 0.1,
        max_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        n_iter_no_change: int | None = 8,
        validation_fraction: float = 0.5,
        class_weight: dict | str | None = None,
        dtype: str = "auto",
        device: str = "auto",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.module = module
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.n_bins = n_bins
        self.sparsity = sparsity
        self.sparsity_measure = sparsity_measure
        self.prune_inputs = prune_inputs
        self.granularity = granularity
        self.weight_pattern = weight_pattern
        self.max_accuracy_drop = max_accuracy_drop
        self.criterion = criterion
        self.order = order
        self.constrain = constrain
        self.constraint = constraint
        self.difference_bound = difference_bound
        self.decision_rule = decision_rule
        self.attribute_aware = attribute_aware
        self.constraint_strength = constraint_strength
        self.surrogate = surrogate
        self.surrogate_temperature = surrogate_temperature
        self.hypergradient = hypergradient
        self.hypergradient_damping = hypergradient_damping
        self.sparsity_schedule = sparsity_schedule
        self.gate_temperature = gate_temperature
        self.distill = distill
        self.min_cell_size = min_cell_size
        self.pos_label = pos_label
        self.lr = lr
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.n_iter_no_change = n_iter_no_change
        self.validation_fraction = validation_fraction
        self.class_weight = class_weight
        self.dtype = dtype
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        sensitive_features: Any = None,
        control_features: Any = None,
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        sensitive_features_val: Any = None,
        control_features_val: Any = None,
    ) -> "FairPrunedClassifier":
        """Train, prune and fit the decision rule.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Finite numbers. A sparse matrix is made dense.
        y : array-like of shape (n_samples,)
            Class labels, at least two classes: strings, booleans, integers or whole floats.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights, in the loss and in the constraint's rates.
        sensitive_features : list, array, Series, DataFrame or dict of columns, default=None
            The group of each row; several columns are intersected. Not needed to predict, and no value of
            a single row is kept.
        control_features : like sensitive_features, default=None
            Strata, such as a job category: groups are compared within each, and the bound is on the largest
            gap over them. Not needed to predict.
        X_val, y_val : array-like, default=None
            Held-out rows for the upper level, the rule and early stopping, in place of a part of `X`. The
            weights never learn from them.
        sensitive_features_val : like sensitive_features, default=None
            The groups of the held-out rows, needed with them under a constraint.
        control_features_val : like sensitive_features, default=None
            The strata of the held-out rows, needed with them where `control_features` are given.

        Returns
        -------
        FairPrunedClassifier
            The fitted estimator itself.

        Raises
        ------
        ValueError
            If the data or a parameter are not as described, or the sparsity cannot be reached.

        Warns
        -----
        ConvergenceWarning
            If the bound is not met on held-out data, all held-out rows get the same class, or
            ``sparsity="auto"`` finds no smaller network.
        """
        check_sizes(self.hidden_layer_sizes)
        check_plan(**self.get_params(deep=False))
        check_module(self)
        check_granularity(**self.get_params(deep=False))
        device = resolve_device(self.device)
        # What the checks of the data set would not fit the old model: a fit that fails from here leaves none.
        if hasattr(self, "module_"):
            del self.module_
        data = check_fit_data(self, X, y, sample_weight, sensitive_features, control_features)
        classes = np.unique(data.y)
        if len(classes) < 2:
            raise ValueError(
                f"y has one class only, {classes.tolist()[0]!r} (rows of weight 0 do not count); "
                "a classifier needs at least two classes."
            )
        constraint = self._resolve_constraint(data)
        held_out = check_held_out_data(
            self,
            X_val,
            y_val,
            sensitive_features_val,
            classes,
            data.group_labels if constraint else (),
            control_features_val,
            data.stratum_labels if constraint else (),
        )
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        # The networks draw from the generator of all threads: one fit at a time.
        with _ONE_FIT, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            self._fit(data, held_out, classes, constraint, seed, device)
        return self

    def _resolve_constraint(self, data: FitData) -> str | UtilityParity | None:
        """Return the constraint that is in force on these data."""
        constraint = self.constraint
        if isinstance(constraint, Moment):
            check_moment(constraint, self.difference_bound)
        if constraint == "auto":
            constraint = None if data.group is None else "demographic_parity"
        if constraint is None:
            return None
        if data.group is None:
            raise ValueError(
                f"constraint={constraint!r} needs sensitive_features in fit, and got none. Inside a "
                "search, cross-validation or ensemble they arrive only with metadata routing: call "
                "sklearn.set_config(enable_metadata_routing=True) and pass sensitive_features to the "
                "outer fit. In a pipeline without routing pass "
                "fairprunedclassifier__sensitive_features (the step's name, two underscores)."
            )
        return constraint

    def _fit(
        self,
        data: FitData,
        held_out: FitData | None,
        classes: NDArray,
        constraint: str | UtilityParity | None,
        seed: int,
        device: torch.device,
    ) -> None:
        """Encode the rows, run the phases and store what they leave."""
        rows = data if held_out is None else concatenate(data, held_out)
        n_train, rng, tiny = len(data.y), np.random.RandomState(seed), is_tiny(data.X)
        targets = encode_targets(
            data,
            rows,
            classes,
            constraint,
            feature_names=getattr(self, "feature_names_in_", None),
            bound=self.difference_bound,
            with_rule=self.decision_rule,
            min_cell_size=self.min_cell_size,
            pos_label=self.pos_label,
            class_weight=self.class_weight,
        )
        split = share_rows(targets, n_train, tiny, self.validation_fraction, rng)
        if self.sparsity == "auto" and not split.disjoint:
            raise ValueError(
                f"sparsity='auto' compares accuracies on held-out rows, and {n_train} rows, few of them "
                "distinct, are too few to hold some out. Give more rows, X_val and y_val, or a sparsity."
            )
        if self.module is None:
            knots = choose_knots(data, self.n_bins, rng)
            dtype = resolve_dtype(self.dtype, knots, tiny)
            dense = built_in_network(
                knots,
                tuple(self.hidden_layer_sizes),
                targets.n_joint,
                self.activation,
                self.dropout,
                measure=self.sparsity_measure,
                prune_inputs=bool(self.prune_inputs),
            )
        else:
            dtype = torch.float64 if self.dtype == "float64" else torch.float32
            probe = torch.tensor(data.X[:: max(n_train // _PROBE_ROWS, 1)][:_PROBE_ROWS], dtype=dtype)
            # The outputs of a network are in the order of classes_, whatever the codes of the labels are.
            class_of = output_weights(targets)[targets.order].argmax(axis=0).tolist()
            dense = own_network(
                self.module,
                probe,
                class_of,
                len(classes),
                measure=self.sparsity_measure,
                prunes=self.sparsity != 0 and self.granularity == "unit",
                by_refit=self.criterion == "obs",
            )
            names = getattr(self, "feature_names_in_", range(self.n_features_in_))
            check_rows(dense.network, rows.X, n_train, probe, names)
        if self.granularity == "weight":
            probe = torch.tensor(data.X[:_PROBE_ROWS], dtype=next(dense.network.parameters()).dtype)
            dense = by_weights(dense, probe, self.sparsity_measure, self.weight_pattern)
        layout = dense.structure.layout
        budget = None if self.sparsity == "auto" else layout.budget(float(self.sparsity))
        tensors = Rows(
            torch.tensor(rows.X, dtype=dtype, device=device),
            torch.tensor(targets.joint, device=device),
            torch.tensor(targets.weight / targets.weight[:n_train].mean(), dtype=dtype, device=device),
            torch.arange(len(rows.y), device=device),
        )
        recipe = self._recipe()
        batch_size, max_epochs = resolve_lengths(n_train, tiny, recipe.batch_size, recipe.max_epochs)
        plan = make_plan(max_epochs, self.criterion, self.order, self.constrain, self.granularity)
        runner = PhaseRunner(
            batch_size=batch_size,
            lr=recipe.lr,
            n_iter_no_change=self.n_iter_no_change,
            generator=torch.Generator().manual_seed(seed),
            optimizer=recipe.optimizer,
            optimizer_params=recipe.optimizer_params,
            callbacks=recipe.callbacks,
            progress=ProgressBar(plan.n_epochs if budget is not None else None) if self.verbose else None,
        )
        trainer = self._make_trainer(Levels.from_split(tensors, split), runner, plan, targets, split, seed)
        try:
            network = dense.network.to(device, dtype)
            trials: list[Trial] = []
            if budget is not None:
                outcome = trainer.fit(network, dense.structure, budget)
            else:
                least = layout.resized([1] * len(layout.widths)).cost()
                budgets = geometric_budgets(layout.cost(), least)
                outcome, trials = trainer.fit_smallest(
                    network, dense.structure, budgets, self.max_accuracy_drop
                )
        finally:
            if runner.progress is not None:
                runner.progress.bar.close()
        self.classes_ = classes
        self._example = None if self.module is None else choose_example(data.X)
        self.constraint_ = None if targets.task is None else targets.task.constraint.name
        self.history_ = pd.DataFrame(runner.history)
        self.n_iter_ = len(self.history_)
        self._store_network(outcome, dense, targets)
        self.sparsity_path_ = sparsity_path(trials, layout) if trials else None
        self._store_fairness(outcome, targets, split)
        self._warn(outcome, targets, split, trials)

    def _recipe(self) -> Recipe:
        """Return how the network is trained."""
        if isinstance(self.module, NeuralNet):
            return take_over(self.module)
        params = {"weight_decay": self.weight_decay, "fused": True}
        return Recipe(self.lr, self.max_epochs, self.batch_size, torch.optim.AdamW, params)

    def _warn(self, outcome: Outcome, targets: Targets, split: LevelSplit, trials: list[Trial]) -> None:
        """Warn of what is wrong with the fit, once all of it is stored."""
        if sum(trial.within for trial in trials) == 1:
            warnings.warn(
                f"None of the {len(trials) - 1} smaller networks that were tried is within "
                f"max_accuracy_drop={self.max_accuracy_drop} of the dense one and the bound: the dense one "
                "is kept. sparsity_path_ shows them; allow a larger drop, or give more rows.",
                ConvergenceWarning,
                stacklevel=5,
            )
        problem = find_problem(outcome, targets, self.difference_bound, self.n_iter_, split)
        if problem is not None:
            warnings.warn(problem, ConvergenceWarning, stacklevel=5)

    def _make_trainer(
        self,
        levels: Levels,
        runner: PhaseRunner,
        plan: Plan,
        targets: Targets,
        split: LevelSplit,
        seed: int,
    ) -> Trainer:
        """Put the parts of a fit together."""
        lagrangian = Lagrangian(
            task=targets.task,
            upper=levels.upper,
            constrained=plan.constrained,
            strength=self.constraint_strength,
            temperature=self.surrogate_temperature,
            surrogate=self.surrogate,
        )
        pruner = Pruner(
            levels=levels,
            runner=runner,
            plan=plan,
            lagrangian=lagrangian,
            criterion=self.criterion,
            n_groups=1 if targets.task is None else targets.task.n_groups,
            hypergradient=self.hypergradient,
            damping=self.hypergradient_damping,
            schedule=gate_schedule(self.sparsity_schedule, self.gate_temperature),
        )
        teacher = (self.distill, seed)
        return Trainer(
            *(levels, split.rule_fold, runner, plan, lagrangian, pruner, *teacher, self.attribute_aware)
        )

    def _store_network(self, outcome: Outcome, dense: DenseNetwork, targets: Targets) -> None:
        """Set the attributes that describe the network."""
        network, rule, frontier = outcome.network.cpu(), outcome.rule, outcome.frontier
        dtype = next(network.parameters()).dtype

        # The rows of a last layer, the rule's or the network's own, are in the order of classes_.
        def layer(weights: NDArray[np.float64]) -> torch.Tensor:
            return torch.tensor(weights[targets.order], dtype=dtype)

        own = output_weights(targets)
        self._own_weights = own[targets.order]
        weights = own if rule is None else rule.rule.output_weights()
        rules: tuple[torch.Tensor, ...] = ()
        if frontier is not None:
            layers = [layer(rule.fit.rule.output_weights()) for rule in frontier.rules]
            rules = (torch.tensor(frontier.bounds, dtype=dtype), torch.stack(layers))
        self.module_ = DecisionNetwork(network, layer(weights), *rules).eval()
        self.module_.requires_grad_(False)
        self.dense_module_ = None
        if outcome.dense is not None:
            self.dense_module_ = DecisionNetwork(outcome.dense.cpu(), layer(own)).eval().requires_grad_(False)
        self._dense_shapes = self._example_joint = None
        if self.module is not None:
            self._example_joint = self.module_.joint_proba(self.example_rows()).numpy()
            whole = dense.network.get_submodule("module").named_parameters()
            self._dense_shapes = {name: tuple(parameter.shape) for name, parameter in whole}
        layout = dense.structure.layout
        prunes_inputs = isinstance(layout, Chain) and layout.prune_inputs
        self.masks_ = outcome.masks[1:] if prunes_inputs else outcome.masks
        names = getattr(self, "feature_names_in_", np.arange(self.n_features_in_))
        self._unread = unread_columns(network, self.n_features_in_)
        self.dropped_columns_ = [names[position] for position in self._unread]
        small = layout.resized([int(mask.sum()) for mask in outcome.masks])
        self.sparsity_ = 1 - small.cost() / layout.cost() if layout.cost() else 0.0
        if isinstance(layout, WeightLayout):
            assert isinstance(small, WeightLayout)
            self.pruning_report_ = weight_report(dense.network, layout, small)
        elif isinstance(layout, Chain):
            assert isinstance(small, Chain)
            self.pruning_report_ = pruning_report(layout, small)
        else:
            assert isinstance(layout, NetworkLayout)
            assert isinstance(small, NetworkLayout)
            inner = dense.network.get_submodule("module")
            names_of_layers = [layer.name for layer in dense.structure.layers]
            self.pruning_report_ = network_report(inner, layout, small, names_of_layers, dense.left_out)

    def _store_fairness(self, outcome: Outcome, targets: Targets, split: LevelSplit) -> None:
        """Set the attributes that describe the constraint."""
        self.groups_ = targets.group_labels
        self.bound_ = None
        self.multipliers_ = None
        self.validation_gap_ = None
        self.event_gaps_ = None
        self.frontier_ = None
        self._frontier, self._aware = outcome.frontier, None
        task = targets.task
        if task is not None and outcome.rule is not None:
            self._events = task.constraint.events
            # On which rows the rules are measured that carry over from the copies, and the others.
            how = (split, task.with_rule, self.sparsity == "auto")
            self._rows = {carried: describe_rows(*how, carried) for carried in (True, False)}
            self._describe(task.bound, outcome.rule.multipliers, outcome.event_gaps, outcome.strayed is None)
        if outcome.frontier is not None:
            self.frontier_ = frontier_table(outcome.frontier)
        if outcome.aware is not None:
            self._aware = AwareRules(outcome.aware, targets.group_codes, targets.order)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
