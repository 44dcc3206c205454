"""The private skorch nets: weights alone, gates and weights, and a network beside its fold copies."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor, nn

from skfairprune.modules import TabularNetwork
from skfairprune.pruning.gates import BudgetedGates
from skfairprune.training.batches import EVALUATION_ROWS, Batch, Batches, Rows
from skfairprune.training.hypergradient import Hypergradient, Loss, Parameters, hypergradient

__all__ = [
    "BilevelNet",
    "CopyStack",
    "FineTuneNet",
    "Interrupted",
    "NetworkStack",
    "PhaseNet",
    "joint_proba",
    "stack_networks",
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
    for batch in Batches(rows, EVALUATION_ROWS):
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
        **kwargs: Any,
    ) -> None:
        self.held_out = held_out
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
        try:
            return super().fit_loop(*args, **kwargs)
        except KeyboardInterrupt:
            if self.ends_phase_:
                raise
            raise Interrupted from None

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

    def get_iterator(self, dataset: Rows, training: bool = False) -> Batches:
        """Return shuffled batches to train on, or large ones in order to evaluate."""
        if training:
            return Batches(dataset, self.batch_size, self.generator)
        return Batches(dataset, EVALUATION_ROWS)

    def batch_loss(self, batch: Batch, training: bool) -> Tensor:
        """Compute the loss of a batch."""
        return self.criterion_(self.module_(batch.x), batch.target, batch.weight)

    def train_step_single(self, batch: Batch, **params: Any) -> dict[str, Any]:
        """Compute the loss of a training batch and its gradient."""
        self._set_training(True)
        loss = self.batch_loss(batch, training=True)
        loss.backward()
        return {"loss": loss}

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
        self.consumers_ = {
            f"network.{path}.weight": columns for path, columns in self.module_.columns.items()
        }
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
            logits = torch.func.functional_call(self.module_, dict(parameters), (batch.x, gates))
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
            dict(self.module_.named_parameters()),
            consumers=self.consumers_,
            damping=self.damping,
        )
        (self.gates.scores.grad,) = torch.autograd.grad(self.current_gates_, self.gates.scores, slope)
        self.gate_optimizer_.step()
        return step


class NetworkStack(nn.Module):
    """Built-in networks of the same sizes, evaluated together on the same rows.

    All read the same encoded rows, so their first layers are one matrix product, and each layer after them is
    one batch of products, which is faster than ``torch.vmap`` (docs/design_notes.md).

    Parameters
    ----------
    networks : list of TabularNetwork
        The networks; their weights are copied.
    """

    def __init__(self, networks: list[TabularNetwork]) -> None:
        super().__init__()
        parameters, _ = torch.func.stack_module_state(networks)
        self.names = list(parameters)
        self.stacked = nn.ParameterList(parameters[name].detach() for name in self.names)
        # Outside the module tree: only its structure is used, and its buffers.
        self._template = (copy.deepcopy(networks[0]),)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of all networks, of shape (n_networks, n_samples, n_joint)."""
        template = self._template[0].train(self.training)
        hidden = template.encoding(x)
        for name, layer in template.layers.named_children():
            if not isinstance(layer, nn.Linear):
                hidden = layer(hidden)
                continue
            (weight,), (bias,) = (self.parameters_of(f"layers.{name}.{kind}") for kind in ("weight", "bias"))
            if hidden.ndim == 2:
                joined = nn.functional.linear(hidden, weight.flatten(0, 1), bias.flatten())
                hidden = joined.unflatten(1, bias.shape).transpose(0, 1)
            else:
                hidden = torch.baddbmm(bias[:, None], hidden, weight.transpose(1, 2))
        return hidden

    def each(self, x: Tensor, number: Tensor) -> Tensor:
        """Return the logits of each row under the network of its number, of shape (n_samples, n_joint)."""
        template = self._template[0].train(self.training)
        logits = None
        for position in number.unique().tolist():
            rows = (number == position).nonzero().squeeze(1)
            parameters = {
                name: stacked[position] for name, stacked in zip(self.names, self.stacked, strict=True)
            }
            part = torch.func.functional_call(template, parameters, (x[rows],))
            logits = part.new_empty(len(x), part.shape[1]) if logits is None else logits
            logits[rows] = part
        assert logits is not None
        return logits

    def parameters_of(self, name: str) -> list[nn.Parameter]:
        """Return a parameter of all networks: one, of shape (n_networks, ...)."""
        return [self.stacked[self.names.index(name)]]

    @torch.no_grad()
    def unstack(self, position: int) -> nn.Module:
        """Return one of the networks."""
        network = copy.deepcopy(self._template[0]).eval()
        for name, stacked in zip(self.names, self.stacked, strict=True):
            network.get_parameter(name).copy_(stacked[position])
        return network


class CopyStack(nn.Module):
    """Networks of one architecture, evaluated one after the other: any, also with statistics of their own.

    Parameters
    ----------
    networks : list of nn.Module
        The networks; they are copied.
    """

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(copy.deepcopy(network) for network in networks)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of all networks, of shape (n_networks, n_samples, n_joint)."""
        return torch.stack([network(x) for network in self.networks])

    def each(self, x: Tensor, number: Tensor) -> Tensor:
        """Return the logits of each row under the network of its number, of shape (n_samples, n_joint)."""
        return self(x)[number, torch.arange(len(x), device=x.device)]

    def parameters_of(self, name: str) -> list[nn.Parameter]:
        """Return a parameter of all networks."""
        return [network.get_parameter(name) for network in self.networks]

    def unstack(self, position: int) -> nn.Module:
        """Return one of the networks."""
        return copy.deepcopy(self.networks[position]).eval()


def stack_networks(networks: list[nn.Module]) -> NetworkStack | CopyStack:
    """Stack networks of one architecture: the built-in one in one pass, others one after the other."""
    built_in = [network for network in networks if isinstance(network, TabularNetwork)]
    if len(built_in) == len(networks):
        return NetworkStack(built_in)
    return CopyStack(networks)


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
