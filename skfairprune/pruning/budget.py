"""The sparsity budget: which units to remove, in a given order of worth, to reach it.

Sparsity is the share of the dense network's trainable parameters (weights and biases) removed. A unit
takes along its producer's row and bias and its consumer's column, so what it frees depends on how many
units its neighbours have left: layers are counted together.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["Chain", "parameter_budget", "select_units"]


@dataclass(frozen=True)
class Chain:
    """The widths of a chain of linear layers, and what its units cost.

    Parameters
    ----------
    n_inputs : int
        The number of (encoded) inputs.
    sizes : tuple of int
        The units of each hidden layer.
    n_outputs : int
        The number of outputs.
    """

    n_inputs: int
    sizes: tuple[int, ...]
    n_outputs: int

    def resized(self, sizes: Sequence[int]) -> "Chain":
        """Return the chain with other hidden layer sizes."""
        return replace(self, sizes=tuple(sizes))

    def layer_parameters(self) -> list[int]:
        """Return the weights and biases of each linear layer, the output layer last."""
        widths = [self.n_inputs, *self.sizes, self.n_outputs]
        return [(a + 1) * b for a, b in pairwise(widths)]

    def n_parameters(self) -> int:
        """Return the weights and biases of all layers."""
        return sum(self.layer_parameters())

    def unit_cost(self, layer: int) -> int:
        """Return the parameters that one unit of a hidden layer takes along."""
        widths = [self.n_inputs, *self.sizes, self.n_outputs]
        return widths[layer] + 1 + widths[layer + 2]


def parameter_budget(dense: Chain, sparsity: float) -> int:
    """Return the most parameters that a network of that sparsity may have.

    Parameters
    ----------
    dense : Chain
        The dense network.
    sparsity : float
        The share of its parameters to remove, in [0, 1).

    Raises
    ------
    ValueError
        If not even one unit in each hidden layer stays within it.
    """
    # Rounded before the floor: 1 - 0.9 is a little less than 0.1.
    budget = math.floor(round((1 - sparsity) * dense.n_parameters(), 6))
    least = dense.resized([1] * len(dense.sizes)).n_parameters()
    if least > budget:
        reachable = math.floor((1 - least / dense.n_parameters()) * 1e6) / 1e6
        raise ValueError(
            f"sparsity={sparsity} cannot be reached: with one unit left in each hidden layer, "
            f"{least} of the {dense.n_parameters()} parameters of hidden_layer_sizes={dense.sizes} "
            f"remain, a sparsity of {reachable:.6f}. Ask for at most that, or for larger "
            "hidden_layer_sizes."
        )
    return budget


def select_units(
    chain: Chain, worth: Sequence[NDArray[np.floating]], budget: float
) -> list[NDArray[np.bool_]]:
    """Keep the units of most worth: the smallest removal that meets a budget of parameters.

    Units leave in increasing order of worth, each layer keeping at least one, until the budget is met;
    then every unit that can come back within it does, the worthiest first.

    Parameters
    ----------
    chain : Chain
        The network before the removal.
    worth : sequence of ndarray of shape (n_units,)
        The worth of each unit, by layer, comparable across layers. Of equals the later leaves first.
    budget : float
        The most parameters that may stay, at least those of a network with one unit a layer.

    Returns
    -------
    list of ndarray of shape (n_units,) of bool
        The mask of each layer, True for the units that stay. No unit can be put back within the budget.
    """
    masks = [np.ones(len(w), dtype=bool) for w in worth]
    sizes = list(chain.sizes)
    order = sorted((w, -unit, layer) for layer, ws in enumerate(worth) for unit, w in enumerate(ws))
    removed = []
    for _, negative, layer in order:
        if chain.resized(sizes).n_parameters() <= budget:
            break
        if sizes[layer] > 1:
            masks[layer][-negative] = False
            sizes[layer] -= 1
            removed.append((layer, -negative))
    for layer, unit in reversed(removed):
        sizes[layer] += 1
        if chain.resized(sizes).n_parameters() <= budget:
            masks[layer][unit] = True
        else:
            sizes[layer] -= 1
    return masks
