"""The loss of a training step on a GPU, recorded once and replayed with its gradient as a whole.

A step of a small network is some hundred kernels of a few microseconds each, and launching them one by one
takes longer than running them. A CUDA graph launches all of them at once (docs/results.md has the seconds).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from skfairprune.modules import TabularNetwork
from skfairprune.training.batches import Batch
from skfairprune.training.stacks import NetworkStack

__all__ = ["ReplayedLoss", "can_replay"]


def can_replay(module: nn.Module) -> bool:
    """Tell whether a module's steps can be replayed: the built-in network's on a GPU.

    What is replayed is the kernels alone. What a network of the user's does beside, in Python or by what the
    rows are, would be left out.
    """
    return isinstance(module, TabularNetwork | NetworkStack) and next(module.parameters()).is_cuda


class ReplayedLoss:
    """A loss of batches that is recorded at the first batch of each size, and replayed from then on.

    Whatever it reads must stay in the same memory: tables are copied into, not replaced
    (:meth:`skfairprune.training.objective.Objective.set_tables`).

    Parameters
    ----------
    module : nn.Module
        The network whose parameters get the gradient; in training mode when it is called.
    loss : callable
        Takes a batch, returns a scalar.
    """

    def __init__(self, module: nn.Module, loss: Callable[[Batch], Tensor]) -> None:
        self.module, self.loss = module, loss
        self._recorded: dict[int, Any] = {}

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss of a batch; its backward pass leaves the gradient of the parameters."""
        size = len(batch.x)
        if size not in self._recorded:
            # The recording keeps these tensors and copies each batch into them.
            inputs = tuple(tensor.clone() for tensor in batch)
            of_tensors = _OfTensors(self.module, self.loss)
            self._recorded[size] = torch.cuda.make_graphed_callables(of_tensors, inputs)
        # A copy: the next replay writes the loss to the same place.
        loss: Tensor = self._recorded[size](*batch).clone()
        return loss


class _OfTensors(nn.Module):
    """A loss as a module that takes the tensors of a batch, as the recording asks for."""

    def __init__(self, module: nn.Module, loss: Callable[[Batch], Tensor]) -> None:
        super().__init__()
        self.module = module
        self._loss = loss

    def forward(self, *tensors: Any) -> Tensor:
        return self._loss(Batch(*tensors))
