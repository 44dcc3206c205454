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
from skfairprune.modules import PiecewiseLinearEncoding
from skfairprune.pruning.budget import Layout
from skfairprune.pruning.rowwise import keeps_rows, row_by_row
from skfairprune.pruning.shrink import shrink
from skfairprune.pruning.units import UnitLayer, remaining_units, removed_positions

__all__ = [
    "activation_gram",
    "can_refit",
    "log_worth",
    "reconstruction_worth",
    "refit",
    "removal_errors",
    "shrink_and_refit",
]

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
        Batches of rows and their loss weights. Others, by group or by multipliers, were tried
        (docs/design_notes.md).

    Returns
    -------
    ndarray of shape (n_inputs + 1, n_inputs + 1)
        The weighted mean of :math:`a a^T`, over the rows and what each holds (tokens), with a small ridge.
    """
    module = _linear(network, consumer)
    gram = torch.zeros(module.in_features + 1, module.in_features + 1, dtype=torch.float64)

    def add(module: nn.Module, args: tuple[Tensor]) -> None:
        if not args[0].numel():  # another expert has the row
            return
        rows = nn.functional.pad(args[0].detach().double(), (0, 1), value=1.0)
        weights = weight
        if rows.ndim > 2 or len(rows) > len(weight):  # each row holds several tokens
            rows = rows.reshape(len(weight), -1, rows.shape[-1])
            weights = (weight / rows.shape[1]).repeat_interleave(rows.shape[1])
            rows = rows.flatten(0, 1)
        gram.add_(((rows * weights[:, None]).T @ rows).cpu())

    if not keeps_rows(network, [consumer], (batch for batch, _ in sample)):
        sample = [(row, weight) for batch in sample for row, weight in row_by_row(batch)]
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


def removal_errors(gram: Floats, weight: Floats, positions: NDArray[np.intp] | None = None) -> Floats:
    """Take units out one by one, the cheapest first, with the others refitted each time.

    Parameters
    ----------
    gram : ndarray of shape (n_inputs + 1, n_inputs + 1)
        From :func:`activation_gram`.
    weight : ndarray of shape (n_outputs, n_inputs + 1)
        The consumer's weights and, as the last column, its bias.
    positions : ndarray of shape (n_units, n_positions), default=None
        The inputs that each unit comes to; others stay. None: each input is a unit.

    Returns
    -------
    ndarray of shape (n_units,)
        For each unit the mean squared error that its removal adds, as a share of the outputs' mean
        square; never less than that of a unit which left before it. Of very many units the cheapest leave
        together, a share of those that are left at a time.
    """
    n_outputs = len(weight)
    if positions is None:
        positions = np.arange(len(gram) - 1)[:, None]
    scale = np.einsum("oi,ij,oj->", weight, gram, weight)
    errors, worst, units = np.zeros(len(positions)), 0.0, np.arange(len(positions))
    both = np.vstack([weight, np.linalg.inv(gram)])  # both change by the same elimination
    while len(units):
        cost = _removal_costs(both[:n_outputs], both[n_outputs:], positions)
        n_leaving = 1 if len(units) <= _SINGLY else len(units) // _SHARE
        leaving = np.argsort(cost, kind="stable")[:n_leaving]
        worsts = np.maximum.accumulate(np.append(worst, cost[leaving] / scale))[1:]
        errors[units[leaving]], worst = worsts, float(worsts[-1])
        columns = positions[leaving].ravel()
        rows = both[n_outputs + columns]
        both -= both[:, columns] @ np.linalg.solve(rows[:, columns], rows)
        both = np.delete(np.delete(both, n_outputs + columns, axis=0), columns, axis=1)
        units, positions = np.delete(units, leaving), np.delete(positions, leaving, axis=0)
        positions = positions - np.searchsorted(np.sort(columns), positions)
    return errors


def _removal_costs(weight: Floats, inverse: Floats, positions: NDArray[np.intp]) -> Floats:
    """Return the squared error that each unit's removal adds, the others refitted, of shape (n_units,)."""
    if positions.shape[1] == 1:
        columns = positions[:, 0]
        diagonal = np.maximum(inverse[columns, columns], np.finfo(float).tiny)
        return np.einsum("ou,ou->u", weight, weight)[columns] / diagonal
    blocks = inverse[positions[:, :, None], positions[:, None, :]]
    parts = weight[:, positions].transpose(1, 2, 0)
    return np.einsum("upo,upo->u", parts, np.linalg.solve(blocks, parts))


def refit(gram: Floats, weight: Floats, mask: NDArray[np.bool_]) -> Floats:
    """Return the weights on the inputs that stay which best reproduce the consumer's outputs.

    Parameters
    ----------
    gram, weight
        As for :func:`removal_errors`.
    mask : ndarray of shape (n_inputs,) of bool
        True for the inputs that stay.

    Returns
    -------
    ndarray of shape (n_outputs, n_kept + 1)
        The weights and, as the last column, the bias.
    """
    kept = np.append(np.flatnonzero(mask), len(mask))
    return np.linalg.solve(gram[np.ix_(kept, kept)], (weight @ gram[:, kept]).T).T


def can_refit(network: nn.Module, layers: Sequence[UnitLayer]) -> bool:
    """Tell whether all that read the units are linear layers with a bias: their best weights are known."""
    consumers = [network.get_submodule(path) for layer in layers for path, _ in layer.consumers]
    return all(isinstance(module, nn.Linear) and module.bias is not None for module in consumers)


def reconstruction_worth(
    network: nn.Module,
    layers: Sequence[UnitLayer],
    layout: Layout,
    sample: Sequence[tuple[Tensor, Tensor]],
) -> list[Floats]:
    """Score the units of all layers by the error that their removal adds, per cost that it frees.

    The errors of several consumers add up. The error of an input counts a hundredfold: fine-tuning cannot
    make up for it as for a hidden unit.

    Parameters
    ----------
    network : nn.Module
        The network, for which :func:`can_refit` holds.
    layers : sequence of UnitLayer
        Its prunable units.
    layout : Layout
        Its widths, and the measure of their cost.
    sample : sequence of (Tensor, Tensor)
        As for :func:`activation_gram`.

    Returns
    -------
    list of ndarray of shape (n_units,)
        The logarithms, standardised over all layers.
    """
    errors = []
    for layer in layers:
        error = np.zeros(layer.n_units)
        for path, positions in layer.consumers:
            gram = activation_gram(network, path, sample)
            error += removal_errors(gram, _weight(network, path), positions)
        error = np.maximum(error, _LEAST_ERROR)
        if isinstance(network.get_submodule(layer.producers[0].path), PiecewiseLinearEncoding):
            error *= _INPUT_WEIGHT
        errors.append(error)
    return log_worth(errors, layout)


def log_worth(errors: Sequence[Floats], layout: Layout) -> list[Floats]:
    """Return the logarithms of errors per cost, standardised over all layers.

    Parameters
    ----------
    errors : sequence of ndarray of shape (n_units,)
        What the removal of each unit adds to some error, in shares of it, by layer; not negative.
    layout : Layout
        What it frees.
    """
    logs = [
        np.log(np.maximum(error, _LEAST_ERROR) / layout.unit_cost(position))
        for position, error in enumerate(errors)
    ]
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
        The network, for which :func:`can_refit` holds.
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
    layers = list(layers)
    for number, mask in enumerate(masks):
        if mask.all():
            continue
        layer, weights = layers[number], {}
        made = removed_positions([(layer.producers, mask)])
        for path, positions in layer.consumers:
            gram, weight = activation_gram(network, path, sample), _weight(network, path)
            kept = np.ones(len(gram) - 1, dtype=bool)
            kept[positions[~mask].ravel()] = False
            # A layer that reads the units and makes them, too, loses outputs with them.
            weights[path] = np.delete(refit(gram, weight, kept), made.get(path, []), axis=0)
        every = [mask if other is layer else np.ones(other.n_units, dtype=bool) for other in layers]
        network, layers = shrink(network, [layer], [mask]), list(remaining_units(layers, every))
        for path, weight in weights.items():
            consumer = _linear(network, path)
            with torch.no_grad():
                consumer.weight.copy_(torch.from_numpy(weight[:, :-1]))
                consumer.bias.copy_(torch.from_numpy(weight[:, -1]))
    return network


def _linear(network: nn.Module, path: str) -> nn.Linear:
    module = network.get_submodule(path)
    assert isinstance(module, nn.Linear)
    return module


def _weight(network: nn.Module, path: str) -> Floats:
    """Return a consumer's weights with its bias as the last column."""
    consumer = _linear(network, path)
    stacked = torch.cat([consumer.weight, consumer.bias[:, None]], dim=1)
    return stacked.detach().cpu().numpy().astype(np.float64)
