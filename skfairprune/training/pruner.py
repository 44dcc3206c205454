"""From the dense network to the small one: the criteria that choose the units, run on one interface."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skfairprune.modules import TabularNetwork
from skfairprune.pruning.budget import Chain
from skfairprune.pruning.columns import needed_columns
from skfairprune.pruning.criteria import ScoringData
from skfairprune.pruning.gates import BudgetedGates
from skfairprune.pruning.structure import Masks, Structure
from skfairprune.training.lagrangian import Lagrangian
from skfairprune.training.levels import Levels
from skfairprune.training.net import BilevelNet
from skfairprune.training.phases import PhaseRunner
from skfairprune.training.plan import LOTTERY_ROUNDS, Plan

__all__ = ["Pruned", "Pruner"]

_GATE_LR = 0.02
_COLUMN_ROWS = 16384  # on which the columns are judged


class Pruned(NamedTuple):
    """A small network and the mask of each prunable layer of the dense one."""

    network: nn.Module
    masks: Masks


def _own_parameter(network: nn.Module, name: str) -> list[nn.Parameter]:
    return [network.get_parameter(name)]


def _prunes_inputs(structure: Structure, masks: Masks) -> bool:
    """Tell whether a removal may take encoded inputs, and takes something."""
    layout = structure.layout
    return isinstance(layout, Chain) and layout.prune_inputs and not all(mask.all() for mask in masks)


@dataclass
class Pruner:
    """Trains the dense network and makes the small one out of it.

    Parameters
    ----------
    levels : Levels
        The rows.
    runner : PhaseRunner
        Runs phases.
    plan : Plan
        The epochs of the phases.
    lagrangian : Lagrangian
        Makes their objectives.
    criterion : str
        "bilevel", "lottery" or a key of ``CRITERIA``.
    head_labels : ndarray of shape (n_head_classes,)
        The label of each head class.
    n_groups : int
        The groups in the joint classes; 1 without a constraint.
    hypergradient : str
        Of the bilevel phase.
    damping : float
        Of the hypergradient.
    schedule : callable
        Takes the progress in (0, 1] of the bilevel phase, returns the share of the removal that is done,
        in [0, 1], and the gates' temperature.
    """

    levels: Levels
    runner: PhaseRunner
    plan: Plan
    lagrangian: Lagrangian
    criterion: str
    head_labels: NDArray[np.intp]
    n_groups: int
    hypergradient: str
    damping: float
    schedule: Callable[[float], tuple[float, float]]

    def train_dense(self, network: nn.Module) -> None:
        """Run the dense phase in place: of a lottery the first round, before "snip" nothing."""
        rounds = LOTTERY_ROUNDS if self.criterion == "lottery" else 1
        self._train(network, self.plan.dense - (rounds - 1) * (self.plan.dense // rounds))

    def prune(self, network: nn.Module, initial: nn.Module, structure: Structure, budget: int) -> Pruned:
        """Choose the units that stay and return the small network.

        Parameters
        ----------
        network : nn.Module
            The dense network after its phase; it is changed.
        initial : nn.Module
            The dense network before it.
        structure : Structure
            Its units and widths.
        budget : int
            The most that the small network may cost.
        """
        if not structure.layers:
            return Pruned(initial if self.criterion in ("lottery", "snip") else network, [])
        if self.criterion == "lottery":
            return self._draw_ticket(network, initial, structure, budget)
        if self.criterion == "bilevel":
            worth = self._bilevel(network, initial, structure, budget)
        else:
            worth = structure.score(self.criterion, self._scoring_data(network, initial, structure))
        masks = structure.select(worth, budget)
        if self.criterion in ("bilevel", "obs"):
            pruned = Pruned(structure.remove_and_refit(network, masks, self.levels.sample()), masks)
            if self.criterion == "bilevel" and _prunes_inputs(structure, masks):
                return self._without_columns(network, structure, worth, budget, pruned)
            return pruned
        return Pruned(structure.remove(initial if self.criterion == "snip" else network, masks), masks)

    def _without_columns(
        self,
        network: nn.Module,
        structure: Structure,
        worth: list[NDArray[np.float64]],
        budget: int,
        pruned: Pruned,
    ) -> Pruned:
        """Choose again among the columns that the small network needs on upper rows.

        A gate stands before each bin, and a column of noise loses bins, but seldom all of them.
        """
        assert isinstance(network, TabularNetwork)
        assert isinstance(pruned.network, TabularNetwork)
        rows = self.levels.upper
        some = rows.position[:: -(-len(rows.position) // _COLUMN_ROWS)]
        small = copy.deepcopy(pruned.network).eval()
        needed = needed_columns(small, rows.x[some], rows.target[some], rows.weight[some])
        stays = np.isin(network.encoding.columns.cpu().numpy(), needed)
        masks = structure.select([np.where(stays, worth[0], -np.inf), *worth[1:]], budget)
        masks[0] &= stays
        return Pruned(structure.remove_and_refit(network, masks, self.levels.sample()), masks)

    def _train(self, network: nn.Module, n_epochs: int) -> None:
        objective = self.lagrangian.objective()
        lower = self.levels.lower
        update = self.lagrangian.constrain(objective, "dense", self.runner.n_steps(lower, 1))
        # Losses under multipliers that move cannot be compared: the last epoch stays.
        held_out = self.levels.held_out if update is None else None
        self.runner.run("dense", network, objective, lower, n_epochs, held_out, callback=update)

    def _scoring_data(self, network: nn.Module, initial: nn.Module, structure: Structure) -> ScoringData:
        return ScoringData(
            network=network,
            initial=initial,
            layers=structure.layers,
            layout=structure.layout,
            batches=self.levels.lower_batches(self.runner.batch_size, self.runner.generator),
            head_labels=self.head_labels,
            n_groups=self.n_groups,
            objective=self.lagrangian.objective(),
            generator=self.runner.generator,
        )

    def _draw_ticket(
        self, network: nn.Module, initial: nn.Module, structure: Structure, budget: int
    ) -> Pruned:
        """Prune by magnitude in rounds, what stays going back to its first weights after each.

        Frankle and Carbin, "The lottery ticket hypothesis" (2019), iterative pruning with rewinding: every
        round removes the same share of what is there.
        """
        whole, dense_cost = structure, structure.layout.cost()
        masks: Masks = [np.ones(size, dtype=bool) for size in whole.shapes()]
        for number in range(1, LOTTERY_ROUNDS + 1):
            if number > 1:
                network = whole.remove(initial, masks)
                whole.hold(masks, partial(_own_parameter, network))
                self._train(network, self.plan.dense // LOTTERY_ROUNDS)
            worth = structure.score("magnitude", self._scoring_data(network, network, structure))
            target = dense_cost * (budget / dense_cost) ** (number / LOTTERY_ROUNDS)
            masks = whole.narrowed(masks, structure.select(worth, max(target, budget)))
            structure = whole.remaining(masks)
        return Pruned(whole.remove(initial, masks), masks)

    def _bilevel(
        self, network: nn.Module, initial: nn.Module, structure: Structure, budget: int
    ) -> list[NDArray[np.float64]]:
        """Run the bilevel phase; fold the gates into the network and return their scores."""
        layout, levels = structure.layout, self.levels
        start = structure.start(
            network, levels.sample(), lambda: self._scoring_data(network, initial, structure)
        )
        gates = BudgetedGates(layout, [torch.from_numpy(scores) for scores in start]).to(levels.lower.x)
        gated = structure.gated(network)
        full, n_batches = layout.cost(), self.runner.n_steps(levels.lower, 1)
        lower, upper = self.lagrangian.objective(), self.lagrangian.objective()
        update = self.lagrangian.constrain(lower, "weights", n_batches)
        if "gates" in self.lagrangian.constrained:
            if update is not None:
                upper = lower
            else:
                update = self.lagrangian.constrain(upper, "gates", n_batches)

        def schedule(progress: float) -> tuple[float, float]:
            share, temperature = self.schedule(progress)
            return full - (full - budget) * share, temperature

        self.runner.run(
            "bilevel",
            gated,
            lower,
            levels.lower,
            self.plan.bilevel,
            net_class=BilevelNet,
            callback=update,
            gates=gates,
            upper=levels.upper,
            upper_objective=upper,
            hypergradient=self.hypergradient,
            damping=self.damping,
            gate_lr=_GATE_LR,
            schedule=schedule,
            n_steps=self.plan.bilevel * n_batches,
        )
        gated.fold(gates().detach())
        gated.release()
        return [scores.cpu().double().numpy() for scores in gates.scores.detach().split(gates.sizes)]
