"""Layer-wise reconstruction: which units a layer can do without, and the weights that make up for them.

A consumer with weights :math:`W` (its bias being the weight of a constant input) reads activations with
Gram matrix :math:`G = E[a a^T]`. Without the units outside :math:`S` its outputs are best reproduced, in
mean square, by

.. math:: \\hat W_S = W G_{\\cdot S} G_{SS}^{-1},

and taking unit :math:`u` out of the current set costs :math:`\\sum_o W_{ou}^2 / [G_{SS}^{-1}]_{uu}`: the
optimal brain surgeon (Hassibi and Stork, 1993), for units and with the current refitted weights, as in
Frantar and Alistarh, "Optimal Brain Compression" (2022).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skfairprune.constraints import Floats
from skfairprune.pruning.units import UnitLayer

__all__ = ["activation_gram", "refit", "removal_errors"]

_RIDGE = 1e-3  # of the mean diagonal: few rows, and units that are dead or equal, leave G singular


def activation_gram(
    network: nn.Module, consumer: str, batches: Sequence[Tensor], weights: Sequence[Tensor]
) -> Floats:
    """Compute the Gram matrix of a consumer's inputs, with a constant input appended.

    Parameters
    ----------
    network : nn.Module
        The network.
    consumer : str
        Path of the ``nn.Linear``.
    batches : sequence of Tensor of shape (n_samples, n_columns)
        Rows.
    weights : sequence of Tensor of shape (n_samples,)
        Their weights.

    Returns
    -------
    ndarray of shape (n_units + 1, n_units + 1)
        The weighted mean of :math:`a a^T`, with a small ridge.
    """
    module = network.get_submodule(consumer)
    assert isinstance(module, nn.Linear)
    gram = torch.zeros(module.in_features + 1, module.in_features + 1, dtype=torch.float64)

    def add(module: nn.Module, args: tuple[Tensor]) -> None:
        rows = nn.functional.pad(args[0].double(), (0, 1), value=1.0)
        gram.add_(((rows * weight[:, None]).T @ rows).cpu())

    handle = module.register_forward_pre_hook(add)
    total = 0.0
    with torch.no_grad():
        for batch, weight in zip(batches, weights, strict=True):
            network(batch)
            total += float(weight.sum())
    handle.remove()
    matrix = gram.numpy() / total
    matrix[np.diag_indices_from(matrix)] += _RIDGE * np.trace(matrix) / len(matrix)
    return matrix


def removal_errors(gram: Floats, weight: Floats) -> Floats:
    """Take units out one by one, the cheapest first, with the others refitted each time.

    Parameters
    ----------
    gram : ndarray of shape (n_units + 1, n_units + 1)
        From :func:`activation_gram`.
    weight : ndarray of shape (n_outputs, n_units + 1)
        The consumer's weights and, as the last column, its bias.

    Returns
    -------
    ndarray of shape (n_units,)
        For each unit the mean squared error that its removal adds, as a share of the outputs' mean
        square; never less than that of a unit which left before it.
    """
    weight, inverse = weight.copy(), np.linalg.inv(gram)
    n_units = len(gram) - 1
    errors = np.zeros(n_units)
    scale = np.einsum("oi,ij,oj->", weight, gram, weight)
    left = np.ones(n_units, dtype=bool)
    worst = 0.0
    for _ in range(n_units):
        diagonal = np.maximum(np.diag(inverse)[:n_units], np.finfo(float).tiny)
        cost = np.where(left, (weight[:, :n_units] ** 2).sum(axis=0) / diagonal, np.inf)
        unit = int(np.argmin(cost))
        worst = max(worst, cost[unit] / scale)
        errors[unit] = worst
        left[unit] = False
        row = inverse[unit] / inverse[unit, unit]
        weight -= np.outer(weight[:, unit], row)
        inverse -= np.outer(inverse[unit], row)
        inverse[unit] = inverse[:, unit] = weight[:, unit] = 0.0
        inverse[unit, unit] = 1.0
    return errors


def refit(gram: Floats, weight: Floats, mask: NDArray[np.bool_]) -> Floats:
    """Return the weights on the units that stay which best reproduce the consumer's outputs.

    Parameters
    ----------
    gram, weight
        As for :func:`removal_errors`.
    mask : ndarray of shape (n_units,) of bool
        True for the units that stay.

    Returns
    -------
    ndarray of shape (n_outputs, n_kept + 1)
        The weights and, as the last column, the bias.
    """
    kept = np.append(np.flatnonzero(mask), len(mask))
    return np.linalg.solve(gram[np.ix_(kept, kept)], (weight @ gram[:, kept]).T).T


def consumer_weight(network: nn.Module, layer: UnitLayer) -> Floats:
    """Return a consumer's weights with its bias as the last column."""
    consumer = network.get_submodule(layer.consumer)
    assert isinstance(consumer, nn.Linear)
    stacked = torch.cat([consumer.weight, consumer.bias[:, None]], dim=1)
    return stacked.detach().cpu().numpy().astype(np.float64)


@torch.no_grad()
def set_consumer_weight(network: nn.Module, layer: UnitLayer, weight: Floats) -> None:
    """Write a consumer's weights and, from the last column, its bias."""
    consumer = network.get_submodule(layer.consumer)
    assert isinstance(consumer, nn.Linear)
    consumer.weight.copy_(torch.from_numpy(weight[:, :-1]))
    consumer.bias.copy_(torch.from_numpy(weight[:, -1]))
