"""The columns that a network needs, by its loss on rows that its weights have not learned from."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skfairprune.modules import TabularNetwork

__all__ = ["needed_columns"]


def needed_columns(network: TabularNetwork, x: Tensor, target: Tensor, weight: Tensor) -> NDArray[np.intp]:
    """Find the columns that a network cannot do without.

    A column is left out by its mean: the first layer gets the mean of its bins in place of them, which is
    what a refit of the bias makes of a constant. In increasing order of the loss without each alone, a
    column joins those that are left out if the loss without all of them is, within one standard error of
    the paired difference, the least that was seen: backward elimination by the one-standard-error rule
    (Breiman et al., "Classification and Regression Trees", 1984, Section 3.4.3). So of two columns that
    say the same one leaves, and a column that the weights learned noise from leaves with a gain.

    Parameters
    ----------
    network : TabularNetwork
        The network, trained, in eval mode.
    x : Tensor of shape (n_samples, n_columns)
        Rows that it did not learn from.
    target : Tensor of shape (n_samples,) of long
        Their joint classes: a column that tells the group alone is needed, too.
    weight : Tensor of shape (n_samples,)
        Their weights in the loss.

    Returns
    -------
    ndarray of int
        Their positions, increasing, at least one.
    """
    first, *rest = network.layers
    assert isinstance(first, nn.Linear)
    encoding, columns = network.encoding, network.encoding.kept_columns

    def losses(state: Tensor) -> Tensor:
        for layer in rest:
            state = layer(state)
        return weight * nn.functional.cross_entropy(state, target, reduction="none")

    with torch.no_grad():
        encoded = encoding(x)
        state = first(encoded)
        encoded -= (weight[:, None] * encoded).sum(dim=0) / weight.sum()

        def part(column: int) -> Tensor:
            """Return what a column adds to the first layer, less its mean."""
            bins = (encoding.columns == column).nonzero().squeeze(1)
            return encoded[:, bins] @ first.weight[:, bins].T

        least = losses(state)
        alone = [float(losses(state - part(column)).mean()) for column in columns]
        order = columns[np.argsort(alone, kind="stable")]
        needed: list[int] = []
        for number, column in enumerate(order):
            without = state - part(column)
            found = losses(without)
            more = found - least
            last = number == len(order) - 1 and not needed
            if more.mean() <= more.std() / len(more) ** 0.5 and not last:
                state = without
                if more.mean() < 0:
                    least = found
            else:  # or the loss is not finite, which says nothing
                needed.append(int(column))
    return np.sort(np.array(needed))
