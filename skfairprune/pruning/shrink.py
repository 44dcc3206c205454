"""Shrink: build the physically smaller network that a mask describes."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skfairprune.modules import PiecewiseLinearEncoding
from skfairprune.pruning.units import UnitLayer

__all__ = ["shrink"]


def shrink(network: nn.Module, layers: Sequence[UnitLayer], masks: Sequence[NDArray[np.bool_]]) -> nn.Module:
    """Return a copy of a network without the masked units, or inputs.

    Its outputs equal those of the network with the gates of these units at 0.

    Parameters
    ----------
    network : nn.Module
        The network; it is not changed.
    layers : sequence of UnitLayer
        Its prunable units.
    masks : sequence of ndarray of shape (n_units,) of bool
        True for the units that stay, at least one a layer.

    Returns
    -------
    nn.Module
        The smaller network, on the same device, in the same mode.
    """
    small = copy.deepcopy(network)
    for layer, mask in zip(layers, masks, strict=True):
        kept = torch.from_numpy(np.flatnonzero(mask))
        encoding = small.get_submodule(layer.producer)
        if isinstance(encoding, PiecewiseLinearEncoding):
            small.set_submodule(layer.producer, encoding.select(kept))
        else:
            _keep(small, layer.producer, kept, dim=0)
        _keep(small, layer.consumer, kept, dim=1)
    return small


def _keep(network: nn.Module, path: str, kept: Tensor, dim: int) -> None:
    """Replace a linear layer by one with only the kept outputs (dim 0) or inputs (dim 1)."""
    old = network.get_submodule(path)
    assert isinstance(old, nn.Linear)
    kept = kept.to(old.weight.device)
    weight = old.weight.detach().index_select(dim, kept)
    new = torch.nn.utils.skip_init(
        nn.Linear,
        weight.shape[1],
        weight.shape[0],
        bias=old.bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    new.train(old.training)
    with torch.no_grad():
        new.weight.copy_(weight)
        if old.bias is not None:
            new.bias.copy_(old.bias.index_select(0, kept) if dim == 0 else old.bias)
    network.set_submodule(path, new)
