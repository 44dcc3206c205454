"""The estimator: parameters, validation of the data, one fit, and prediction."""

import warnings
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, compute_class_weight
from sklearn.utils._param_validation import (
    Hidden,
    Interval,
    InvalidParameterError,
    StrOptions,
)
from sklearn.utils.validation import check_is_fitted

from skfairprune._cells import cover_cells, require_held_out_cells
from skfairprune._data import (
    FitData,
    check_fit_data,
    check_held_out_data,
    check_inputs,
    concatenate,
    encode_classes,
)
from skfairprune.constraints import CONSTRAINTS, get_constraint
from skfairprune.modules import (
    ACTIVATIONS,
    DecisionNetwork,
    PiecewiseLinearEncoding,
    TabularNetwork,
    find_knots,
)
from skfairprune.pruning.budget import MEASURES, Chain
from skfairprune.pruning.report import pruning_report
from skfairprune.training.batches import Rows
from skfairprune.training.fairtask import FairTask
from skfairprune.training.progress import ProgressBar
from skfairprune.training.schedules import Epochs, share_epochs
from skfairprune.training.splits import LevelSplit, is_tiny, split_levels
from skfairprune.training.trainer import Outcome, Trainer

__all__ = ["FairPrunedClassifier", "ValidationGap"]

_N_FOLDS = 2
_UPDATES = 1000  # of the weights, that max_epochs="auto" makes at least
_KNOT_ROWS = 200_000  # quantiles of more rows cost time and move no knot
_PREDICT_ROWS = 4096  # rows a batch in predict: their encoding stays in the cache


class ValidationGap(NamedTuple):
    """The gap of a constraint on rows that neither the weights nor the rule behind it saw.

    Attributes
    ----------
    value : float
        Largest minus smallest rate between groups, the largest over the events, in [0, 1].
    standard_error : float
        Its sampling standard error.
    event : str
        The event with the largest gap.
    lowest, highest : object
        The groups with the smallest and the largest rate there.
    rows : str
        Which rows it was measured on, and what saw them.
    """

    value: float
    standard_error: float
    event: str
    lowest: Any
    highest: Any
    rows: str


class _Targets(NamedTuple):
    """What the network learns: joint classes (label, group), and how they map to labels and groups."""

    joint: NDArray[np.intp]
    n_joint: int
    weight: NDArray[np.float64]
    order: NDArray[np.intp]
    task: FairTask | None
    group_labels: list[Any] | None


class FairPrunedClassifier(ClassifierMixin, BaseEstimator):
    """A small neural classifier for tabular data whose group gaps keep within a bound.

    One fit trains a network, prunes its hidden units by bi-level optimisation with a group-fairness
    constraint in both levels, fine-tunes the physically small network, and merges into it a group-blind
    decision rule that meets the bound. The result is deterministic and needs no sensitive attribute to
    predict. The method follows Dai et al., "Integrating Fairness and Model Pruning Through Bi-level
    Optimization" (arXiv 2312.10181); what differs, and why, is in the documentation.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int, default=(256, 256)
        The units of each hidden layer of the dense network, each at least 1.

    activation : {"relu", "gelu", "silu", "tanh"}, default="relu"
        The activation of the hidden units.

    dropout : float, default=0.0
        The probability in [0, 1) with which a hidden unit is dropped in training.

    n_bins : int, default=48
        The largest number of bins of a column's piecewise-linear encoding.

    sparsity : float, default=0.9
        The share in [0, 1) of the dense network to remove, by whole units, counted by `sparsity_measure`.
        The smallest removal that reaches it is taken. 0 gives the dense network.

    sparsity_measure : {"parameters", "units", "macs"}, default="parameters"
        What is counted, over all layers together: trainable parameters (weights and biases), hidden units,
        or MACs (multiplications of one row in the linear layers).

    prune_inputs : bool, default=False
        Whether encoded inputs (bins of a column) are removed, too, where that loses least for what it frees.
        A column without any is not read any more. Not with ``sparsity_measure="units"``.

    constraint : str or None, default="auto"
        One of "demographic_parity", "equalized_odds", "true_positive_rate_parity",
        "false_positive_rate_parity", "error_rate_parity"; None trains unconstrained; "auto" is
        demographic parity when `sensitive_features` are given to `fit`, else None.

    difference_bound : float, default=0.05
        The largest difference in [0, 1] allowed between any two groups' rates: the bound on fairlearn's
        ``*_difference`` metrics (for equalized odds, the larger of the two gaps).

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
        The epochs of all phases together, at least 3. "auto" is 20, or on small data as many as make
        about 1,000 updates, up to 200.

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

    masks_ : list of ndarray of shape (n_units,) of bool
        For each hidden layer of the dense network, which units stayed.

    dropped_columns_ : list
        The columns of `X` that are not read: constant ones, and with `prune_inputs` those of which no
        encoded input stayed. Their names, or positions where `X` had none.

    sparsity_ : float
        The share of the dense network removed, by `sparsity_measure`.

    pruning_report_ : DataFrame
        For each layer and in total: units, parameters and MACs before and after.

    constraint_ : str or None
        The constraint in force.

    groups_ : list or None
        The labels of the groups under the constraint; with several sensitive columns, tuples.

    multipliers_ : DataFrame or None
        The constraint's multipliers, in accuracy per unit of rate; events by groups.

    validation_gap_ : ValidationGap or None
        The constraint's gap on unseen rows, its standard error, and which rows these were.

    history_ : DataFrame
        One row for each epoch, with the columns phase ("dense", "bilevel", "fine-tune"), epoch (within the
        phase), train_loss, valid_loss (NaN where nothing is held out) and seconds. In the fine-tuning
        train_loss is the sum over the network and its copies.

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
        "hidden_layer_sizes": [tuple, list],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "n_bins": [Interval(Integral, 1, None, closed="left")],
        "sparsity": [Interval(Real, 0, 1, closed="left")],
        "sparsity_measure": [StrOptions(set(MEASURES))],
        "prune_inputs": ["boolean"],
        "constraint": [StrOptions({"auto", *CONSTRAINTS}), None],
        "difference_bound": [Interval(Real, 0, 1, closed="both")],
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
        "X_val": True,
        "y_val": True,
        "sensitive_features_val": True,
    }

    def __init__(
        self,
        hidden_layer_sizes: tuple[int, ...] = (256, 256),
        *,
        activation: str = "relu",
        dropout: float = 0.0,
        n_bins: int = 48,
        sparsity: float = 0.9,
        sparsity_measure: str = "parameters",
        prune_inputs: bool = False,
        constraint: str | None = "auto",
        difference_bound: float = 0.05,
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
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.n_bins = n_bins
        self.sparsity = sparsity
        self.sparsity_measure = sparsity_measure
        self.prune_inputs = prune_inputs
        self.constraint = constraint
        self.difference_bound = difference_bound
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
        X_val: ArrayLike | None = None,
        y_val: ArrayLike | None = None,
        sensitive_features_val: Any = None,
    ) -> "FairPrunedClassifier":
        """Train, prune and fit the decision rule.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Finite numbers. A sparse matrix is made dense.
        y : array-like of shape (n_samples,)
            Class labels of any type, at least two classes.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights, in the loss and in the constraint's rates.
        sensitive_features : list, array, Series, DataFrame or dict of columns, default=None
            The group of each row; several columns are intersected. Not needed to predict, and no value of
            a single row is kept.
        X_val, y_val : array-like, default=None
            Held-out rows for the upper level, the rule and early stopping, in place of a part of `X`. The
            weights never learn from them.
        sensitive_features_val : like sensitive_features, default=None
            The groups of the held-out rows, needed with them under a constraint.

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
            If the bound is not met on held-out data.
        """
        _check_sizes(self.hidden_layer_sizes)
        device = _resolve_device(self.device)
        data = check_fit_data(self, X, y, sample_weight, sensitive_features)
        classes = np.unique(data.y)
        if len(classes) < 2:
            raise ValueError(
                f"y has one class only, {classes.tolist()[0]!r} (rows of weight 0 do not count); "
                "a classifier needs at least two classes."
            )
        constraint = self._resolve_constraint(data, len(classes))
        held_out = check_held_out_data(
            self,
            X_val,
            y_val,
            sensitive_features_val,
            classes,
            data.group_labels if constraint else (),
        )
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            self._fit(data, held_out, classes, constraint, seed, device)
        return self

    def _resolve_constraint(self, data: FitData, n_classes: int) -> str | None:
        """Return the name of the constraint that is in force on these data."""
        constraint = self.constraint
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
        if n_classes > 2:
            raise ValueError(
                f"{constraint} is for two classes, and y has {n_classes}. Pass constraint=None "
                "to train unconstrained."
            )
        return constraint

    def _fit(
        self,
        data: FitData,
        held_out: FitData | None,
        classes: NDArray,
        constraint: str | None,
        seed: int,
        device: torch.device,
    ) -> None:
        """Encode the rows, run the phases and store what they leave."""
        rows = data if held_out is None else concatenate(data, held_out)
        n_train, rng, tiny = len(data.y), np.random.RandomState(seed), is_tiny(data.X)
        targets = self._encode_targets(data, rows, classes, constraint)
        split = self._split(targets, n_train, tiny, rng)
        knots = _choose_knots(data, self.n_bins, rng)
        dtype = _resolve_dtype(self.dtype, knots, tiny)
        encoding = PiecewiseLinearEncoding(knots)
        sizes = tuple(self.hidden_layer_sizes)
        dense = Chain(
            encoding.n_outputs, sizes, targets.n_joint, self.sparsity_measure, bool(self.prune_inputs)
        )
        budget = dense.budget(self.sparsity)
        network = TabularNetwork(encoding, sizes, targets.n_joint, self.activation, self.dropout)
        tensors = Rows(
            torch.tensor(rows.X, dtype=dtype, device=device),
            torch.tensor(targets.joint, device=device),
            torch.tensor(targets.weight / targets.weight[:n_train].mean(), dtype=dtype, device=device),
            torch.arange(len(rows.y), device=device),
        )
        lower, upper, final = (
            tensors.take(torch.from_numpy(part).to(device))
            for part in (split.lower, split.upper, split.final)
        )
        batch_size, epochs = self._resolve_lengths(n_train, tiny)
        trainer = Trainer(
            lower=lower,
            upper=upper,
            final=final,
            held_out=upper if split.disjoint else None,
            fold=torch.from_numpy(split.fold).to(device),
            n_folds=split.n_folds,
            rule_fold=split.rule_fold,
            task=targets.task,
            epochs=epochs,
            batch_size=batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            n_iter_no_change=self.n_iter_no_change,
            generator=torch.Generator().manual_seed(seed),
            progress=ProgressBar(epochs.total) if self.verbose else None,
        )
        try:
            outcome = trainer.fit(network.to(device, dtype), dense, budget)
        finally:
            if trainer.progress is not None:
                trainer.progress.bar.close()
        self.classes_, self.constraint_ = classes, constraint
        self.history_ = pd.DataFrame(trainer.history)
        self.n_iter_ = len(self.history_)
        self._store_network(outcome, dense, targets)
        self._store_fairness(outcome, targets, split)

    def _encode_targets(
        self, data: FitData, rows: FitData, classes: NDArray, constraint: str | None
    ) -> "_Targets":
        """Encode labels and groups as the joint classes that the network learns."""
        codes, order = encode_classes(rows.y, classes, self.pos_label)
        class_weight = self._resolve_class_weight(data, classes)[np.argsort(order)]
        weight = rows.weight * class_weight[codes]
        if constraint is None or data.group is None or rows.group is None:
            return _Targets(codes, len(classes), weight, order, None, None)
        terms, n_train = get_constraint(constraint), len(data.y)
        cells = cover_cells(terms, codes[:n_train], data.group, data.group_labels, self.min_cell_size)
        group, bound = cells.recode[rows.group], float(self.difference_bound)
        task = FairTask(terms, cells.included, bound, codes, group, rows.weight, class_weight)
        joint, n_joint = codes * task.n_groups + group, 2 * task.n_groups
        return _Targets(joint, n_joint, weight, order, task, cells.labels)

    def _resolve_class_weight(self, data: FitData, classes: NDArray) -> NDArray[np.float64]:
        """Return the weight of each class in the loss."""
        given = self.class_weight
        if isinstance(given, dict):
            unknown = [label for label in given if label not in classes.tolist()]
            if unknown:
                raise ValueError(
                    f"class_weight names {unknown}, which are not classes of y: {classes.tolist()}."
                )
            wrong = {label: value for label, value in given.items() if not 0 < value < np.inf}
            if wrong:
                raise ValueError(f"class_weight must be positive and finite; got {wrong}.")
        return compute_class_weight(given, classes=classes, y=data.y, sample_weight=data.weight)

    def _split(self, targets: "_Targets", n_train: int, tiny: bool, rng: np.random.RandomState) -> LevelSplit:
        """Share the rows between the levels."""
        fraction = None if tiny and targets.task is None else self.validation_fraction
        split = split_levels(targets.joint, n_train, fraction, _N_FOLDS, rng)
        if min(len(split.lower), len(split.upper)) == 0:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} of {n_train} rows leaves a level without "
                "rows; choose a fraction nearer .5 or give more rows."
            )
        task, labels = targets.task, targets.group_labels
        if task is not None and labels is not None:
            upper = split.upper
            source = f"The upper part (validation_fraction={self.validation_fraction})"
            if not split.n_folds:
                source = "The held-out part (y_val, sensitive_features_val)"
            require_held_out_cells(
                task.constraint, task.y[upper], task.group[upper], task.included, labels, source
            )
        return split

    def _resolve_lengths(self, n_train: int, tiny: bool) -> tuple[int, Epochs]:
        """Return the batch size and the epochs of the phases."""
        batch_size, max_epochs = self.batch_size, self.max_epochs
        if batch_size == "auto":
            batch_size = n_train if tiny else min(max(n_train // 64, 32), 512)
        if max_epochs == "auto":
            max_epochs = min(max(20, _UPDATES * int(batch_size) // n_train), 200)
        return int(batch_size), share_epochs(int(max_epochs))

    def _store_network(self, outcome: Outcome, dense: Chain, targets: "_Targets") -> None:
        """Set the attributes that describe the network."""
        weights = np.eye(len(targets.order))
        if outcome.rule is not None:
            weights = outcome.rule.rule.output_weights()
        network = outcome.network.cpu()
        dtype = next(network.parameters()).dtype
        # The rows of the last layer, and the network's own labels, are in the order of classes_.
        self._order = targets.order
        self.module_ = DecisionNetwork(network, torch.tensor(weights[self._order], dtype=dtype)).eval()
        self.module_.requires_grad_(False)
        self.masks_ = outcome.masks[1:] if dense.prune_inputs else outcome.masks
        names = getattr(self, "feature_names_in_", np.arange(self.n_features_in_))
        encoding = network.get_submodule("encoding")
        assert isinstance(encoding, PiecewiseLinearEncoding)
        self.dropped_columns_ = np.delete(names, encoding.kept_columns).tolist()
        small = dense.resized([int(mask.sum()) for mask in outcome.masks])
        self.sparsity_ = 1 - small.cost() / dense.cost()
        self.pruning_report_ = pruning_report(dense, small)

    def _store_fairness(self, outcome: Outcome, targets: "_Targets", split: LevelSplit) -> None:
        """Set the attributes that describe the constraint, and warn if the bound is not met."""
        self.groups_, self.multipliers_, self.validation_gap_ = targets.group_labels, None, None
        task, rule, gap, labels = targets.task, outcome.rule, outcome.gap, targets.group_labels
        if task is None or rule is None or gap is None or labels is None:
            return
        events = task.constraint.events
        self.multipliers_ = pd.DataFrame(
            rule.multipliers[:, : len(labels)],
            index=pd.Index(events, name="event"),
            columns=pd.Index([str(label) for label in labels], name="group"),
        )
        if split.n_folds:
            rows = (
                f"{len(split.upper)} training rows, each decided by a network and a rule that did not see "
                "its fold; the choice of the units and early stopping saw them"
            )
        else:
            rows = (
                f"{len(split.upper)} rows of X_val, each decided by a rule that did not see its fold; the "
                "weights did not see them, the choice of the units and early stopping did"
            )
        where = (events[gap.event], labels[gap.lowest], labels[gap.highest])
        self.validation_gap_ = ValidationGap(gap.value, gap.standard_error, *where, rows)
        problem, strayed = None, outcome.not_carried
        if not gap.value - gap.standard_error <= self.difference_bound:
            problem = (
                f"{self.constraint_} is not within difference_bound={self.difference_bound}: on held-out "
                f"rows the gap is {gap.value:.3f}, with a standard error of {gap.standard_error:.3f}, after "
                f"{self.n_iter_} epochs. Allow a larger bound, more epochs, or give more rows."
            )
        elif strayed is not None:
            problem = (
                "The copies behind validation_gap_ learned too differently from the network: with their rule "
                f"its gap would be {strayed.value:.3f}, with a standard error of "
                f"{strayed.standard_error:.3f}. The rule was fitted on the network's own scores of rows "
                "it has seen instead, and its gap on unseen rows may be larger. Train longer than "
                f"{self.n_iter_} epochs, or give more rows."
            )
        elif rule.constant:
            problem = (
                f"Only a constant decision keeps {self.constraint_} within "
                f"difference_bound={self.difference_bound} on the {len(split.upper)} held-out rows: all get "
                "the same class. Give more rows, or allow a larger bound."
            )
        if problem is not None:
            warnings.warn(problem, ConvergenceWarning, stacklevel=5)

    def _joint_proba(self, X: ArrayLike) -> Iterator[torch.Tensor]:
        """Yield the joint probabilities of rows, a batch at a time."""
        rows = check_inputs(self, X)
        dtype = self.module_.output_weights.dtype
        for start in range(0, len(rows), _PREDICT_ROWS):
            batch = torch.tensor(rows[start : start + _PREDICT_ROWS], dtype=dtype)
            with torch.inference_mode():
                yield torch.softmax(self.module_.network(batch).double(), dim=1)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.floating]:
        """Predict class probabilities, after the decision rule.

        Under a constraint these are the merged rule's outputs: their argmax is the decision, and they are
        not calibrated. :meth:`predict_uncorrected_proba` gives the network's own probabilities.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows; no sensitive feature is needed.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Probabilities in the order of ``classes_``.
        """
        check_is_fitted(self, "module_")
        weights = self.module_.output_weights.T.double()
        parts = [(joint @ weights).numpy() for joint in self._joint_proba(X)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

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
        parts = [
            joint.reshape(len(joint), len(self.classes_), -1).sum(dim=2).numpy()
            for joint in self._joint_proba(X)
        ]
        return np.concatenate(parts)[:, self._order]

    def decision_function(self, X: ArrayLike) -> NDArray[np.floating]:
        """Return the score whose sign or argmax is the decision.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            With two classes the probability of ``classes_[1]`` minus that of ``classes_[0]``, in [-1, 1];
            with more the probabilities.
        """
        proba = self.predict_proba(X)
        return proba[:, 1] - proba[:, 0] if len(self.classes_) == 2 else proba

    def predict(self, X: ArrayLike) -> NDArray:
        """Predict class labels: the classes of the largest probability.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows; no sensitive feature is needed.

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels from ``classes_``.
        """
        proba = self.predict_proba(X)
        return self.classes_[proba.argmax(axis=1)]

    def __sklearn_tags__(self):  # type: ignore[no-untyped-def]
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _check_sizes(sizes: Any) -> None:
    if not len(sizes) or not all(isinstance(size, Integral) and int(size) >= 1 for size in sizes):
        raise InvalidParameterError(
            "The 'hidden_layer_sizes' parameter of FairPrunedClassifier must hold at least one integer, "
            f"each at least 1. Got {sizes!r} instead."
        )


def _resolve_device(name: Any) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device={name!r} is not available here ({reason}); use 'auto', 'cpu' or an available GPU "
            "such as 'cuda:0'."
        ) from error
    return device


def _resolve_dtype(name: str, knots: list[NDArray[np.float64]], tiny: bool) -> torch.dtype:
    if name != "auto":
        return torch.float32 if name == "float32" else torch.float64
    # Lost in single precision: bins that are narrow beside their own values, and its range.
    fine = any(
        np.any(np.diff(k) < 1e-4 * np.abs(k[1:])) or not 1e-30 < np.ptp(k) < 1e30 for k in knots if len(k) > 1
    )
    return torch.float64 if tiny or fine else torch.float32


def _choose_knots(data: FitData, n_bins: int, rng: np.random.RandomState) -> list[NDArray[np.float64]]:
    X, weight = data.X, data.weight
    if len(X) > _KNOT_ROWS:
        rows = np.sort(rng.permutation(len(X))[:_KNOT_ROWS])
        X, weight = X[rows], weight[rows]
    knots = [find_knots(column, weight, n_bins) for column in X.T]
    if all(len(k) == 1 for k in knots):
        raise ValueError(
            f"Every one of the {len(knots)} columns of X is constant; at least one must vary to learn from."
        )
    return knots
