"""The columns that a network needs, on networks whose needs are known."""

import numpy as np
import torch
from numpy.testing import assert_array_equal

from skfairprune.modules import PiecewiseLinearEncoding, TabularNetwork
from skfairprune.pruning.columns import needed_columns


def _network(weights):
    """Return logits (0, w · x - 1/2 Σw) of columns in [0, 1], through one unit."""
    network = TabularNetwork(PiecewiseLinearEncoding([np.array([0.0, 1.0])] * len(weights)), (1,), 2).eval()
    with torch.no_grad():
        network.layers[0].weight[:] = torch.tensor(weights, dtype=torch.float32)
        network.layers[0].bias[:] = 10 - sum(weights) / 2
        network.layers[2].weight[:] = torch.tensor([[0.0], [1.0]])
        network.layers[2].bias[:] = torch.tensor([0.0, -10.0])
    return network


def _rows(n_columns):
    x = torch.rand(4000, n_columns, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] + 0.5 * x[:, 1] > 0.75).long(), torch.ones(4000)


def test_a_column_of_noise_is_not_needed():
    x, target, weight = _rows(4)
    assert_array_equal(needed_columns(_network([6.0, 3.0, 1.0, -0.5]), x, target, weight), [0, 1])


def test_of_two_equal_columns_one_is_needed():
    x, target, weight = _rows(3)
    x[:, 2] = x[:, 1]
    found = needed_columns(_network([6.0, 3.0, 3.0]), x, target, weight)
    assert len(found) == 2
    assert found[0] == 0


def test_rows_without_weight_do_not_count():
    x, target, _ = _rows(3)
    half = torch.arange(4000) < 2000
    target = torch.where(half, target, (x[:, 2] > 0.5).long())
    assert_array_equal(needed_columns(_network([6.0, 3.0, 1.0]), x, target, half.float()), [0, 1])
    assert 2 in needed_columns(_network([0.0, 0.0, 6.0]), x, target, (~half).float())


def test_one_column_stays_where_none_is_needed():
    x, _, weight = _rows(3)
    target = torch.randint(2, (4000,), generator=torch.Generator().manual_seed(1))
    assert len(needed_columns(_network([1.0, 2.0, 3.0]), x, target, weight)) == 1
