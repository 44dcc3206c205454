"""The estimator: its parameters, what a fit checks first, and its seed."""

import warnings
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import torch
from fairlearn.reductions import Moment, UtilityParity
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags, check_random_state
from sklearn.utils._param_validation import Hidden, Interval, StrOptions
from skorch import NeuralNet

from skfairprune._assembly import run_fit
from skfairprune._data import check_fit_data, check_held_out_data, find_classes
from skfairprune._export import ExportMixin
from skfairprune._parameters import GRANULARITIES, check_parameters, parameter_defaults, resolve_device
from skfairprune._problems import find_problems
from skfairprune._reproducible import plain_modes, reproducible
from skfairprune._targets import resolve_constraint
from skfairprune.constraints import CONSTRAINTS
from skfairprune.modules import ACTIVATIONS
from skfairprune.networks.template import name_of
from skfairprune.pruning.budget import MEASURES
from skfairprune.pruning.criteria import CRITERIA
from skfairprune.training.distillation import TEACHERS
from skfairprune.training.hypergradient import HYPERGRADIENTS
from skfairprune.training.objective import SURROGATES
from skfairprune.training.plan import CONSTRAIN, ORDERS
from skfairprune.training.schedules import REMOVALS

__all__ = ["FairPrunedClassifier"]


class FairPrunedClassifier(ExportMixin, ClassifierMixin, BaseEstimator):
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
        shape ``(n_samples, n_features_in_)``, as they are given to `fit`, in `dtype`, to class scores of
        shape (n_samples, n_classes), or (n_samples,) or (n_samples, 1) of two classes: logits, or their
        softmax, logarithm of the softmax or sigmoid. A ``torch.nn.Module`` is a template: a copy of it is
        trained, from the weights that it has. A callable ``(n_features_in_, n_outputs) -> nn.Module``, such
        as a class, makes one with the outputs asked for. Of an unfitted skorch ``NeuralNet`` the module,
        optimizer, lr, max_epochs, batch_size, callbacks and iterator_train are taken over.

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
        Whether encoded inputs (bins of a column) are removed, too, where that loses least for what it frees,
        and, with `criterion` "bilevel", whole columns that held-out rows do not need. A column without any
        bin is not read any more. Not with ``sparsity_measure="units"``, nor with criteria
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
        corrected in the same way, the small one may be, in [0, 1). Its gap may be above the bound, or above
        the dense network's gap, by a standard error at most. Sizes in equal ratios are bisected, so that some
        four to six networks are trained; ``sparsity_path_`` shows them.

    criterion : str, default="bilevel"
        What chooses the units that stay. "bilevel" trains gates under the constraint. The others are
        baselines: the published scores "magnitude", "fpgm", "snip", "taylor", "fairgrape", "fairprune" and
        "obs" (see :mod:`skfairprune.pruning.criteria`), "lottery" (magnitude in rounds, going back to the
        first weights after each: Frankle and Carbin, 2019) and "random". Epochs that a criterion does not
        need go to the fine-tuning.

    order : {"joint", "prune_then_fair", "fair_then_prune"}, default="joint"
        Whether the constraint enters the training while units are removed, in a last phase after the
        fine-tuning, or in the dense phase alone: the two orders that arXiv 2312.10181 compares with.

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
        is blind to (six models, on half of the rows each).

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

    n_iter_no_change : int or None, default=None
        The epochs without a better held-out loss after which the dense phase and the fine-tuning stop. With
        None they never stop early: while the learning rate is high losses rise, and where it ends they are
        often least. In either case the weights are those of the epoch of least held-out loss. Where the
        network is trained to the bound itself (no rule, or rows too few for one), losses of different epochs
        do not compare: nothing stops early, and the epoch of most accuracy less a price on the gap stays.
        Either is judged, and kept, of a network of your own averaged over about an epoch. The dense phase of
        ``order="fair_then_prune"`` keeps its last weights.

    validation_fraction : float, default=0.5
        The share in (0, 1) of the training rows that the weights do not see before the fine-tuning: the
        gates, the multipliers, the choice of the epoch and the held-out figures read them. The fine-tuning
        and the rule are on all rows. Not used when `X_val` is given, nor in an unconstrained fit on at most
        200 distinct rows, of no more than 2,000, where all rows serve both levels and no epoch is chosen.

    class_weight : dict, "balanced" or None, default=None
        Weights of the classes in the loss. They do not count in the constraint's rates.

    dtype : {"auto", "float32", "float64"}, default="auto"
        The precision. "auto" is float64 with at most 200 distinct rows (of no more than 2,000), and where
        float32 could not tell a column's knots apart; else float32. For a `module` it is float32, with a
        warning where that cannot tell a column's values apart.

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

    feature_names_in_ : ndarray of shape (`n_features_in_`,)
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
        widths (units of the prunable layers), parameters, held-out accuracy (weighted by `class_weight`,
        too), accuracy_drop and drop_standard_error (both against the dense network, on the same rows), gap
        and gap_standard_error, within (what is allowed), missed (what is not: "accuracy", "gap",
        "variation" where more than half of the rows that the dense network decides otherwise than most are
        decided as most), chosen.

    pruning_report_ : DataFrame
        For each layer and in total: units, parameters and MACs before and after.

    constraint_ : str or None
        The constraint in force.

    groups_ : list or None
        The labels of the groups under the constraint; with several sensitive columns, tuples.

    bound_ : float or None
        The bound in force: `difference_bound`, or what :meth:`set_bound` set.

    frontier_ : DataFrame or None
        What :meth:`set_bound` can choose from: one row for each bound, with the number of its rule (rows of
        one number have the same; 0 leaves the network's own decisions), and on held-out rows the gap,
        gap_standard_error, gap_upper (as `upper` of ``validation_gap_``), accuracy,
        accuracy_standard_error, balanced_accuracy (the mean over the classes of the share of a class that is
        decided rightly: half, with two, where the rare one is never found) and agreement, the share of the
        rows on which the network decides alike by the rule and by those fitted without a fold, which the
        figures are of; and odds: how many times as much as others an error on the commonest label counts in
        the rule, more than once under equalized odds only (docs/method.md, "Rows left to noise").

    multipliers_ : DataFrame or None
        The multipliers behind the decision rule, in accuracy per unit of rate; events by groups. 0 where the
        constraint costs nothing, and for a group that is left out of an event. In that accuracy errors on the
        commonest label may count more: `odds` in `frontier_`. None without a rule.

    validation_gap_ : ValidationGap or None
        The constraint's largest gap on held-out rows, its standard error, the upper limit over all pairs of
        groups and all events, and which rows these were.

    event_gaps_ : DataFrame or None
        The gap of each event there, its standard_error, and the groups of the lowest and the highest rate.

    group_rates_ : DataFrame or None
        The held-out rate of each cell, its standard_error and n_samples, the rows behind it, one row for each
        event and group; covered tells whether the constraint holds for it: not for groups of too few rows,
        which are left out, or take no part in the rule, as a warning says. Groups that are left out of all
        events, for having fewer than `min_cell_size` rows, share a row of each event, "left out: ...". None
        also if the model was loaded from a file of a format before 5.

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
        "sample_weight_val": True,
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
        n_iter_no_change: int | None = None,
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

    def set_params(self, **params: Any) -> Self:
        """Set parameters, those of a skorch net in `module` too, as scikit-learn does.

        Parameters
        ----------
        **params : dict
            By name; ``module__name`` is the parameter of a skorch net.

        Returns
        -------
        FairPrunedClassifier
            This estimator.

        Raises
        ------
        ValueError
            If there is no such parameter, or `module` is a network or a function, which has none.
        """
        module = params.get("module", getattr(self, "module", None))
        nested = [name for name in params if name.startswith("module__")]
        if nested and (isinstance(module, type) or not hasattr(module, "set_params")):
            told = "None" if module is None else name_of(module)
            raise ValueError(
                f"{nested[0]} is for a skorch net, and module is {told}, which has no parameters to set. "
                "Give module one function for each value, such as functools.partial(Network, width=16), or a "
                "skorch net, whose network has the parameter module__module__width."
            )
        return super().set_params(**params)

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
        sample_weight_val: ArrayLike | None = None,
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
            Held-out rows for the upper level, the rule and the choice of the epoch, in place of a part of
            `X`. The weights never learn from them.
        sample_weight_val : array-like, default=None
            Non-negative weights of the held-out rows, needed with them where `sample_weight` is given: the
            rule and the gap that is reported are of these rows.
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
            If the bound is not met on held-out data, all held-out rows get the same class, the bound leaves
            little accuracy, the figures are of other decisions, or ``sparsity="auto"`` finds no smaller
            network, or none that the held-out rows can tell.
        UserWarning
            If cells have too few rows for the constraint, a bound is asked for without groups, or a network
            of one's own gets float32 that cannot tell a column's values apart.
        """
        check_parameters(self)
        device = resolve_device(self.device)
        self._forget()
        data = check_fit_data(self, X, y, sample_weight, sensitive_features, control_features)
        classes = find_classes(data.y)
        usual_bound = parameter_defaults(type(self))["difference_bound"]
        constraint = resolve_constraint(
            self.constraint, data, self.difference_bound, usual_bound, self.attribute_aware
        )
        held_out = check_held_out_data(
            self,
            data,
            constraint is not None,
            X_val,
            y_val,
            sample_weight_val,
            sensitive_features_val,
            control_features_val,
        )
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        with plain_modes(), torch.inference_mode(False), torch.enable_grad(), reproducible(seed, device):
            result = run_fit(self, data, held_out, classes, constraint, seed, device)
            self._store(result, data.X, classes)
        for problem in find_problems(result, self.difference_bound, self.max_accuracy_drop):
            warnings.warn(problem, ConvergenceWarning, stacklevel=3)
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
