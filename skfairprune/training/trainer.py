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
from skfairprune.gaps import CellRates, Gap, is_within, largest_gap
from skfairprune.pruning.structure import Masks, Structure
from skfairprune.rulefit import RuleFit
from skfairprune.scored import decision_shares
from skfairprune.training.batches import Rows
from skfairprune.training.distillation import soft_targets
from skfairprune.training.lagrangian import Lagrangian
from skfairprune.training.levels import Levels
from skfairprune.training.net import FineTuneNet, joint_proba
from skfairprune.training.phases import PhaseRunner
from skfairprune.training.plan import Plan
from skfairprune.training.pruner import Pruner
from skfairprune.training.search import Trial, find_smallest
from skfairprune.training.stacks import stack_networks

__all__ = ["Outcome", "Trainer"]


class Outcome(NamedTuple):
    """What a fit leaves.

    Attributes
    ----------
    network : nn.Module
        The small network; its outputs are the logits of the joint classes.
    masks : list of ndarray of bool
        The mask of each prunable layer.
    constant : bool
        Whether all rows of the rule, or without one all held-out rows, get the same decision.
    rule : RuleFit or None
        The decision rule; None where the network itself decides.
    event_gaps : list of Gap
        The gaps on held-out rows, one for each event; empty without a constraint.
    cells : CellRates or None
        The rates there; None without a constraint.
    frontier : RuleFrontier or None
        The rules for other bounds; None without a rule.
    aware : RuleFrontier or None
        The rules that are told the group of each row, if they were asked for.
    dense : nn.Module or None
        The dense network after its phase, where the constraint compares with it.
    driven : ndarray of shape (n_events, n_groups) of bool or None
        The cells that drive rules and multipliers; None without a constraint.
    """

    network: nn.Module
    masks: Masks
    constant: bool
    rule: RuleFit | None = None
    event_gaps: Sequence[Gap] = ()
    cells: CellRates | None = None
    frontier: RuleFrontier | None = None
    aware: RuleFrontier | None = None
    dense: nn.Module | None = None
    driven: NDArray[np.bool_] | None = None


class _Judged(NamedTuple):
    """What is left of a network, and what it does on held-out rows."""

    outcome: Outcome
    correct: Floats  # the weight, of sum 1, of each row that is decided correctly, else 0
    varied: float  # the share of rows that are decided otherwise than most

    @property
    def accuracy(self) -> float:
        """The weighted accuracy."""
        return float(self.correct.sum())

    @property
    def gap(self) -> Gap | None:
        """The largest gap; None without a constraint."""
        return largest_gap(self.outcome.event_gaps) if self.outcome.event_gaps else None


@dataclass
class Trainer:
    """Runs the phases of a fit.

    Parameters
    ----------
    levels : Levels
        The rows.
    rule_fold : ndarray of shape (n_rule,)
        The folds of the rows of the rule in the estimate of the gap: see
        :class:`skfairprune.training.splits.LevelSplit`.
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

    def fit(self, network: nn.Module, structure: Structure, budget: int) -> Outcome:
        """Train, prune and fit the rule.

        Parameters
        ----------
        network : nn.Module
            The dense network; changed in place.
        structure : Structure
            Its units and widths.
        budget : int
            The most that the small network may cost.
        """
        initial = self._train_dense(network, structure.layout.n_outputs)
        pruned = self.pruner.prune(network, initial, structure, budget)
        return self._finish(pruned.network, pruned.masks, structure).outcome

    def fit_smallest(
        self, network: nn.Module, structure: Structure, budgets: Sequence[int], max_accuracy_drop: float
    ) -> tuple[Outcome, list[Trial]]:
        """Find the smallest network that is as good as the dense one, trained the same way.

        Parameters
        ----------
        network : nn.Module
            The dense network; changed in place.
        structure : Structure
            Its units and widths.
        budgets : sequence of int
            The costs to try, from the largest to the smallest.
        max_accuracy_drop : float
            How much less accurate on held-out rows it may be than the dense network under the same
            constraint. Its gap may be above the bound by a standard error, or the dense network's. It must
            decide at least half as many rows otherwise than most as the dense network does.

        Returns
        -------
        outcome : Outcome
            Of the smallest network within; of the dense one if there is none.
        trials : list of Trial
            The dense network, then the sizes in the order they were tried.
        """
        initial = self._train_dense(network, structure.layout.n_outputs)
        self.runner.trial, layout = 0, structure.layout
        self.lagrangian.restart()
        dense = best = self._finish(
            network, [np.ones(shape, dtype=bool) for shape in structure.shapes()], structure
        )
        cost = layout.cost()
        trials = [Trial(layout.widths, cost, dense.accuracy, 0.0, dense.gap, "")]

        def within(number: int) -> bool:
            nonlocal best
            self.runner.trial = len(trials)
            self.lagrangian.restart()
            pruned = self.pruner.prune(copy.deepcopy(network), initial, structure, budgets[number])
            found = self._finish(pruned.network, pruned.masks, structure)
            missed = []
            if dense.accuracy - found.accuracy > max_accuracy_drop:
                missed.append("accuracy")
            # Where one class is rare, deciding alike for all is nearly as accurate, and of no use.
            if found.varied < dense.varied / 2:
                missed.append("variation")
            if self.lagrangian.task is not None and dense.gap is not None:
                limit = max(self.lagrangian.task.bound, dense.gap.value)
                if not is_within(found.outcome.event_gaps, limit):
                    missed.append("gap")
            small = layout.resized([int(mask.sum()) for mask in pruned.masks])
            error = float(np.std(dense.correct - found.correct) * np.sqrt(len(dense.correct)))
            figures = (found.accuracy, error, found.gap, ", ".join(missed))
            trials.append(Trial(small.widths, small.cost(), *figures))
            if not missed:
                best = found
            return not missed

        find_smallest(len(budgets), within)
        return best.outcome, trials

    def _train_dense(self, network: nn.Module, n_joint: int) -> nn.Module:
        """Run the dense phase in place, let it teach, and return the network as it was before."""
        initial = copy.deepcopy(network)
        self.pruner.train_dense(network)
        self._judge_dense(network)
        if self.distill is not None:
            self._soft_target = soft_targets(self.distill, network, self.levels, n_joint, self.seed)
        return initial

    def _judge_dense(self, network: nn.Module) -> None:
        """Complete a constraint that compares with the dense network, and see what noise there is."""
        task, rows = self.lagrangian.task, self.levels.upper
        network.eval()
        if task is not None and task.needs_dense_decisions:
            every = rows.take(torch.arange(len(rows.x), device=rows.x.device))
            joint = joint_proba(lambda batch: network(batch.x), every)
            self.lagrangian.task = task.with_dense_decisions(joint)
            self._dense = copy.deepcopy(network)
        # A network that has learned nothing shows no gap, nor the noise of one.
        if task is not None and self.plan.dense:
            self.lagrangian.measure_noise(self._scores(network, rows))

    def _fine_tune(self, small: nn.Module, masks: Masks, structure: Structure) -> list[nn.Module]:
        """Fine-tune on all rows and, beside, copies that are blind to one fold each.

        The phases before were blind to all upper rows, so each has a score from weights that never saw it.
        Of the lower rows a copy that is blind knows what is left of the phases before; only rules need those.
        """
        levels = self.levels
        n_networks = 1 + (levels.n_folds if self._uses_every_row else levels.n_folds // 2)
        stack = stack_networks([small] * n_networks)
        structure.hold(masks, stack.parameters_of)
        for phase, n_epochs in (("fine-tune", self.plan.fine_tune), ("repair", self.plan.repair)):
            objective = self.lagrangian.objective()
            update = self.lagrangian.constrain(objective, phase, self.runner.n_steps(levels.final, 1))
            # Losses under multipliers that move cannot be compared.
            moves = update is not None and update.every is not None
            self.runner.run(
                phase,
                stack,
                objective,
                levels.final,
                n_epochs,
                None if moves else levels.held_out,
                FineTuneNet,
                update,
                self.lagrangian.merit if moves else None,
                fold=levels.fold,
                soft_target=None if self._soft_target is None else self._soft_target[:n_networks],
            )
        return [stack.unstack(number) for number in range(n_networks)]

    def _scores(self, network: nn.Module, rows: Rows) -> Floats:
        """Return the joint probabilities of rows."""
        return joint_proba(lambda batch: network(batch.x), rows)

    @property
    def _uses_every_row(self) -> bool:
        """Whether rules are fitted on the lower rows, too: not where they are held against the dense network.

        It learned from these rows, and what it decides there is too good.
        """
        task = self.lagrangian.task
        return task is not None and task.with_rule and not task.needs_dense_decisions

    def _rule_scores(self, network: nn.Module, copies: list[nn.Module]) -> list[Floats]:
        """Return the joint probabilities of the rule's rows by the network, and by the copies of their part.

        The first half of the copies is blind to the upper folds, which come first in the rows.
        """
        upper, rule, half = self.levels.upper, self.levels.rule, len(copies) // 2
        lower = rule.take(rule.position[len(upper.position) :])
        return [
            self._scores(network, rule),
            *(
                np.concatenate([self._scores(of_upper, upper), self._scores(of_lower, lower)])
                for of_upper, of_lower in zip(copies[:half], copies[half:], strict=True)
            ),
        ]

    def _finish(self, small: nn.Module, masks: Masks, structure: Structure) -> _Judged:
        """Fine-tune a pruned network, fit its rules, and judge what it decides on the upper rows."""
        network, *copies = self._fine_tune(small, masks, structure)
        levels, task, upper = self.levels, self.lagrangian.task, self.levels.upper
        rows = levels.rule if self._uses_every_row else upper
        index = rows.position.cpu().numpy()
        blind = levels.fold[rows.position].cpu().numpy() % (levels.n_folds // 2) if copies else None
        if self._uses_every_row:
            scores = self._rule_scores(network, copies)
        else:
            scores = [self._scores(one, upper) for one in (network, *copies)]
        if task is None:
            decisions = np.array([joint.argmax(axis=1) for joint in scores])
            shares = decision_shares(decisions, blind, scores[0].shape[1])
            outcome = Outcome(network, masks, bool(np.ptp(decisions[0]) == 0))
        elif not task.with_rule:
            scored = task.scored(scores, index, blind)
            constant = bool(np.ptp(task.unconstrained.decide(scored.proba)) == 0)
            shares = scored.decide(task.unconstrained)
            cells = task.cell_rates(scored, shares)
            found = (constant, None, cells.event_gaps(), cells)
            driven, priced = task.driven(scored), self.lagrangian.priced
            driven = driven if priced is None else driven | priced
            outcome = Outcome(network, masks, *found, dense=self._dense, driven=driven)
        else:
            scored, fold = task.scored(scores, index, blind), self.rule_fold[: len(index)]
            frontier, shares = task.fit_frontier(scored, fold)
            asked = frontier.rules[frontier.position(task.bound)]
            aware = task.fit_frontier(scored, fold, aware=True)[0] if self.attribute_aware else None
            outcome = Outcome(
                network,
                masks,
                asked.fit.constant,
                asked.fit,
                asked.event_gaps,
                asked.cells,
                frontier=frontier,
                aware=aware,
                dense=self._dense,
                driven=frontier.driven,
            )
        where = upper.position.cpu().numpy()
        label = upper.target[upper.position].cpu().numpy() if task is None else task.labels[where]
        weight = upper.weight[upper.position].double().cpu().numpy()
        right = shares[np.arange(len(shares)), label]
        counted = weight if task is None else task.weight[where]
        varied = max(1 - float((counted @ shares).max() / counted.sum()), 0.0)
        return _Judged(outcome, right * weight / weight.sum(), varied)
