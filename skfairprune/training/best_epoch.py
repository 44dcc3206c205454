"""The epoch that stays of a phase, and an average of the weights for networks whose steps are noisy."""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from skorch.callbacks import Callback
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

__all__ = ["BestEpoch"]


class BestEpoch(Callback):
    r"""Judge each epoch, and in the end go back to the best one.

    With ``n_batches`` it is an average of the weights that is judged and kept. After step :math:`t` of the
    phase, of :math:`n` an epoch,

    .. math:: \bar\theta \leftarrow \bar\theta + \max(1/t, 1/n)\,(\theta - \bar\theta),

    the mean of the first epoch, and then an exponential average with the memory of an epoch (Polyak and
    Juditsky, "Acceleration of stochastic approximation by averaging", 1992; exponential as in Szegedy et al.,
    "Rethinking the Inception architecture", 2016). Buffers of floating point that are in the state of the
    network, such as the statistics of batch norms, are averaged alike; where an average is not finite, as in
    the mask of an attention, it is the last value. The held-out loss of an epoch is that of the average.

    An epoch is chosen by copies that are blind to its rows, and while the rate is high a network may be far
    off where its copies happen to do well. Averages lie near each other. The network is trained in place, so
    the average is put into it; :class:`torch.optim.swa_utils.AveragedModel` would be a second one.

    Parameters
    ----------
    merit : callable
        Takes the net at the end of an epoch, returns what is to be large. An epoch of which it is NaN is
        not kept.
    n_batches : int or None
        :math:`n`, at least 1; None judges and keeps the weights as they are.
    """

    def __init__(self, merit: Callable[[Any], float], n_batches: int | None) -> None:
        self.merit, self.n_batches = merit, n_batches
        self.n_steps, self.most = 0, -math.inf
        self._inside = False
        self._average: dict[str, Tensor] = {}
        self._best: dict[str, Tensor] | None = None

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Start from the weights before the phase."""
        if self.n_batches is not None:
            self._average = copy.deepcopy(_tensors(net))

    def on_batch_begin(self, net: Any, training: bool = False, **kwargs: Any) -> None:
        """Put the average into the network before the first held-out batch of an epoch."""
        if not training and not self._inside:
            self._swap(net)

    def on_batch_end(self, net: Any, training: bool = False, **kwargs: Any) -> None:
        """Average after each step."""
        if training and self.n_batches is not None:
            self.n_steps += 1
            share = max(1 / self.n_steps, 1 / self.n_batches)
            for live, average in self._pairs(net):
                average.copy_(torch.where(average.isfinite(), average.lerp(live, share), live))

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Keep the epoch if none before had as much merit, and go on from the weights."""
        if not self._inside:
            self._swap(net)
        merit = self.merit(net)
        if merit > self.most:
            self.most, self._best = merit, copy.deepcopy(net.module_.state_dict())
        self._swap(net)

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Go back to the best epoch; where none had a merit, to the last."""
        if self._best is not None:
            net.module_.load_state_dict(self._best)
        else:
            self._swap(net)

    def _swap(self, net: Any) -> None:
        for live, average in self._pairs(net):
            held = live.clone()
            live.copy_(average)
            average.copy_(held)
        self._inside = not self._inside

    def _pairs(self, net: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what is averaged and its averages; a forward pass may have made buffers since the start."""
        for name, live in _tensors(net).items():
            if name in self._average:
                yield live, self._average[name]


def _tensors(net: Any) -> dict[str, Tensor]:
    """Return what is averaged by name, tensors of several names once.

    They are looked up anew each time, since a forward pass may put new buffers in place of old ones. Of the
    buffers these are the statistics of norms; others need not have a mean, such as the unit vectors of a
    spectral norm, and keep their last value.
    """
    kept = net.module_.state_dict().keys()
    statistics = (
        (f"{path}.{name}", buffer)
        for path, module in net.module_.named_modules()
        if isinstance(module, _NormBase)
        for name, buffer in module.named_buffers(recurse=False)
    )
    tensors = (*net.module_.named_parameters(), *statistics)
    return {name: held.detach() for name, held in tensors if name in kept and held.is_floating_point()}
