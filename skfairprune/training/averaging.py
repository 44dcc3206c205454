"""Weights averaged over the last epoch: what is judged, and kept, of a network whose steps are noisy."""

import copy
import math
from typing import Any

import torch
from skorch.callbacks import Callback
from torch import Tensor

__all__ = ["AveragedWeights"]


class AveragedWeights(Callback):
    r"""Judge each epoch by the average of the weights, and in the end go back to the best average.

    After step :math:`t` of the phase, of :math:`n` an epoch,

    .. math:: \bar\theta \leftarrow \bar\theta + \max(1/t, 1/n)\,(\theta - \bar\theta),

    the mean of the first epoch, and then one that forgets at the rate of an epoch (Polyak and Juditsky,
    "Acceleration of stochastic approximation by averaging", 1992; of the last weights as in Szegedy et al.,
    "Rethinking the Inception architecture", 2016). Buffers of floating point, such as the statistics of batch
    norms, are averaged alike. The held-out loss of an epoch is that of the average.

    An epoch is chosen by copies that are blind to its rows, and while the rate is high a network may be far
    off where its copies happen to do well. Averages lie near each other.

    Parameters
    ----------
    n_batches : int
        :math:`n`, at least 1.
    """

    def __init__(self, n_batches: int) -> None:
        self.n_batches = n_batches
        self.n_steps, self.least_loss = 0, math.inf
        self._inside = False
        self._best: dict[str, Tensor] | None = None

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Start from the weights before the phase."""
        self._average = copy.deepcopy(_tensors(net))

    def on_batch_begin(self, net: Any, training: bool = False, **kwargs: Any) -> None:
        """Put the average into the network before the first held-out batch of an epoch."""
        if not training and not self._inside:
            self._swap(net)

    def on_batch_end(self, net: Any, training: bool = False, **kwargs: Any) -> None:
        """Average after each step."""
        if training:
            self.n_steps += 1
            share = max(1 / self.n_steps, 1 / self.n_batches)
            for name, live in _tensors(net).items():
                average = self._average[name]
                # What does not move may be infinite, as in the mask of an attention.
                average.copy_(torch.where(average == live, live, average.lerp(live, share)))

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Keep the average if none before had less held-out loss, and go on from the weights."""
        loss = net.history[-1]["valid_loss"]
        if loss < self.least_loss:
            self.least_loss, self._best = loss, copy.deepcopy(net.module_.state_dict())
        self._swap(net)

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Go back to the best average."""
        if self._best is not None:
            net.module_.load_state_dict(self._best)

    def _swap(self, net: Any) -> None:
        for name, live in _tensors(net).items():
            held = live.clone()
            live.copy_(self._average[name])
            self._average[name].copy_(held)
        self._inside = not self._inside


def _tensors(net: Any) -> dict[str, Tensor]:
    """Return what is averaged, each once; a forward pass may have put new buffers in place of old ones."""
    tensors = (*net.module_.named_parameters(), *net.module_.named_buffers())
    return {name: tensor.detach() for name, tensor in tensors if tensor.is_floating_point()}
