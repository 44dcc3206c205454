"""One fit put together and run: from parameters and checked rows to the trainer's outcome."""

from typing import Any, NamedTuple

import numpy as np
import torch
from fairlearn.reductions import UtilityParity
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from skorch import NeuralNet

from skfairprune._data import FitData, concatenate
from skfairprune._network import DenseNetwork, make_dense_network
from skfairprune._parameters import gate_schedule, resolve_lengths
from skfairprune._targets import Targets, encode_targets, share_rows
from skfairprune.networks.recipe import Recipe, take_over
from skfairprune.training.batches import Rows
from skfairprune.training.iterated import OwnIterator
from skfairprune.training.lagrangian import Lagrangian
from skfairprune.training.levels import Levels
from skfairprune.training.phases import PhaseRunner
from skfairprune.training.plan import Plan, make_plan
from skfairprune.training.progress import ProgressBar
from skfairprune.training.pruner import Pruner
from skfairprune.training.search import Trial, geometric_budgets
from skfairprune.training.splits import LevelSplit, is_tiny
from skfairprune.training.trainer import Outcome, Trainer

__all__ = ["Result", "run_fit"]


class Result(NamedTuple):
    """What a fit leaves, and what it started from.

    Attributes
    ----------
    targets : Targets
        What the network learned.
    split : LevelSplit
        Which rows each level read.
    plan : Plan
        The phases.
    dense : DenseNetwork
        The dense network; its weights have changed.
    outcome : Outcome
        The small network and its rules.
    trials : list of Trial
        With ``sparsity="auto"`` the sizes that were tried; else empty.
    history : list of dict
        One row for each epoch.
    """

    targets: Targets
    split: LevelSplit
    plan: Plan
    dense: DenseNetwork
    outcome: Outcome
    trials: list[Trial]
    history: list[dict[str, Any]]


def run_fit(
    params: BaseEstimator,
    data: FitData,
    held_out: FitData | None,
    classes: NDArray,
    constraint: str | UtilityParity | None,
    seed: int,
    device: torch.device,
) -> Result:
    """Put a fit together and run it.

    Weights are drawn from torch's generator, which is seeded by the caller.

    Parameters
    ----------
    params : BaseEstimator
        The FairPrunedClassifier, of which only parameters and the columns' names are read.
    data : FitData
        The training rows.
    held_out : FitData or None
        The held-out rows that were given.
    classes : ndarray of shape (n_classes,)
        The sorted classes.
    constraint : str, UtilityParity or None
        The constraint in force.
    seed : int
        Of the splits, the batches and the teacher.
    device : torch.device
        Where to train.

    Raises
    ------
    ValueError
        If the rows and the parameters do not go together, or training diverges.
    """
    rows = data if held_out is None else concatenate(data, held_out)
    n_train, rng, tiny = len(data.y), np.random.RandomState(seed), is_tiny(data.X)
    targets = encode_targets(
        data,
        rows,
        classes,
        constraint,
        feature_names=getattr(params, "feature_names_in_", None),
        bound=params.difference_bound,
        with_rule=params.decision_rule,
        min_cell_size=params.min_cell_size,
        pos_label=params.pos_label,
        class_weight=params.class_weight,
    )
    split = share_rows(targets, n_train, tiny, params.validation_fraction, rng)
    if params.sparsity == "auto" and not split.disjoint:
        raise ValueError(
            f"sparsity='auto' compares accuracies on held-out rows, and {n_train} rows, few of them "
            "distinct, are too few to hold some out. Give more rows, X_val and y_val, or a sparsity."
        )
    dense = make_dense_network(params, data, rows, targets, tiny, rng)
    budget = None if params.sparsity == "auto" else dense.structure.layout.budget(float(params.sparsity))
    parts = np.split(targets.weight, [n_train])
    weight = np.concatenate([part / part.mean() for part in parts if len(part)])
    tensors = Rows(
        torch.tensor(rows.X, dtype=dense.dtype, device=device),
        torch.tensor(targets.joint, device=device),
        torch.tensor(weight, dtype=dense.dtype, device=device),
        torch.arange(len(rows.y), device=device),
    )
    label = np.searchsorted(classes, rows.y)
    del rows  # with held-out rows a copy of X
    recipe = _recipe(params, device)
    levels = Levels.from_split(tensors, split)
    iterator = None
    if recipe.iterator is not None:
        iterator = OwnIterator(recipe.iterator, recipe.iterator_params, label)
    prunes = bool(dense.structure.layers)
    trainer = _make_trainer(params, recipe, iterator, levels, split, targets, n_train, tiny, seed, prunes)
    outcome, trials = _train(params, trainer, dense, budget, device)
    return Result(targets, split, trainer.plan, dense, outcome, trials, trainer.runner.history)


def _recipe(params: BaseEstimator, device: torch.device) -> Recipe:
    """Return how the network is trained: as a skorch net says, or by the parameters."""
    if isinstance(params.module, NeuralNet):
        return take_over(params.module, device)
    of_optimizer = {"weight_decay": params.weight_decay, "fused": True}
    return Recipe(params.lr, params.max_epochs, params.batch_size, torch.optim.AdamW, of_optimizer)


def _make_trainer(
    params: BaseEstimator,
    recipe: Recipe,
    iterator: OwnIterator | None,
    levels: Levels,
    split: LevelSplit,
    targets: Targets,
    n_train: int,
    tiny: bool,
    seed: int,
    prunes: bool,
) -> Trainer:
    """Make the trainer and its parts."""
    batch_size, max_epochs = resolve_lengths(n_train, tiny, recipe.batch_size, recipe.max_epochs)
    choices = (params.criterion, params.order, params.constrain, params.granularity)
    plan = make_plan(max_epochs, *choices, prunes)
    runner = PhaseRunner(
        batch_size=batch_size,
        lr=recipe.lr,
        n_iter_no_change=params.n_iter_no_change,
        averages=params.module is not None,
        generator=torch.Generator().manual_seed(seed),
        optimizer=recipe.optimizer,
        optimizer_params=recipe.optimizer_params,
        callbacks=recipe.callbacks,
        iterator=iterator,
    )
    lagrangian = Lagrangian(
        task=targets.task,
        upper=levels.upper,
        constrained=plan.constrained,
        strength=params.constraint_strength,
        temperature=params.surrogate_temperature,
        surrogate=params.surrogate,
    )
    pruner = Pruner(
        levels=levels,
        runner=runner,
        plan=plan,
        lagrangian=lagrangian,
        criterion=params.criterion,
        head_labels=targets.head_labels,
        n_groups=1 if targets.task is None else targets.task.n_groups,
        hypergradient=params.hypergradient,
        damping=params.hypergradient_damping,
        schedule=gate_schedule(params.sparsity_schedule, params.gate_temperature),
    )
    return Trainer(
        levels=levels,
        rule_fold=split.rule_fold,
        runner=runner,
        plan=plan,
        lagrangian=lagrangian,
        pruner=pruner,
        distill=params.distill,
        seed=seed,
        attribute_aware=params.attribute_aware,
    )


def _train(
    params: BaseEstimator, trainer: Trainer, dense: DenseNetwork, budget: int | None, device: torch.device
) -> tuple[Outcome, list[Trial]]:
    """Train to the budget, or without one search for the smallest network."""
    network, structure = dense.network.to(device), dense.structure
    bar = ProgressBar(None if budget is None else trainer.plan.n_epochs) if params.verbose else None
    trainer.runner.progress = bar
    try:
        if budget is not None:
            return trainer.fit(network, structure, budget), []
        layout = structure.layout
        least = layout.resized([1] * len(layout.widths)).cost()
        budgets = geometric_budgets(layout.cost(), least)
        return trainer.fit_smallest(network, structure, budgets, params.max_accuracy_drop)
    finally:
        if bar is not None:
            bar.bar.close()
