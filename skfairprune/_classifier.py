"""The estimator: parameters, validation of the data, one fit, and prediction."""

import warnings
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state, compute_class_weight
from sklearn.utils._param_validation import Hidden, Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from skfairprune._cells import cover_cells
from skfairprune._validation import encode_sensitive
from skfairprune.constraints import CONSTRAINTS, Gap, get_constraint
from skfairprune.decision import DecisionRule
from skfairprune.modules import (
    ACTIVATIONS,
    DecisionNetwork,
    PiecewiseLinearEncoding,
    TabularNetwork,
    find_knots,
)
from skfairprune.pruning.budget import Chain, parameter_budget
from skfairprune.pruning.report import pruning_report
from skfairprune.training.batches import Rows
from skfairprune.training.fairtask import FairTask
from skfairprune.training.progress import ProgressBar
from skfairprune.training.schedules import share_epochs
from skfairprune.training.splits import is_tiny, stratified_folds, stratified_part
from skfairprune.training.trainer import Outcome, Trainer

__all__ = ["FairPrunedClassifier", "ValidationGap"]

_N_FOLDS = 4
_KNOT_ROWS = 200_000
_PREDICT_ROWS = 4096  # a batch whose encoding stays in the cache


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
        The share in [0, 1) of the dense network's trainable parameters to remove, by whole hidden units.
        The smallest removal that reaches it is taken. 0 gives the dense network.

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

    weight_decay : float, default=0.01
        The weight decay of AdamW, at least 0.

    max_epochs : int or "auto", default="auto"
        The epochs of all phases together, at least 3. "auto" is 30, or on small data as many as make
        about 1,000 updates, up to 300.

    batch_size : int or "auto", default="auto"
        The rows of a batch. "auto" is a sixty-fourth of the data, from 32 to 512; with at most 200
        distinct rows, all of them.

    n_iter_no_change : int or None, default=8
        The epochs without a better held-out loss after which the dense phase and the fine-tuning stop;
        they then return to their best epoch. None never stops early.

    validation_fraction : float, default=0.2
        The share in (0, 1) of the training rows that the weights do not see before the fine-tuning: the
        gates, the multipliers and early stopping read them. Not used when `X_val` is given, nor with at
        most 200 distinct rows, where all rows serve both levels and nothing stops early.

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

    sparsity_ : float
        The share of the parameters removed.

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
        One row for each epoch of each phase: phase, epoch, train_loss, valid_loss, parameters, seconds.

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

    _parameter_constraints: dict[str, list[Any]] = {
        "hidden_layer_sizes": [tuple, list],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "n_bins": [Interval(Integral, 1, None, closed="left")],
        "sparsity": [Interval(Real, 0, 1, closed="left")],
        "constraint": [StrOptions({"auto", *CONSTRAINTS}), None],
        "difference_bound": [Interval(Real, 0, 1, closed="both")],
        "min_cell_size": [Interval(Integral, 1, None, closed="left")],
        "pos_label": ["no_validation"],
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
        constraint: str | None = "auto",
        difference_bound: float = 0.05,
        min_cell_size: int = 30,
        pos_label: Any = None,
        lr: float = 5e-3,
        weight_decay: float = 1e-2,
        max_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        n_iter_no_change: int | None = 8,
        validation_fraction: float = 0.2,
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
