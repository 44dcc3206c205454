"""The private skorch nets: weights alone, gates and weights, and a network beside its fold copies."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNet
from skorch.callbacks import Callback
from skorch.utils import TeeGenerator
from torch import Tensor, nn

from skfairprune.pruning.gates import BudgetedGates
from skfairprune.training.batches import Batch, Batches, Rows, evaluation_batches
from skfairprune.training.hypergradient import Hypergradient, Loss, Parameters, hypergradient
from skfairprune.training.iterated import IteratedBatches, OwnIterator
from skfairprune.training.replay import ReplayedGradient, can_replay
from skfairprune.training.stacks import CopyStack

__all__ = [
    "BilevelNet",
    "FineTuneNet",
    "Interrupted",
    "PhaseNet",
    "joint_proba",
]


@torch.no_grad()
def joint_proba(logits: Callable[[Batch], Tensor], rows: Rows) -> NDArray[np.float64]:
    """Return the joint probabilities of rows, of shape (n_samples, n_joint), a batch at a time.

    Parameters
    ----------
    logits : callable
        Takes a batch, returns its logits.
    rows : Rows
        The rows.
    """
    found: Tensor | None = None
    start = 0
    for batch in evaluation_batches(rows):
        proba = torch.softmax(logits(batch), dim=1)
        if found is None:
            found = proba.new_empty(len(rows.position), proba.shape[1])
        # Kept batches would lie between the large blocks that the allocator would use again for the next.
        found[start : start + len(proba)] = proba
        start += len(proba)
    assert found is not None
    return found.double().cpu().numpy()


class Interrupted(BaseException):
    """The user has interrupted the training, in distinction from a callback that ends a phase."""


class PhaseNet(NeuralNet):
    """A skorch net whose data are :class:`Rows` and whose batches are slices of tensors.

    Parameters
    ----------
    module : nn.Module
        The network to train, in place.
    criterion : Objective
        Takes logits, joint classes and loss weights.
    held_out : Rows or None
        Rows for the validation loss of each epoch.
    generator : torch.Generator
        Shuffles the training rows.
    stoppers : sequence of Callback
        The callbacks that may end the phase, by a ``KeyboardInterrupt`` at the end of an epoch.
    own_iterator : OwnIterator or None
        What makes the batches of the training rows; None shuffles them.
    **kwargs
        As for :class:`skorch.NeuralNet`.
    """

    def __init__(
        self,
        module: nn.Module,
        criterion: nn.Module,
        *,
        held_out: Rows | None,
        generator: torch.Generator,
        stoppers: Sequence[Callback] = (),
        own_iterator: OwnIterator | None = None,
        **kwargs: Any,
    ) -> None:
        self.held_out = held_out
        self.own_iterator = own_iterator
        self.generator = generator
        self.stoppers = stoppers
        super().__init__(module, criterion, **kwargs)

    def fit_loop(self, *args: Any, **kwargs: Any) -> "PhaseNet":
        """Run the epochs.

        skorch takes any interrupt for that of a callback and returns the net as if it were trained. Here
        only those of ``stoppers`` at the end of an epoch are; all others are the user's.

        Raises
        ------
        Interrupted
            If the user interrupts.
        """
        self.ends_phase_ = False
        loss = partial(self.batch_loss, training=True)
        self.gradient_ = ReplayedGradient(self.module_, loss) if can_replay(self.module_) else self._gradient
        try:
            return super().fit_loop(*args, **kwargs)
        except KeyboardInterrupt:
            if self.ends_phase_:
                raise
            raise Interrupted from None
        finally:
            del self.gradient_  # with what it has recorded, which would lie on the GPU until a collection

    def notify(self, method_name: str, **kwargs: Any) -> None:
        """Call the net's own method and the callbacks, as skorch does, and note if one ends the phase."""
        getattr(self, method_name)(self, **kwargs)
        for _, callback in self.callbacks_:
            try:
                getattr(callback, method_name)(self, **kwargs)
            except KeyboardInterrupt:
                may_stop = any(callback is stopper for stopper in self.stoppers)
                self.ends_phase_ = may_stop and method_name == "on_epoch_end"
                raise

    def get_split_datasets(self, X: Rows, y: None = None, **params: Any) -> tuple:
        """Return the training rows and the held-out rows."""
        return X, self.held_out

    def get_iterator(self, dataset: Rows, training: bool = False) -> Batches | IteratedBatches:
        """Return batches to train on, shuffled or of the user's iterator, or large ones to evaluate."""
        if not training:
            return evaluation_batches(dataset)
        if self.own_iterator is not None:
            return self.own_iterator.batches(dataset, self.batch_size)
        return Batches(dataset, self.batch_size, self.generator)

    def batch_loss(self, batch: Batch, training: bool) -> Tensor:
        """Compute the loss of a batch."""
        return self.criterion_(self.module_(batch.x), batch.target, batch.weight)

    def train_step_single(self, batch: Batch, **params: Any) -> dict[str, Any]:
        """Compute the loss of a training batch and its gradient."""
        self._set_training(True)
        return {"loss": self.gradient_(batch)}

    def _gradient(self, batch: Batch) -> Tensor:
        loss = self.batch_loss(batch, training=True)
        loss.backward()
        return loss

    def validation_step(self, batch: Batch, **params: Any) -> dict[str, Any]:
        """Compute the loss of a held-out batch."""
        self._set_training(False)
        with torch.no_grad():
            return {"loss": self.batch_loss(batch, training=False)}

    def held_out_logits(self, batch: Batch) -> Tensor:
        """Return logits of upper rows (n_samples, n_joint) from weights that did not see them."""
        return self.module_(batch.x)


class BilevelNet(PhaseNet):
    r"""Alternate the two levels: a step of the weights, then a step of the gates' scores.

    Lower level: :math:`\theta \leftarrow \theta - \alpha \nabla_\theta \ell_{low}(m, \theta)` on a batch of
    the training rows, the gates fixed. Upper level: :math:`s \leftarrow s - \beta\, dm/ds^T\, d\ell_{up}/dm`
    on a batch of the held-out rows, which the weights never see, with a hypergradient from
    :mod:`skfairprune.training.hypergradient` that reads the lower loss of the same step's batch. The
    constraint is part of either level's objective, or of both.

    Parameters
    ----------
    module : GatedNetwork
        The network and its gates' places.
    gates : BudgetedGates
        The gates. Their budget and temperature follow ``schedule``.
    upper : Rows
        The rows of the upper level.
    gate_lr : float
        The step size of the scores (Adam).
    upper_objective : Objective
        The upper level's loss; the criterion is the lower level's.
    schedule : callable
        Takes the progress in (0, 1], returns the budget and the temperature.
    n_steps : int
        The number of steps of the whole phase.
    hypergradient : {"first_order", "closed_form", "implicit"}
        The estimator of the hypergradient.
    damping : float
        The ridge that the estimators other than "first_order" suppose at the lower level, above 0.
    **kwargs
        As for :class:`PhaseNet`.
    """

    def __init__(
        self,
        module: nn.Module,
        criterion: nn.Module,
        *,
        gates: BudgetedGates,
        upper: Rows,
        upper_objective: nn.Module,
        gate_lr: float,
        schedule: Callable[[float], tuple[float, float]],
        n_steps: int,
        hypergradient: Hypergradient = "first_order",
        damping: float = 1.0,
        **kwargs: Any,
    ) -> None:
        self.gates = gates
        self.upper = upper
        self.upper_objective = upper_objective
        self.gate_lr = gate_lr
        self.schedule = schedule
        self.n_steps = n_steps
        self.hypergradient = hypergradient
        self.damping = damping
        super().__init__(module, criterion, **kwargs)

    def initialize_optimizer(self, *args: Any, **kwargs: Any) -> "BilevelNet":
        """Make the optimizers of both levels."""
        super().initialize_optimizer()
        self.gate_optimizer_ = torch.optim.Adam([self.gates.scores], lr=self.gate_lr, fused=True)
        self.upper_batches_ = self._cycle_upper()
        self.names_ = _names_by_module(self.module_)
        # Weights that are not trained do not follow the gates.
        self.trained_ = {
            name: parameter for name, parameter in self.module_.named_parameters() if parameter.requires_grad
        }
        consumers = {f"network.{path}.weight": columns for path, columns in self.module_.columns.items()}
        self.consumers_ = {name: columns for name, columns in consumers.items() if name in self.trained_}
        self.step_ = 0
        return self

    def _cycle_upper(self) -> Iterator[Batch]:
        while True:
            yield from Batches(self.upper, self.batch_size, self.generator)

    def held_out_logits(self, batch: Batch) -> Tensor:
        """Return logits under the current gates."""
        return self.module_(batch.x, self.gates().detach())

    def batch_loss(self, batch: Batch, training: bool) -> Tensor:
        """Compute the lower level's loss of a batch."""
        logits = self.module_(batch.x, self.current_gates_.detach())
        return self.criterion_(logits, batch.target, batch.weight)

    def _loss_of(self, batch: Batch, objective: nn.Module) -> Loss:
        """Return a level's loss of a batch as a function of gates and parameters."""

        def loss(gates: Tensor, parameters: Parameters) -> Tensor:
            every = {name: value for first, value in parameters.items() for name in self.names_[first]}
            # Of a module with two names torch would swap the parameters twice, and leave the second behind.
            logits = torch.func.functional_call(self.module_, every, (batch.x, gates), tie_weights=False)
            return objective(logits, batch.target, batch.weight)

        return loss

    def train_step(self, batch: Batch, **params: Any) -> dict[str, Any]:
        """Take one step of each level."""
        self.step_ += 1
        self.gates.budget, self.gates.temperature = self.schedule(self.step_ / self.n_steps)
        self.current_gates_ = self.gates()
        step = super().train_step(batch, **params)
        self._set_training(False)
        slope = hypergradient(
            self.hypergradient,
            self._loss_of(next(self.upper_batches_), self.upper_objective),
            self._loss_of(batch, self.criterion_),
            self.current_gates_,
            self.trained_,
            consumers=self.consumers_,
            damping=self.damping,
        )
        (self.gates.scores.grad,) = torch.autograd.grad(self.current_gates_, self.gates.scores, slope)
        self.gate_optimizer_.step()
        return step


def _names_by_module(module: nn.Module) -> dict[str, list[str]]:
    """Return for each parameter, by its first name, its names in each module that holds it."""
    names: dict[nn.Parameter, list[str]] = {}
    for path, part in module.named_modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                names.setdefault(parameter, []).append(f"{path}.{name}".lstrip("."))
    return {found[0]: found for found in names.values()}


class FineTuneNet(PhaseNet):
    """Train the final network on all rows and, beside it, one copy for each fold that is blind to it.

    The copies give every row of a fold a score, and every epoch a loss, from weights that did not see it.

    Parameters
    ----------
    module : NetworkStack or CopyStack
        The final network, then the copies.
    fold : Tensor of shape (n_total,) of long
        Which copy is blind to each row; a number above all copies where none is, -1 for rows that are
        only held out.
    soft_target : Tensor of shape (n_networks, n_total, n_joint) or None
        Distributions to learn in place of the joint classes.
    **kwargs
        As for :class:`PhaseNet`.
    """

    def __init__(
        self,
        module: nn.Module,
        criterion: nn.Module,
        *,
        fold: Tensor,
        soft_target: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        self.fold = fold
        self.soft_target = soft_target
        super().__init__(module, criterion, **kwargs)

    def notify(self, method_name: str, **given: Any) -> None:
        """Tell callbacks of each network's gradients by themselves: a norm that is clipped is that of one."""
        if method_name != "on_grad_computed" or not isinstance(self.module_, CopyStack):
            super().notify(method_name, **given)
            return
        for network in self.module_.networks:
            of_network = {"named_parameters": TeeGenerator(network.named_parameters())}
            super().notify(method_name, **given | of_network)

    def batch_loss(self, batch: Batch, training: bool) -> Tensor:
        """Compute the summed training loss of all networks, or each row's loss under the one blind to it."""
        if not training:
            return self.criterion_(self.held_out_logits(batch), batch.target, batch.weight)
        logits = self.module_(batch.x)
        n_networks = len(logits)
        blind = self.fold[batch.position] == torch.arange(-1, n_networks - 1, device=logits.device)[:, None]
        # The criterion divides by all the pairs of network and row; a row's weight counts once.
        rows = (logits.flatten(0, 1), batch.target.repeat(n_networks), (~blind * batch.weight).flatten())
        soft = None if self.soft_target is None else self.soft_target[:, batch.position].flatten(0, 1)
        return n_networks * self.criterion_(*rows, soft)

    def held_out_logits(self, batch: Batch) -> Tensor:
        """Return logits of each row under the copy that is blind to it."""
        return self.module_.each(batch.x, self.fold[batch.position] + 1)
