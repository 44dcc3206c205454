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
from skfairprune.pruning.budget import Chain
from skfairprune.pruning.shrink import shrink
from skfairprune.pruning.units import UnitLayer

__all__ = ["activation_gram", "reconstruction_worth", "refit", "removal_errors", "shrink_and_refit"]

_RIDGE = 1e-3  # of the mean diagonal: few rows, and units that are dead or equal, leave G singular
# Up to so many units they leave one by one; of more, one in so many at a time: the time stays within the cube
# of their number.
_SINGLY, _SHARE = 256, 16
_LEAST_ERROR, _LEAST_SPREAD = 1e-9, 1e-6  # of the worth: below, units are equally worthless
# Fine-tuning makes up for hidden units that are gone, and hardly for inputs. Measured at equal parameters:
# with a weight of 1 pruning inputs costs Adult .003 to .006 of accuracy at 98 to 99 %, with 100 nothing there
# and .002 at 99.5 %.
_INPUT_WEIGHT = 100.0


def activation_gram(network: nn.Module, consumer: str, sample: Sequence[tuple[Tensor, Tensor]]) -> Floats:
    """Compute the Gram matrix of a consumer's inputs, with a constant input appended.

    Parameters
    ----------
    network : nn.Module
        The network.
    consumer : str
        Path of the ``nn.Linear``.
    sample : sequence of (Tensor of shape (n_samples, n_columns), Tensor of shape (n_samples,))
        Batches of rows and their weights: sample weights, or any that say which rows' outputs matter
        (of groups, of multipliers).

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
        for batch, weight in sample:
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
        square; never less than that of a unit which left before it. Of very many units the cheapest leave
        together, a share of those that are left at a time.
    """
    n_outputs, n_units = len(weight), len(gram) - 1
    scale = np.einsum("oi,ij,oj->", weight, gram, weight)
    errors, worst, units = np.zeros(n_units), 0.0, np.arange(n_units)
    both = np.vstack([weight, np.linalg.inv(gram)])  # both change by the same elimination
    while len(units):
        diagonal = np.maximum(np.diag(both[n_outputs:])[:-1], np.finfo(float).tiny)
        cost = np.einsum("ou,ou->u", both[:n_outputs], both[:n_outputs])[:-1] / diagonal
        n_leaving = 1 if len(units) <= _SINGLY else len(units) // _SHARE
        leaving = np.argsort(cost, kind="stable")[:n_leaving]
        worsts = np.maximum.accumulate(np.append(worst, cost[leaving] / scale))[1:]
        errors[units[leaving]], worst = worsts, float(worsts[-1])
        rows = both[n_outputs + leaving]
        both -= both[:, leaving] @ np.linalg.solve(rows[:, leaving], rows)
        both = np.delete(np.delete(both, n_outputs + leaving, axis=0), leaving, axis=1)
        units = np.delete(units, leaving)
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


def reconstruction_worth(
    network: nn.Module,
    layers: Sequence[UnitLayer],
    chain: Chain,
    sample: Sequence[tuple[Tensor, Tensor]],
) -> list[Floats]:
    """Score the units of all layers by the error that their removal adds, per cost that it frees.

    The error of an input counts a hundredfold: fine-tuning cannot make up for it as for a hidden unit.

    Parameters
    ----------
    network : nn.Module
        The network.
    layers : sequence of UnitLayer
        Its prunable units.
    chain : Chain
        Its widths, and the measure of their cost.
    sample : sequence of (Tensor, Tensor)
        As for :func:`activation_gram`.

    Returns
    -------
    list of ndarray of shape (n_units,)
        The logarithms, standardised over all layers.
    """
    logs = []
    for position, layer in enumerate(layers):
        gram = activation_gram(network, layer.consumer, sample)
        errors = np.maximum(removal_errors(gram, _weight(network, layer)), _LEAST_ERROR)
        if chain.prune_inputs and position == 0:
            errors *= _INPUT_WEIGHT
        logs.append(np.log(errors / chain.unit_cost(position)))
    every = np.concatenate(logs)
    spread = max(float(every.std()), _LEAST_SPREAD)
    return [(log - every.mean()) / spread for log in logs]


def shrink_and_refit(
    network: nn.Module,
    layers: Sequence[UnitLayer],
    masks: Sequence[NDArray[np.bool_]],
    sample: Sequence[tuple[Tensor, Tensor]],
) -> nn.Module:
    """Shrink layer by layer, refitting each consumer to what it put out before.

    Parameters
    ----------
    network : nn.Module
        The network.
    layers : sequence of UnitLayer
        Its prunable units.
    masks : sequence of ndarray of shape (n_units,) of bool
        True for the units that stay.
    sample : sequence of (Tensor, Tensor)
        As for :func:`activation_gram`.

    Returns
    -------
    nn.Module
        The smaller network; the network itself if every unit stays.
    """
    for layer, mask in zip(layers, masks, strict=True):
        if mask.all():
            continue
        gram = activation_gram(network, layer.consumer, sample)
        weight = refit(gram, _weight(network, layer), mask)
        network = shrink(network, [layer], [mask])
        consumer = _consumer(network, layer)
        with torch.no_grad():
            consumer.weight.copy_(torch.from_numpy(weight[:, :-1]))
            consumer.bias.copy_(torch.from_numpy(weight[:, -1]))
    return network


def _consumer(network: nn.Module, layer: UnitLayer) -> nn.Linear:
    consumer = network.get_submodule(layer.consumer)
    assert isinstance(consumer, nn.Linear)
    return consumer


def _weight(network: nn.Module, layer: UnitLayer) -> Floats:
    """Return a consumer's weights with its bias as the last column."""
    consumer = _consumer(network, layer)
    stacked = torch.cat([consumer.weight, consumer.bias[:, None]], dim=1)
    return stacked.detach().cpu().numpy().astype(np.float64)
