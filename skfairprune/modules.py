"""The built-in tabular network and its piecewise-linear encoding of numeric columns."""

import copy
from collections.abc import Callable, Sequence
from numbers import Real

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = [
    "ACTIVATIONS",
    "DecisionNetwork",
    "PiecewiseLinearEncoding",
    "TabularNetwork",
    "find_knots",
]

#: The activations of the built-in network by name.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def find_knots(
    column: NDArray[np.floating], sample_weight: NDArray[np.floating], n_bins: int
) -> NDArray[np.float64]:
    """Choose the knots of one column from its weighted distribution.

    A column with at most ``n_bins + 1`` distinct values gets a knot at each. Otherwise values that alone
    hold a bin's share of the weight (the spike at 0 of a capital gain) get a knot of their own, and the
    rest are weighted quantiles of the other values, so that a spike costs one knot and not most of them.

    Parameters
    ----------
    column : ndarray of shape (n_samples,)
        Finite values.
    sample_weight : ndarray of shape (n_samples,)
        Positive weights; a row of weight 2 counts like two rows.
    n_bins : int
        The largest number of bins, at least 1.

    Returns
    -------
    ndarray of shape (n_knots,)
        Strictly increasing, ``n_knots <= n_bins + 1``. A constant column has one knot and no bin.

    Examples
    --------
    >>> import numpy as np
    >>> from skfairprune.modules import find_knots
    >>> find_knots(np.array([0., 1., 1., 0.]), np.ones(4), n_bins=48)
    array([0., 1.])
    """
    distinct = np.unique(column)
    values = distinct.astype(np.float64)
    if len(values) <= n_bins + 1:
        return values
    weight = np.bincount(np.searchsorted(distinct, column), sample_weight)
    spike = weight * n_bins > weight.sum()
    spike[[0, -1]] = True  # the range is always covered
    others, cumulated = values[~spike], np.cumsum(weight[~spike])
    n_quantiles = max(n_bins + 1 - int(spike.sum()), 0)
    levels = np.arange(1, n_quantiles + 1) / (n_quantiles + 1)
    quantiles = others[np.searchsorted(cumulated, levels * cumulated[-1])]
    return np.unique(np.concatenate([values[spike], quantiles]))


class PiecewiseLinearEncoding(nn.Module):
    r"""Encode each column by how far it has come through each of its bins.

    A column with knots :math:`k_0 < \dots < k_m` becomes the :math:`m` numbers

    .. math:: e_t(x) = \mathrm{clip}\Big(\frac{x - k_{t-1}}{k_t - k_{t-1}},\; 0,\; 1\Big),

    so that a linear layer on them is any continuous function of the column that is linear between the
    knots and constant outside. A column of two values is scaled to 0 and 1; a constant one is dropped.
    From Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning" (2022), Eq. 1,
    with the outer bins closed.

    Parameters
    ----------
    knots : sequence of ndarray
        The strictly increasing knots of each column, from :func:`find_knots`.
    """

    columns: Tensor
    left: Tensor
    width: Tensor

    def __init__(self, knots: Sequence[NDArray[np.float64]]) -> None:
        super().__init__()
        self.n_columns = len(knots)
        n_bins = [len(k) - 1 for k in knots]
        left, right = (
            np.concatenate([k[:-1] for k in knots]),
            np.concatenate([k[1:] for k in knots]),
        )
        self.register_buffer("columns", torch.from_numpy(np.repeat(np.arange(len(knots)), n_bins)))
        self.register_buffer("left", torch.from_numpy(left))
        self.register_buffer("width", torch.from_numpy(right - left))

    @property
    def n_outputs(self) -> int:
        """The number of encoded values, the bins of all columns."""
        return len(self.columns)

    @property
    def kept_columns(self) -> NDArray[np.intp]:
        """The positions of the columns that are read, in order; a column without a bin is not."""
        return np.unique(self.columns.cpu().numpy())

    def select(self, kept: Tensor) -> "PiecewiseLinearEncoding":
        """Return an encoding into only some of the encoded values.

        Parameters
        ----------
        kept : Tensor of shape (n_kept,) of long
            Their positions. A column of which none is kept is not read any more.
        """
        small = copy.deepcopy(self)
        for name, buffer in self.named_buffers():
            setattr(small, name, buffer.index_select(0, kept.to(buffer.device)))
        return small

    def forward(self, x: Tensor) -> Tensor:
        """Encode rows of shape (n_samples, n_columns) into (n_samples, n_outputs), in [0, 1]."""
        return x.index_select(1, self.columns).sub_(self.left).div_(self.width).clamp_(0, 1)


class TabularNetwork(nn.Module):
    """A multilayer perceptron on piecewise-linearly encoded columns.

    Parameters
    ----------
    encoding : PiecewiseLinearEncoding
        The encoding.
    hidden_layer_sizes : sequence of int
        The number of units of each hidden layer, each at least 1.
    n_outputs : int
        The number of logits.
    activation : str
        A key of ``ACTIVATIONS``.
    dropout : float
        The probability in [0, 1) with which a hidden unit is dropped in training.
    """

    def __init__(
        self,
        encoding: PiecewiseLinearEncoding,
        hidden_layer_sizes: Sequence[int],
        n_outputs: int,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoding = encoding
        layers: list[nn.Module] = []
        n_inputs = encoding.n_outputs
        for size in hidden_layer_sizes:
            layers += [nn.Linear(n_inputs, size), ACTIVATIONS[activation]()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
            n_inputs = size
        layers.append(nn.Linear(n_inputs, n_outputs))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, of shape (n_samples, n_outputs), of rows (n_samples, n_columns)."""
        return self.layers(self.encoding(x))


class DecisionNetwork(nn.Module):
    """A network with the decision rule merged in: linear → softmax → linear.

    It carries the rules for other bounds, so that what is deployed can be set to any of them.

    Parameters
    ----------
    network : nn.Module
        Gives the logits of the joint classes (label, group), of shape (n_samples, n_joint).
    output_weights : Tensor of shape (n_classes, n_joint)
        Non-negative, every column sums to 1, so that the outputs are probabilities.
    bounds : Tensor of shape (n_bounds,), default=None
        Increasing bounds on the gap.
    rules : Tensor of shape (n_bounds, n_classes, n_joint), default=None
        The output weights for each.
    """

    output_weights: Tensor
    bounds: Tensor
    rules: Tensor

    def __init__(
        self,
        network: nn.Module,
        output_weights: Tensor,
        bounds: Tensor | None = None,
        rules: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("output_weights", output_weights)
        self.register_buffer("bounds", output_weights.new_empty(0) if bounds is None else bounds)
        empty = output_weights.new_empty(0, *output_weights.shape)
        self.register_buffer("rules", empty if rules is None else rules)

    def position(self, bound: float) -> int:
        """Return the position of the rule of the largest bound that is not above this one.

        Parameters
        ----------
        bound : float
            From the smallest of ``bounds`` to 1.

        Raises
        ------
        ValueError
            If it is no such number, or there is no rule for it.
        """
        if isinstance(bound, bool) or not isinstance(bound, Real) or not bound <= 1:
            raise ValueError(f"The bound must be a number of at most 1; got {bound!r}.")
        # A bound asked for in double precision must find itself in single.
        position = int(torch.searchsorted(self.bounds, bound * (1 + 1e-6), right=True)) - 1
        if position < 0:
            known = f"the smallest is {float(self.bounds[0]):g}" if len(self.bounds) else "there is none"
            raise ValueError(f"There is no rule for a bound of {bound!r}: {known}.")
        return position

    def set_bound(self, bound: float) -> int:
        """Take the rule at :meth:`position` of a bound, and return the position."""
        position = self.position(bound)
        self.output_weights = self.rules[position].clone()
        return position

    def joint_proba(self, x: Tensor) -> Tensor:
        """Return the probabilities of (label, group), of shape (n_samples, n_joint)."""
        return torch.softmax(self.network(x), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class probabilities after the rule, of shape (n_samples, n_classes)."""
        return nn.functional.linear(self.joint_proba(x), self.output_weights)
