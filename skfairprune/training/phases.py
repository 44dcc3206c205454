"""One phase of training: a skorch net run on a network in place, and its history."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from torch import nn

from skfairprune.training.batches import Batches, Rows
from skfairprune.training.best_epoch import BestEpoch
from skfairprune.training.iterated import OwnIterator
from skfairprune.training.net import Interrupted, PhaseNet
from skfairprune.training.objective import Objective
from skfairprune.training.progress import ProgressBar
from skfairprune.training.schedules import one_cycle

__all__ = ["PhaseRunner"]


@dataclass
class PhaseRunner:
    """Runs phases with the same optimizer (one-cycle rate) and keeps one history.

    Parameters
    ----------
    batch_size : int
        The rows of a batch.
    lr : float
        The peak learning rate.
    n_iter_no_change : int or None
        The patience of early stopping in phases with held-out rows; None never stops early. They end with
        the weights of their best epoch in any case.
    averages : bool
        Whether averages of the weights are judged, and stay (:class:`BestEpoch`).
    generator : torch.Generator
        Shuffles rows.
    optimizer : type
        The class of the optimizer.
    optimizer_params : mapping
        Its parameters but for the rate.
    callbacks : sequence of (str, Callback)
        Called in every phase, beside its own. One that sets the rate takes the place of the one-cycle rate;
        one that stops early, that of early stopping, in the phases that have held-out rows.
    iterator : OwnIterator or None
        What makes the batches that weights are trained with; None shuffles the rows.
    progress : ProgressBar or None
        Shown while it trains.
    trial : int or None
        In a search for the smallest network, which trial the phases belong to.
    """

    batch_size: int
    lr: float
    n_iter_no_change: int | None
    averages: bool
    generator: torch.Generator
    optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW
    optimizer_params: Mapping[str, Any] = field(default_factory=dict)
    callbacks: Sequence[tuple[str, Callback]] = ()
    iterator: OwnIterator | None = None
    progress: ProgressBar | None = None
    trial: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    def n_steps(self, rows: Rows, n_epochs: int) -> int:
        """Return the number of updates of a phase."""
        if self.iterator is not None:
            return n_epochs * len(self.iterator.batches(rows, self.batch_size))
        return n_epochs * len(Batches(rows, self.batch_size))

    def run(
        self,
        phase: str,
        module: nn.Module,
        objective: Objective,
        rows: Rows,
        n_epochs: int,
        held_out: Rows | None = None,
        net_class: type[PhaseNet] = PhaseNet,
        callback: Callback | None = None,
        merit: Callable[[PhaseNet], float] | None = None,
        **params: Any,
    ) -> None:
        """Run one phase on a network, in place.

        Parameters
        ----------
        phase : str
            Its name in the history.
        module : nn.Module
            What the net class takes.
        objective : Objective
            The loss.
        rows : Rows
            The rows to learn from.
        n_epochs : int
            The number of epochs; with 0 nothing happens.
        held_out : Rows or None
            The rows of the validation loss, whose least chooses the epoch.
        net_class : type
            The skorch net.
        callback : Callback or None
            Called beside the phase's own callbacks.
        merit : callable or None
            Takes the net; what is largest in the epoch that stays. For phases without held-out rows; with
            them it is the least validation loss, or what an early stopping of the user's keeps.
        **params
            Further parameters of the net.

        Raises
        ------
        ValueError
            If the weights are not finite at its end.
        KeyboardInterrupt
            If the user interrupts.
        """
        if n_epochs == 0:
            return
        callbacks = [(name, copy.deepcopy(given)) for name, given in self.callbacks]
        stoppers = [given for _, given in callbacks]
        if held_out is None:
            callbacks = [(name, given) for name, given in callbacks if not isinstance(given, EarlyStopping)]
            for _, given in callbacks:
                if isinstance(given, LRScheduler) and given.monitor == "valid_loss":
                    given.monitor = "train_loss"
        kinds = {
            kind for kind in (LRScheduler, EarlyStopping) for _, given in callbacks if isinstance(given, kind)
        }
        if LRScheduler not in kinds:
            rate = partial(one_cycle, n_steps=self.n_steps(rows, n_epochs))
            schedule = LRScheduler(torch.optim.lr_scheduler.LambdaLR, lr_lambda=rate, step_every="batch")
            callbacks.append(("rate", schedule))
        if callback is not None:
            callbacks.append(("costs", callback))
        keeps_best = held_out is not None and EarlyStopping not in kinds
        if merit is None and keeps_best and self.averages:
            merit = _least_loss
        if merit is not None:
            # Before all that can end the phase, so that no epoch is left out.
            best = BestEpoch(merit, self.n_steps(rows, 1) if self.averages else None)
            callbacks.insert(0, ("best", best))
        if keeps_best:
            # Of patience without end only the way back to the best epoch is left.
            patience = n_epochs + 1 if self.n_iter_no_change is None else self.n_iter_no_change
            stopping = EarlyStopping(patience=patience, load_best=merit is None, sink=_silent)
            if self.n_iter_no_change is not None:
                # Relative to a loss below 0 skorch's threshold would call a worse epoch better. Without a
                # patience the choice is between epochs within 1e-4 of each other.
                stopping.threshold, stopping.threshold_mode = 0.0, "abs"
            callbacks.append(("early_stopping", stopping))
            stoppers.append(stopping)
        if self.progress is not None:
            self.progress.start(phase)
            callbacks.append(("progress", self.progress))
        net = net_class(
            module,
            objective,
            held_out=held_out,
            generator=self.generator,
            stoppers=stoppers,
            own_iterator=self.iterator,
            optimizer=self.optimizer,
            **{f"optimizer__{name}": value for name, value in self.optimizer_params.items()},
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
        try:
            net.partial_fit(rows)
        except Interrupted:
            raise KeyboardInterrupt from None
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            if self.iterator is None:
                raise ValueError(
                    f"With batch_size={self.batch_size} a batch of the {phase} phase has one row, of which a "
                    "batch norm has no variance. Give another batch_size."
                ) from error
            raise ValueError(
                f"The net's iterator_train {self.iterator.name} gave a batch of one row in the {phase} "
                "phase, of which a batch norm has no variance. Give it drop_last=True or another batch_size."
            ) from error
        module.eval()
        if not all(bool(parameter.isfinite().all()) for parameter in module.parameters()):
            raise ValueError(
                f"Training diverged: in the {phase} phase the weights are not finite with "
                f"lr={self.lr}. Choose a smaller lr."
            )
        trial = {} if self.trial is None else {"trial": self.trial}
        for row in net.history:
            self.history.append(
                {
                    **trial,
                    "phase": phase,
                    "epoch": row["epoch"],
                    "updates": row["train_batch_count"],
                    "train_loss": row["train_loss"],
                    "valid_loss": row.get("valid_loss", np.nan),
                    "seconds": row["dur"],
                }
            )


def _least_loss(net: PhaseNet) -> float:
    return -net.history[-1]["valid_loss"]


def _silent(text: str) -> None:
    """Take the messages of callbacks and say nothing."""
