"""One fit: dense phase, pruning, fine-tuning with cross-fitting, and the decision rule."""

import copy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skfairprune.constraints import Gap
from skfairprune.decision import RuleFit
from skfairprune.pruning.budget import Chain
from skfairprune.training.batches import Batch
from skfairprune.training.lagrangian import Lagrangian
from skfairprune.training.levels import Levels
from skfairprune.training.net import FineTuneNet, NetworkStack, joint_proba
from skfairprune.training.phases import PhaseRunner
from skfairprune.training.plan import Plan
from skfairprune.training.pruner import Pruner

__all__ = ["Outcome", "Trainer"]

_CARRY_ERRORS = 3  # standard errors above the bound at which a rule does not carry over


class Outcome(NamedTuple):
    """What a fit leaves.

    Attributes
    ----------
    network : nn.Module
        The small network; its outputs are the logits of the joint classes.
    masks : list of ndarray of bool
        The mask of each hidden layer.
    rule : RuleFit or None
        The decision rule; None without a constraint.
    gap : Gap or None
        The gap on rows that neither the weights nor the rule behind it saw.
    not_carried : Gap or None
        None where the rule fitted on the copies carries over to the network. Else the network's gap under
        that rule on the upper rows; the rule is then fitted on the network's own scores of these rows.
    """

    network: nn.Module
    masks: list[NDArray[np.bool_]]
    rule: RuleFit | None
    gap: Gap | None
    not_carried: Gap | None


@dataclass
class Trainer:
    """Runs the phases of a fit.

    Parameters
    ----------
    levels : Levels
        The rows.
    rule_fold : ndarray of shape (n_upper,)
        The folds of the upper rows in the estimate of the gap.
    runner : PhaseRunner
        Runs phases.
    plan : Plan
        The epochs of the phases.
    lagrangian : Lagrangian
        The constraint; makes the phases' objectives.
    pruner : Pruner
        Makes the small network.
    """

    levels: Levels
    rule_fold: NDArray[np.intp]
    runner: PhaseRunner
    plan: Plan
    lagrangian: Lagrangian
    pruner: Pruner

    def fit(self, network: nn.Module, chain: Chain, budget: int) -> Outcome:
        """Train, prune and fit the rule.

        Parameters
        ----------
        network : nn.Module
            The dense network; changed in place.
        chain : Chain
            Its widths.
        budget : int
            The most that the small network may cost.
        """
        initial = copy.deepcopy(network)
        self.pruner.train_dense(network)
        self._know_dense_decisions(network)
        pruned = self.pruner.prune(network, initial, chain, budget)
        stack = self._fine_tune(pruned.network)
        return self._decide(stack, pruned.masks)

    def _know_dense_decisions(self, network: nn.Module) -> None:
        """Complete a constraint that compares with the dense network."""
        task, rows = self.lagrangian.task, self.levels.upper
        if task is not None and task.needs_dense_decisions:
            every = rows.take(torch.arange(len(rows.x), device=rows.x.device))
            joint = joint_proba(lambda batch: network(batch.x), every)
            self.lagrangian.task = task.with_dense_decisions(joint)

    def _fine_tune(self, small: nn.Module) -> NetworkStack:
        """Fine-tune on all rows and, beside, copies that are blind to one upper fold each.

        The phases before were blind to all upper rows, so each has a score from weights that never saw it.
        """
        levels = self.levels
        stack = NetworkStack([small] * (1 + levels.n_folds))
        for phase, n_epochs in (("fine-tune", self.plan.fine_tune), ("repair", self.plan.repair)):
            objective = self.lagrangian.objective()
            update = self.lagrangian.constrain(objective, phase, self.runner.n_steps(levels.final, 1))
            # Losses under multipliers that move cannot be compared: nothing stops early then.
            held_out = None if update is not None and update.every is not None else levels.held_out
            self.runner.run(
                phase,
                stack,
                objective,
                levels.final,
                n_epochs,
                held_out,
                FineTuneNet,
                update,
                fold=levels.fold,
            )
        return stack

    def _decide(self, stack: NetworkStack, masks: list[NDArray[np.bool_]]) -> Outcome:
        """Fit the rule on the copies' scores of the rows they are blind to, and see that it carries over."""
        network, task = stack.unstack(0), self.lagrangian.task
        if task is None:
            return Outcome(network, masks, None, None, None)
        levels = self.levels
        index = levels.upper.position.cpu().numpy()

        def blind(batch: Batch) -> torch.Tensor:
            return stack.each(batch.x, levels.fold[batch.position] + 1)

        joint = joint_proba(blind, levels.upper)
        rule = task.fit_rule(joint, index)
        gap = task.gap(task.decide(joint, index, self.rule_fold, rule.multipliers), index)
        own = joint_proba(lambda batch: network(batch.x), levels.upper)
        carried = task.gap(task.apply(rule.rule, own), index)
        strays = carried.value - _CARRY_ERRORS * carried.standard_error > task.bound
        if not (task.with_rule and strays):
            return Outcome(network, masks, rule, gap, None)
        return Outcome(network, masks, task.fit_rule(own, index), gap, carried)
