"""The plain network: a fitted network made of layers of torch.nn alone."""

import copy

import torch
from torch import nn

from skfairprune.modules import DecisionNetwork, PiecewiseLinearEncoding, TabularNetwork

__all__ = ["plain_network"]


def _plain_encoding(encoding: PiecewiseLinearEncoding) -> list[nn.Module]:
    """Return the layers that encode columns as :class:`PiecewiseLinearEncoding` does.

    A linear layer reads the column of each bin and subtracts its left knot, a norm of mean 0 and variance 1
    divides by the bin's width, and a clip follows. The division has a layer of its own: in the linear layer,
    as x / width - left / width, it would lose the digits that a narrow bin far from 0 needs.
    """
    dtype, n_bins = encoding.left.dtype, encoding.n_outputs
    read = nn.Linear(encoding.n_columns, n_bins, dtype=dtype)
    scale = nn.BatchNorm1d(n_bins, eps=0.0, dtype=dtype)
    with torch.no_grad():
        read.weight.zero_()[torch.arange(n_bins), encoding.columns] = 1
        read.bias.copy_(-encoding.left)
        scale.weight.copy_(1 / encoding.width)
    return [read, scale, nn.Hardtanh(0.0, 1.0)]


def plain_network(network: DecisionNetwork) -> nn.Sequential:
    """Rebuild a fitted network from layers of torch.nn, so that it runs and loads without this package.

    Parameters
    ----------
    network : DecisionNetwork
        A fitted network around the built-in one; it is not changed.

    Returns
    -------
    nn.Sequential
        Maps finite rows of shape (n_samples, n_features), in the network's dtype, to class probabilities of
        shape (n_samples, n_classes); in eval mode, where it must stay, on the CPU, without gradients.

    Raises
    ------
    TypeError
        If the network inside is not the built-in one.
    """
    inner = network.network
    if not isinstance(inner, TabularNetwork):
        raise TypeError(
            f"A plain network can be made of the built-in TabularNetwork, and this one is a "
            f"{type(inner).__name__}. Use clf.module_.network, which is an ordinary module of its own, "
            "or torch.export.export(clf.module_, ...)."
        )
    # Units that are dropped in training alone have no layer here.
    layers = [copy.deepcopy(layer) for layer in inner.layers if not isinstance(layer, nn.Dropout)]
    n_classes, n_joint = network.output_weights.shape
    rule = nn.Linear(n_joint, n_classes, bias=False, dtype=network.output_weights.dtype)
    with torch.no_grad():
        rule.weight.copy_(network.output_weights)
    plain = nn.Sequential(*_plain_encoding(inner.encoding), *layers, nn.Softmax(dim=1), rule)
    return plain.eval().requires_grad_(False)
