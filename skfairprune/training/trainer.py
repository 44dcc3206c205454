"""One fit: dense phase, bilevel phase, shrink, fine-tuning, cross-fitting and the decision rule."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from torch import Tensor, nn

from skfairprune.constraints import Floats, Gap
from skfairprune.pruning.budget import Chain, select_units
from skfairprune.pruning.gates import BudgetedGates, GatedNetwork
from skfairprune.pruning.reconstruction import reconstruction_worth, shrink_and_refit
from skfairprune.pruning.units import find_units
from skfairprune.rulefit import RuleFit
from skfairprune.training.batches import EVALUATION_ROWS, Batches, Rows
from skfairprune.training.fairtask import FairTask
from skfairprune.training.net import BilevelNet, FineTuneNet, NetworkStack, PhaseNet
from skfairprune.training.objective import Objective
from skfairprune.training.progress import ProgressBar
from skfairprune.training.schedules import Epochs, anneal, one_cycle

__all__ = ["Outcome", "Trainer"]

_GRAM_ROWS = 16384  # enough for the Gram matrix of a few hundred units
_STRENGTH, _SURROGATE_TEMPERATURE = 0.5, 0.3
_GATE_LR = 0.02
_CARRY_ERRORS = 3  # standard errors above the bound at which a rule does not carry over


class Outcome(NamedTuple):
    """What a fit leaves.

    Attributes
    ----------
    network : nn.Module
        The small network; its outputs are the logits of (label, group).
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
    lower : Rows
        The rows that the weights learn from in the dense and the bilevel phase.
    upper : Rows
        The rows of the gates, the multipliers and the rule.
    final : Rows
        The rows of the fine-tuning.
    held_out : Rows or None
        The rows of early stopping; None never stops early.
    fold : Tensor of shape (n_total,) of long
        Which copy of the fine-tuning is blind to a row: 0 to ``n_folds`` - 1. ``n_folds`` for rows that all
        learn from, -1 for rows that none does.
    n_folds : int
        The number of copies.
    rule_fold : ndarray of shape (n_upper,)
        The folds of the upper rows in the estimate of the gap.
    task : FairTask or None
        The constraint; None trains unconstrained.
    epochs : Epochs
        The epochs of each phase.
    batch_size, lr, weight_decay, n_iter_no_change
        Of the optimizer (AdamW) and of early stopping.
    generator : torch.Generator
        Shuffles rows.
    progress : ProgressBar or None
        Shown while it trains.
    """

    lower: Rows
    upper: Rows
    final: Rows
    held_out: Rows | None
    fold: Tensor
    n_folds: int
    rule_fold: NDArray[np.intp]
    task: FairTask | None
    epochs: Epochs
    batch_size: int
    lr: float
    weight_decay: float
    n_iter_no_change: int | None
    generator: torch.Generator
    progress: ProgressBar | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    def fit(self, network: nn.Module, dense: Chain, budget: int) -> Outcome:
        """Train, prune and fit the rule.

        Parameters
        ----------
        network : nn.Module
            The dense network; changed in place.
        dense : Chain
            Its widths.
        budget : int
            The most parameters that the small network may have.
        """
        objective = Objective(_STRENGTH, _SURROGATE_TEMPERATURE).to(self.lower.x.device)
        held_out = None if self.held_out is None else self.upper
        self._train("dense", network, objective, self.lower, self.epochs.dense, held_out)
        if self.task is not None and self.task.needs_dense_decisions:
            self.task = self.task.with_dense_decisions(self._all_proba(network))
        worth = self._bilevel(network, dense, budget, objective)
        masks = select_units(dense, worth, budget)
        network = shrink_and_refit(network, find_units(network), masks, self._sample())
        stack = self._fine_tune(network, objective)
        if self.task is None:
            return Outcome(stack.unstack(0), masks, None, None, None)
        blind = self.fold[self.upper.position] + 1
        joint, index = self._joint_proba(stack, blind), self.upper.position.cpu().numpy()
        rule = self.task.fit_rule(joint, index)
        gap = self.task.cross_fitted_gap(joint, index, self.rule_fold, rule.multipliers)
        own = self._joint_proba(stack, torch.zeros_like(blind))
        carried = self.task.measure(rule.rule, own, index)
        carries = not carried.value - _CARRY_ERRORS * carried.standard_error > self.task.bound
        if not carries:
            rule = self.task.fit_rule(own, index)
        return Outcome(stack.unstack(0), masks, rule, gap, None if carries else carried)

    def _train(
        self,
        phase: str,
        module: nn.Module,
        objective: Objective,
        rows: Rows,
        n_epochs: int,
        held_out: Rows | None,
        net_class: type[PhaseNet] = PhaseNet,
        **params: Any,
    ) -> None:
        """Run one phase on a network, in place."""
        rate = partial(one_cycle, n_steps=n_epochs * len(Batches(rows, self.batch_size)))
        callbacks: list[tuple[str, Callback]] = [
            ("rate", LRScheduler(torch.optim.lr_scheduler.LambdaLR, lr_lambda=rate, step_every="batch"))
        ]
        if held_out is not None and self.n_iter_no_change is not None:
            stopping = EarlyStopping(patience=self.n_iter_no_change, load_best=True, sink=_silent)
            callbacks.append(("early_stopping", stopping))
        if self.progress is not None:
            self.progress.start(phase)
            callbacks.append(("progress", self.progress))
        net = net_class(
            module,
            objective,
            held_out=held_out,
            generator=self.generator,
            optimizer=torch.optim.AdamW,
            optimizer__weight_decay=self.weight_decay,
            optimizer__fused=True,
            lr=self.lr,
            batch_size=self.batch_size,
            max_epochs=n_epochs,
            device=rows.x.device,
            callbacks=callbacks,
            callbacks__print_log=None,
            verbose=0,
            **params,
        )
        net.initialize()
        net.partial_fit(rows)
        module.eval()
        if not all(bool(parameter.isfinite().all()) for parameter in module.parameters()):
            raise ValueError(
                f"Training diverged: in the {phase} phase the weights are not finite with "
                f"lr={self.lr}. Choose a smaller lr."
            )
        for row in net.history:
            self.history.append(
                {
                    "phase": phase,
                    "epoch": row["epoch"],
                    "train_loss": row["train_loss"],
                    "valid_loss": row.get("valid_loss", np.nan),
                    "seconds": row["dur"],
                }
            )

    def _bilevel(
        self, network: nn.Module, chain: Chain, budget: int, objective: Objective
    ) -> list[NDArray[np.float64]]:
        """Run the bilevel phase; fold the gates into the network and return their scores."""
        layers = find_units(network)
        start = reconstruction_worth(network, layers, chain, self._sample())
        gates = BudgetedGates(chain, [torch.from_numpy(scores) for scores in start]).to(self.lower.x)
        gated = GatedNetwork(network, layers)
        self._train(
            "bilevel",
            gated,
            objective,
            self.lower,
            self.epochs.bilevel,
            None,
            BilevelNet,
            gates=gates,
            upper=self.upper,
            gate_lr=_GATE_LR,
            schedule=lambda progress: anneal(progress, chain.n_parameters(), budget),
            n_steps=self.epochs.bilevel * len(Batches(self.lower, self.batch_size)),
            update_multipliers=lambda forward: self._update_multipliers(forward, objective),
        )
        gated.fold(gates().detach())
        gated.release()
        return [scores.cpu().double().numpy() for scores in gates.scores.detach().split(gates.sizes)]

    @torch.no_grad()
    def _all_proba(self, network: nn.Module) -> Floats:
        """Return the joint probabilities of all rows, held out or not."""
        rows = self.lower.take(torch.arange(len(self.lower.x), device=self.lower.x.device))
        parts = [torch.softmax(network(batch.x), dim=1) for batch in Batches(rows, EVALUATION_ROWS)]
        return torch.cat(parts).double().cpu().numpy()

    def _sample(self) -> list[tuple[Tensor, Tensor]]:
        """Return some lower rows and their weights, in batches, for Gram matrices."""
        position = self.lower.position
        rows = self.lower.take(position[:: -(-len(position) // _GRAM_ROWS)])
        return [(batch.x, batch.weight) for batch in Batches(rows, EVALUATION_ROWS)]

    def _fine_tune(self, small: nn.Module, objective: Objective) -> NetworkStack:
        """Fine-tune on all rows and, beside, copies that are blind to one upper fold each.

        The phases before were blind to all upper rows, so each has a score from weights that never saw it.
        """
        stack = NetworkStack([small] * (1 + self.n_folds))
        self._train(
            "fine-tune",
            stack,
            objective,
            self.final,
            self.epochs.fine_tune,
            self.held_out,
            FineTuneNet,
            fold=self.fold,
        )
        return stack

    @torch.no_grad()
    def _joint_proba(self, stack: NetworkStack, which: Tensor) -> Floats:
        """Return the joint probabilities of the upper rows, each from the network of that number."""
        parts = []
        for batch, number in zip(
            Batches(self.upper, EVALUATION_ROWS),
            which.tensor_split(len(Batches(self.upper, EVALUATION_ROWS))),
            strict=True,
        ):
            parts.append(torch.softmax(stack.each(batch.x, number), dim=1).double().cpu().numpy())
        return np.concatenate(parts)

    def _update_multipliers(self, forward: Callable[[Tensor], Tensor], objective: Objective) -> None:
        """Set the objective's costs from thresholded rates on the upper rows."""
        if self.task is None:
            return
        with torch.no_grad():
            parts = [torch.softmax(forward(batch.x), dim=1) for batch in Batches(self.upper, EVALUATION_ROWS)]
        joint = torch.cat(parts).double().cpu().numpy()
        fit = self.task.fit_rule(joint, self.upper.position.cpu().numpy())
        objective.values = torch.from_numpy(fit.rule.output_weights().T).to(self.upper.x)


def _silent(text: str) -> None:
    """Take the messages of callbacks and say nothing."""
