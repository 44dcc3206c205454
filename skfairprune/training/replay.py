"""The loss and the gradient of a step on a GPU, recorded once and replayed as a whole.

A step of a small network is some hundred kernels of a few microseconds each, and launching them one by one
takes longer than running them. A CUDA graph launches all of them at once (docs/results.md has the seconds).
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from skfairprune.modules import TabularNetwork
from skfairprune.training.batches import Batch
from skfairprune.training.stacks import NetworkStack

__all__ = ["ReplayedGradient", "can_replay", "record"]

_WARM_UP = 3  # runs before the recording, which make what is made once: torch's own number


def can_replay(module: nn.Module) -> bool:
    """Tell whether a module's steps can be replayed: the built-in network's on a GPU.

    What is replayed is the kernels alone. What a network of the user's does beside, in Python or by what the
    rows are, would be left out.
    """
    return isinstance(module, TabularNetwork | NetworkStack) and next(module.parameters()).is_cuda


def record(compute: Callable[[], list[Tensor]]) -> tuple[Callable[[], None], list[Tensor]]:
    """Record a computation on the current GPU. Other threads may go on using it.

    Parameters
    ----------
    compute : callable
        Computes tensors from others; neither what it does nor where the others are may change.

    Returns
    -------
    replay : callable
        Computes them again.
    tensors : list of Tensor
        Where they are from the first replay on.
    """
    side = _side_stream(torch.cuda.current_device())
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            compute()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with _no_collection(), torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        tensors = compute()
    return graph.replay, tensors


@cache
def _side_stream(device: int) -> torch.cuda.Stream:
    """Return the stream of all recordings of a GPU: cuBLAS keeps tens of MiB for each stream."""
    return torch.cuda.Stream(device)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Let no garbage be collected: what frees memory of the GPU during a recording ends it in an error."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Recorded(NamedTuple):
    """A step of batches of one size: where it reads a batch, and leaves the loss and the gradient."""

    batch: Batch
    replay: Callable[[], None]
    loss: Tensor
    gradient: list[Tensor]


class ReplayedGradient:
    """The loss of a batch and its gradient, recorded at the first batch of each size, then replayed.

    What the loss reads beside the batch must stay where it is: tables are copied into, not replaced
    (:meth:`skfairprune.training.objective.Objective.set_tables`).

    Parameters
    ----------
    module : nn.Module
        The network whose parameters get the gradient; in training mode when it is called.
    loss : callable
        Takes a batch, returns a scalar.
    """

    def __init__(self, module: nn.Module, loss: Callable[[Batch], Tensor]) -> None:
        self.parameters, self.loss = list(module.parameters()), loss
        self._recorded: dict[int, _Recorded] = {}

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss of a batch, and leave its gradient in the parameters."""
        step = self._recorded.get(len(batch.x))
        if step is None:
            step = self._recorded[len(batch.x)] = self._record(batch)
        for held, given in zip(step.batch, batch, strict=True):
            held.copy_(given)
        step.replay()
        for parameter, slope in zip(self.parameters, step.gradient, strict=True):
            parameter.grad = slope
        return step.loss.clone()  # the next replay writes to the same place

    def _record(self, batch: Batch) -> _Recorded:
        held = Batch(*(tensor.clone() for tensor in batch))

        def compute() -> list[Tensor]:
            loss = self.loss(held)
            gradient = torch.autograd.grad(loss, self.parameters)
            # A backward pass leaves it laid out in memory as the parameters are, which fused optimizers need.
            pairs = zip(self.parameters, gradient, strict=True)
            return [loss.detach(), *(torch.empty_like(parameter).copy_(slope) for parameter, slope in pairs)]

        replay, (loss, *gradient) = record(compute)
        return _Recorded(held, replay, loss, gradient)
