"""One phase of training: a skorch net run on a network in place, and its history."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback, EarlyStopping, LRScheduler
from torch import nn

from skfairprune.training.batches import Batches, Rows
from skfairprune.training.net import PhaseNet
from skfairprune.training.objective import Objective
from skfairprune.training.progress import ProgressBar
from skfairprune.training.schedules import one_cycle

__all__ = ["PhaseRunner"]


@dataclass
class PhaseRunner:
    """Runs phases with the same optimizer (AdamW, one-cycle rate) and keeps one history.

    Parameters
    ----------
    batch_size, lr, weight_decay
        Of the optimizer.
    n_iter_no_change : int or None
        The patience of early stopping in phases with held-out rows; None never stops early.
    generator : torch.Generator
        Shuffles rows.
    progress : ProgressBar or None
        Shown while it trains.
    trial : int or None
        In a search for the smallest network, which trial the phases belong to.
    """

    batch_size: int
    lr: float
    weight_decay: float
    n_iter_no_change: int | None
    generator: torch.Generator
    progress: ProgressBar | None = None
    trial: int | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    def n_steps(self, rows: Rows, n_epochs: int) -> int:
        """Return the number of updates of a phase."""
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
            The rows of the validation loss and of early stopping.
        net_class : type
            The skorch net.
        callback : Callback or None
            Called beside the phase's own callbacks.
        **params
            Further parameters of the net.

        Raises
        ------
        ValueError
            If the weights are not finite at its end.
        """
        if n_epochs == 0:
            return
        rate = partial(one_cycle, n_steps=self.n_steps(rows, n_epochs))
        callbacks: list[tuple[str, Callback]] = [
            ("rate", LRScheduler(torch.optim.lr_scheduler.LambdaLR, lr_lambda=rate, step_every="batch"))
        ]
        if callback is not None:
            callbacks.append(("costs", callback))
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


def _silent(text: str) -> None:
    """Take the messages of callbacks and say nothing."""
