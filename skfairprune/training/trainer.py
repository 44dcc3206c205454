"""One fit: dense phase, pruning, fine-tuning with cross-fitting, and the decision rule."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skfairprune.constraints import Floats
from skfairprune.frontier import RuleFrontier
from skfairprune.gaps import Gap
from skfairprune.pruning.budget import Chain
from skfairprune.rulefit import RuleFit
from skfairprune.training.batches import Batch
from skfairprune.training.distillation import soft_targets
from skfairprune.training.lagrangian import Lagrangian
from skfairprune.training.levels import Levels
from skfairprune.training.net import FineTuneNet, NetworkStack, joint_proba
from skfairprune.training.phases import PhaseRunner
from skfairprune.training.plan import Plan
from skfairprune.training.pruner import Masks, Pruner
from skfairprune.training.search import Trial, find_smallest

__all__ = ["Outcome", "Trainer"]

_CARRY_ERRORS = 3  # standard errors above the bound at which a rule does not carry over


class Outcome(NamedTuple):
    """What a fit leaves.

    Attributes
    ----------
    network : nn.Module
        The small network; its outputs are the logits of the joint classes.
    masks : list of ndarray of bool
        The mask of each prunable layer.
    rule : RuleFit or None
        The decision rule; None without a constraint.
    gap : Gap or None
        The gap on rows that neither the weights nor the rule behind it saw.
    not_carried : Gap or None
        None where the rule fitted on the copies carries over to the network. Else the network's gap under
        that rule on the upper rows; rules are then fitted on the network's own scores of these rows.
    frontier : RuleFrontier or None
        The rules for other bounds; None without a rule.
    aware : RuleFrontier or None
        The rules that are told the group of each row, if they were asked for.
    dense : nn.Module or None
        The dense network after its phase, where the constraint compares with it.
    """

    network: nn.Module
    masks: Masks
    rule: RuleFit | None = None
    gap: Gap | None = None
    not_carried: Gap | None = None
    frontier: RuleFrontier | None = None
    aware: RuleFrontier | None = None
    dense: nn.Module | None = None


class _HeldOut(NamedTuple):
    """What a network and its copies do on the upper rows."""

    joint: Floats
    position: NDArray[np.intp]
    rule: RuleFit | None
    gap: Gap | None
    correct: Floats  # the weight, of sum 1, of each row that is decided correctly, else 0
    constant: bool  # whether all rows get the same decision

    @property
    def accuracy(self) -> float:
        """The weighted accuracy."""
        return float(self.correct.sum())


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
    distill : str or None
        The teacher of the fine-tuning.
    seed : int
        Of the teacher.
    attribute_aware : bool
        Whether rules that are told the group of each row are fitted, too.
    """

    levels: Levels
    rule_fold: NDArray[np.intp]
    runner: PhaseRunner
    plan: Plan
    lagrangian: Lagrangian
    pruner: Pruner
    distill: str | None
    seed: int
    attribute_aware: bool
    _soft_target: torch.Tensor | None = field(default=None, init=False)
    _dense: nn.Module | None = field(default=None, init=False)

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
        initial = self._train_dense(network, chain)
        pruned = self.pruner.prune(network, initial, chain, budget)
        stack = self._fine_tune(pruned.network)
        if self.lagrangian.task is None:
            return Outcome(stack.unstack(0), pruned.masks)
        return self._decide(stack, pruned.masks, self._evaluate(stack))

    def fit_smallest(
        self, network: nn.Module, chain: Chain, budgets: Sequence[int], max_accuracy_drop: float
    ) -> tuple[Outcome, list[Trial]]:
        """Find the smallest network that is as good as the dense one, trained the same way.

        Parameters
        ----------
        network : nn.Module
            The dense network; changed in place.
        chain : Chain
            Its widths.
        budgets : sequence of int
            The costs to try, from the largest to the smallest.
        max_accuracy_drop : float
            How much less accurate on held-out rows it may be than the dense network under the same
            constraint. Its gap may be above the bound by a standard error, or the dense network's. It must
            not decide alike for all rows unless the dense network does.

        Returns
        -------
        outcome : Outcome
            Of the smallest network within; of the dense one if there is none.
        trials : list of Trial
            The dense network, then the sizes in the order they were tried.
        """
        initial = self._train_dense(network, chain)
        self.runner.trial = 0
        whole: Masks = [np.ones(size, dtype=bool) for size in chain.widths]
        stack = self._fine_tune(network)
        dense = self._evaluate(stack)
        best = (stack, whole, dense)
        cost = chain.cost()
        trials = [Trial(cost, chain.widths, cost, dense.accuracy, 0.0, dense.gap, True)]

        def within(number: int) -> bool:
            nonlocal best
            self.runner.trial = len(trials)
            pruned = self.pruner.prune(copy.deepcopy(network), initial, chain, budgets[number])
            stack = self._fine_tune(pruned.network)
            found = self._evaluate(stack)
            good = dense.accuracy - found.accuracy <= max_accuracy_drop
            # Where one class is rare, deciding alike for all is nearly as accurate, and of no use.
            good = good and (dense.constant or not found.constant)
            if found.gap is not None and dense.gap is not None and self.lagrangian.task is not None:
                limit = max(self.lagrangian.task.bound, dense.gap.value)
                good = good and found.gap.value - found.gap.standard_error <= limit
            small = chain.resized([int(mask.sum()) for mask in pruned.masks])
            error = float(np.std(dense.correct - found.correct) * np.sqrt(len(dense.correct)))
            trials.append(
                Trial(budgets[number], small.widths, small.cost(), found.accuracy, error, found.gap, good)
            )
            if good:
                best = (stack, pruned.masks, found)
            return good

        find_smallest(len(budgets), within)
        return self._decide(*best), trials

    def _train_dense(self, network: nn.Module, chain: Chain) -> nn.Module:
        """Run the dense phase in place, let it teach, and return the network as it was before."""
        initial = copy.deepcopy(network)
        self.pruner.train_dense(network)
        self._know_dense_decisions(network)
        if self.distill is not None:
            self._soft_target = soft_targets(self.distill, network, self.levels, chain.n_outputs, self.seed)
        return initial

    def _know_dense_decisions(self, network: nn.Module) -> None:
        """Complete a constraint that compares with the dense network."""
        task, rows = self.lagrangian.task, self.levels.upper
        if task is not None and task.needs_dense_decisions:
            every = rows.take(torch.arange(len(rows.x), device=rows.x.device))
            joint = joint_proba(lambda batch: network(batch.x), every)
            self.lagrangian.task = task.with_dense_decisions(joint)
            self._dense = copy.deepcopy(network)

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
                soft_target=self._soft_target,
            )
        return stack

    def _evaluate(self, stack: NetworkStack) -> _HeldOut:
        """Decide the upper rows, each by a network and a rule that did not see its fold."""
        levels, task = self.levels, self.lagrangian.task
        index = levels.upper.position.cpu().numpy()

        def blind(batch: Batch) -> torch.Tensor:
            return stack.each(batch.x, levels.fold[batch.position] + 1)

        joint = joint_proba(blind, levels.upper)
        rule, gap = None, None
        if task is None:
            decision, label = joint.argmax(axis=1), levels.upper.target[levels.upper.position].cpu().numpy()
        else:
            rule = task.fit_rule(joint, index)
            decision, label = task.decide(joint, index, self.rule_fold, rule.multipliers), task.labels[index]
            gap = task.gap(decision, index)
        weight = levels.upper.weight[levels.upper.position].double().cpu().numpy()
        correct, constant = (decision == label) * weight / weight.sum(), np.ptp(decision) == 0
        return _HeldOut(joint, index, rule, gap, correct, bool(constant))

    def _decide(self, stack: NetworkStack, masks: Masks, held_out: _HeldOut) -> Outcome:
        """Put the rules on the network, and see that the one asked for carries over from the copies."""
        network, task, rule = stack.unstack(0), self.lagrangian.task, held_out.rule
        if task is None or rule is None:
            return Outcome(network, masks)
        if not task.with_rule:
            return Outcome(network, masks, rule, held_out.gap, dense=self._dense)
        joint, position, fold = held_out.joint, held_out.position, self.rule_fold
        own = joint_proba(lambda batch: network(batch.x), self.levels.upper)
        carried = task.gap(task.apply(rule.rule, own), position)
        strays = carried.value - _CARRY_ERRORS * carried.standard_error > task.bound
        if strays:
            joint, rule = own, task.fit_rule(own, position)
        frontier = task.fit_frontier(joint, position, fold)
        if held_out.gap is not None:
            # The frontier's fits start from their neighbours and are less patient than one from nothing.
            asked = frontier.position(task.bound)
            frontier = frontier.with_rule(asked, rule, held_out.gap, held_out.accuracy)
        aware = task.fit_frontier(joint, position, fold, aware=True) if self.attribute_aware else None
        astray = carried if strays else None
        return Outcome(network, masks, rule, held_out.gap, astray, frontier, aware, self._dense)
