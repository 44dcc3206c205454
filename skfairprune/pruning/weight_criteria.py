"""Criteria of single weights: published rules, over all layers at once."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from skfairprune.constraints import Floats
from skfairprune.pruning.criteria import ScoringData

__all__ = ["WEIGHT_CRITERIA", "magnitude", "random", "snip", "taylor", "weights_of"]


def weights_of(network: nn.Module, path: str) -> Floats:
    """Return the weights of a layer as they act, of shape (n_weights,)."""
    weight = network.get_submodule(path).weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach().cpu().double().numpy().ravel()


def magnitude(data: ScoringData) -> list[Floats]:
    r"""Score a weight by its magnitude, :math:`|w|`, over all layers.

    Han et al., "Learning both Weights and Connections for Efficient Neural Networks" (NeurIPS 2015).
    """
    return [np.abs(weights_of(data.network, layer.name)) for layer in data.layers]


def snip(data: ScoringData) -> list[Floats]:
    r"""Score a weight by the sensitivity of the loss at the start, :math:`|w\, \partial L / \partial w|`.

    Lee et al., "SNIP: Single-shot Network Pruning Based on Connection Sensitivity" (ICLR 2019), with the loss
    of all rows where they take one batch.
    """
    slopes = [np.zeros(layer.n_units) for layer in data.layers]
    for batch, n_rows in _gradients(data, data.initial):
        for total, slope in zip(slopes, batch, strict=True):
            total += slope * n_rows
    return [
        np.abs(slope * weights_of(data.initial, layer.name))
        for slope, layer in zip(slopes, data.layers, strict=True)
    ]


def taylor(data: ScoringData) -> list[Floats]:
    r"""Score a weight by the squared change of the loss without it, :math:`(w\, \partial L / \partial w)^2`.

    Molchanov et al., "Importance Estimation for Neural Network Pruning" (CVPR 2019), Eq. 8, the mean
    over batches.
    """
    squares = [np.zeros(layer.n_units) for layer in data.layers]
    for batch, _ in _gradients(data, data.network):
        for total, slope in zip(squares, batch, strict=True):
            total += slope**2
    return [
        square * weights_of(data.network, layer.name) ** 2
        for square, layer in zip(squares, data.layers, strict=True)
    ]


def random(data: ScoringData) -> list[Floats]:
    """Draw the worth of each weight uniformly from [0, 1)."""
    return data.by_layer(torch.rand(data.n_units, generator=data.generator, dtype=torch.float64).numpy())


#: The criteria of single weights by name.
WEIGHT_CRITERIA: dict[str, Callable[[ScoringData], list[Floats]]] = {
    "magnitude": magnitude,
    "snip": snip,
    "taylor": taylor,
    "random": random,
}


def _gradients(data: ScoringData, network: nn.Module) -> Iterator[tuple[list[Floats], int]]:
    """Yield, batch by batch, the gradient of the mean loss by the weights of each layer, and the rows."""
    training = network.training
    network.eval()
    weights = [network.get_submodule(layer.name).get_parameter("weight") for layer in data.layers]
    for x, target, weight in data.batches:
        loss = data.objective(network(x), target, weight)
        # A layer that is not called by these rows has a slope of 0.
        found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
        yield [slope.cpu().double().numpy().ravel() for slope in found], len(x)
    network.train(training)
