"""From the dense network to the small one: the criteria that choose the units, run on one interface."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skfairprune.pruning.budget import Layout, select_units
from skfairprune.pruning.criteria import CRITERIA, ScoringData, fisher_information
from skfairprune.pruning.gates import BudgetedGates, GatedNetwork
from skfairprune.pruning.reconstruction import (
    can_refit,
    log_worth,
    reconstruction_worth,
    shrink_and_refit,
)
from skfairprune.pruning.shrink import shrink
from skfairprune.pruning.units import UnitLayer, remaining_units
from skfairprune.training.lagrangian import Lagrangian
from skfairprune.training.levels import Levels
from skfairprune.training.net import BilevelNet
from skfairprune.training.phases import PhaseRunner
from skfairprune.training.plan import Plan

__all__ = ["Masks", "Pruned", "Pruner", "Structure"]

_GATE_LR = 0.02
_LOTTERY_ROUNDS = 3

Masks = list[NDArray[np.bool_]]


class Structure(NamedTuple):
    """What can be removed of a network, and what it costs.

    Attributes
    ----------
    layers : tuple of UnitLayer
        Its prunable units.
    layout : Layout
        Its widths; one for each of the layers.
    """

    layers: tuple[UnitLayer, ...]
    layout: Layout

    def remaining(self, masks: Masks) -> "Structure":
        """Return what is left after a removal."""
        layout = self.layout.resized([int(mask.sum()) for mask in masks])
        return Structure(remaining_units(self.layers, masks), layout)


class Pruned(NamedTuple):
    """A small network and the mask of each prunable layer of the dense one."""

    network: nn.Module
    masks: Masks


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
    n_groups: int
    hypergradient: str
    damping: float
    schedule: Callable[[float], tuple[float, float]]

    def train_dense(self, network: nn.Module) -> None:
        """Run the dense phase in place: of a lottery the first round, before "snip" nothing."""
        rounds = _LOTTERY_ROUNDS if self.criterion == "lottery" else 1
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
            worth = CRITERIA[self.criterion](self._scoring_data(network, initial, structure))
        layers = structure.layers
        masks = select_units(structure.layout, worth, budget)
        if self.criterion in ("bilevel", "obs") and can_refit(network, layers):
            return Pruned(shrink_and_refit(network, layers, masks, self.levels.sample()), masks)
        return Pruned(shrink(initial if self.criterion == "snip" else network, layers, masks), masks)

    def _train(self, network: nn.Module, n_epochs: int) -> None:
        objective = self.lagrangian.objective()
        lower = self.levels.lower
        update = self.lagrangian.constrain(objective, "dense", self.runner.n_steps(lower, 1))
        # Losses under multipliers that move cannot be compared: nothing stops early then.
        held_out = self.levels.held_out if update is None else None
        self.runner.run("dense", network, objective, lower, n_epochs, held_out, callback=update)

    def _scoring_data(self, network: nn.Module, initial: nn.Module, structure: Structure) -> ScoringData:
        return ScoringData(
            network=network,
            initial=initial,
            layers=structure.layers,
            layout=structure.layout,
            batches=self.levels.lower_batches(self.runner.batch_size, self.runner.generator),
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
        masks: Masks = [np.ones(size, dtype=bool) for size in whole.layout.widths]
        for number in range(1, _LOTTERY_ROUNDS + 1):
            if number > 1:
                network = shrink(initial, whole.layers, masks)
                self._train(network, self.plan.dense // _LOTTERY_ROUNDS)
            worth = CRITERIA["magnitude"](self._scoring_data(network, network, structure))
            target = dense_cost * (budget / dense_cost) ** (number / _LOTTERY_ROUNDS)
            chosen = select_units(structure.layout, worth, max(target, budget))
            for mask, kept in zip(masks, chosen, strict=True):
                mask[mask] = kept
            structure = whole.remaining(masks)
        return Pruned(shrink(initial, whole.layers, masks), masks)

    def _bilevel(
        self, network: nn.Module, initial: nn.Module, structure: Structure, budget: int
    ) -> list[NDArray[np.float64]]:
        """Run the bilevel phase; fold the gates into the network and return their scores."""
        layers, layout, levels = structure.layers, structure.layout, self.levels
        if can_refit(network, layers):
            start = reconstruction_worth(network, layers, layout, levels.sample())
        else:
            data = self._scoring_data(network, initial, structure)
            start = log_worth(fisher_information(data), layout)
        gates = BudgetedGates(layout, [torch.from_numpy(scores) for scores in start]).to(levels.lower.x)
        gated = GatedNetwork(network, layers)
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
