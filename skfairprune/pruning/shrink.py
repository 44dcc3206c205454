"""Shrink: build the physically smaller network that a mask describes."""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from skfairprune.modules import PiecewiseLinearEncoding
from skfairprune.pruning.units import UnitLayer, removed_positions

__all__ = ["is_depthwise", "shrink"]


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
    pairs = list(zip(layers, masks, strict=True))
    made = removed_positions((layer.producers + layer.carriers, mask) for layer, mask in pairs)
    read = removed_positions((layer.consumers, mask) for layer, mask in pairs)
    for path, removed in made.items():
        _keep_outputs(small, path, removed)
    for path, removed in read.items():
        _keep_inputs(small.get_submodule(path), removed)
    return small


def is_depthwise(module: nn.Module) -> bool:
    """Tell whether a module is a convolution that keeps its channels apart, one filter for each."""
    return (
        isinstance(module, _ConvNd)
        and module.groups > 1
        and module.groups == module.in_channels == module.out_channels
    )


def _keep_outputs(network: nn.Module, path: str, removed: NDArray[np.intp]) -> None:
    """Remove outputs of a module, and the inputs that belong to them where it keeps its channels apart."""
    module = network.get_submodule(path)
    if isinstance(module, PiecewiseLinearEncoding):
        network.set_submodule(path, module.select(_kept(module.n_outputs, removed)))
    elif isinstance(module, nn.Linear):
        kept = _kept(module.out_features, removed)
        _select(module, ("weight", "bias"), kept, dim=0)
        module.out_features = len(kept)
    elif isinstance(module, _ConvNd):
        kept = _kept(module.out_channels, removed)
        _select(module, ("weight", "bias"), kept, dim=0)
        if is_depthwise(module):
            module.groups = module.in_channels = len(kept)
        module.out_channels = len(kept)
    elif isinstance(module, _NormBase):
        kept = _kept(module.num_features, removed)
        _select(module, ("weight", "bias", "running_mean", "running_var"), kept, dim=0)
        module.num_features = len(kept)
    elif isinstance(module, nn.PReLU):
        kept = _kept(module.num_parameters, removed)
        _select(module, ("weight",), kept, dim=0)
        module.num_parameters = len(kept)
    elif isinstance(module, nn.Embedding):
        kept = _kept(module.embedding_dim, removed)
        _select(module, ("weight",), kept, dim=1)
        module.embedding_dim = len(kept)
    else:
        raise TypeError(f"{path} is a {type(module).__name__}, which has no units to remove.")


def _keep_inputs(module: nn.Module, removed: NDArray[np.intp]) -> None:
    """Remove inputs of a linear layer or a convolution."""
    if isinstance(module, nn.Linear):
        kept = _kept(module.in_features, removed)
        _select(module, ("weight",), kept, dim=1)
        module.in_features = len(kept)
    else:
        assert isinstance(module, _ConvNd)
        kept = _kept(module.in_channels, removed)
        # Of a grouped convolution every group loses the same inputs, and its weights hold those of one group.
        _select(module, ("weight",), kept[kept < module.in_channels // module.groups], dim=1)
        module.in_channels = len(kept)


def _kept(n_positions: int, removed: NDArray[np.intp]) -> Tensor:
    return torch.from_numpy(np.delete(np.arange(n_positions), removed))


def _select(module: nn.Module, names: Sequence[str], kept: Tensor, dim: int) -> None:
    """Keep positions along a dimension of parameters and buffers, where the module has them."""
    for name in names:
        old = getattr(module, name)
        if old is None:
            continue
        new = old.detach().index_select(dim, kept.to(old.device))
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        setattr(module, name, new)
