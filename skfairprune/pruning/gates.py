"""Gates: the relaxed mask, one scalar in [0, 1] a unit, always at the budget."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from skfairprune.pruning.budget import Layout
from skfairprune.pruning.units import UnitLayer

__all__ = ["BudgetedGates", "Gated", "GatedNetwork", "gate_columns"]

# The threshold is bracketed by nested grids and polished by Newton steps, without leaving the device.
_GRID, _GRID_ROUNDS, _NEWTON_ROUNDS = 32, 2, 3
# Newton steps need a bracket that is not much wider than the temperature.
_LEAST_TEMPERATURE = 0.01
# Gates that are tried at all thresholds of a grid at once; of more each is tried by itself.
_GATES_AT_ONCE = 100_000


class BudgetedGates(nn.Module):
    r"""Gates that are a soft choice of the best-scored units under a budget.

    The gate of unit :math:`u` with score :math:`s_u` is

    .. math:: m_u = \sigma\big((s_u - \tau) / T\big),

    with the threshold :math:`\tau` set so that what the network costs at the soft layer widths
    :math:`\sum_{u \in l} m_u`, by the layout's measure, equals the budget. Gradients pass through
    :math:`\tau` (implicit function theorem), so that a step on the scores trades units against each other
    and never the budget. As the temperature :math:`T` falls to 0 the gates become the binary mask of the
    best-scored units.

    Parameters
    ----------
    layout : Layout
        Counts the cost.
    scores : sequence of Tensor of shape (n_units,)
        The starting scores, by layer, of spread about 1.
    """

    def __init__(self, layout: Layout, scores: Sequence[Tensor]) -> None:
        super().__init__()
        self.layout = layout
        self.scores = nn.Parameter(torch.cat(list(scores)))
        self.sizes = [len(s) for s in scores]
        self.budget = float(layout.cost())
        self.temperature = 1.0

    def _relaxed(self, threshold: Tensor, scores: Tensor) -> Tensor:
        return torch.sigmoid((scores - threshold) / self.temperature)

    def _count(self, gates: Tensor) -> Tensor:
        """Return the cost at the soft widths of gates of shape (..., n_units_total)."""
        return self._soft(gates).cost()

    def _soft(self, gates: Tensor) -> Layout:
        return self.layout.resized([layer.sum(-1) for layer in gates.split(self.sizes, dim=-1)])

    def _costs(self, gates: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cost and, for each unit, its derivative by the unit's gate."""
        soft = self._soft(gates)
        costs = [gates.new_ones(size) * soft.unit_cost(layer) for layer, size in enumerate(self.sizes)]
        return soft.cost(), torch.cat(costs)

    def _threshold(self) -> Tensor:
        """Find the threshold at which the cost meets the budget."""
        scores = self.scores.detach()
        low = scores.min() - 40 * self.temperature
        width = scores.max() + 40 * self.temperature - low
        steps = torch.arange(_GRID + 1, device=scores.device, dtype=scores.dtype) / _GRID
        finer = math.ceil(math.log(_LEAST_TEMPERATURE / self.temperature, _GRID))
        for _ in range(_GRID_ROUNDS + max(finer, 0)):
            grid = low + width * steps
            parts = grid[:, None].split(1 if len(scores) > _GATES_AT_ONCE else len(grid))
            counts = torch.cat([self._count(self._relaxed(part, scores)) for part in parts])
            over = counts > self.budget
            low, width = grid[(over.sum() - 1).clamp(min=0)], width / _GRID
        threshold = low + width / 2
        for _ in range(_NEWTON_ROUNDS):
            gates = self._relaxed(threshold, scores)
            count, cost = self._costs(gates)
            slope = (cost * gates * (1 - gates)).sum() / self.temperature
            step = (count - self.budget) / slope.clamp(min=torch.finfo(slope.dtype).tiny)
            threshold = threshold + step.clamp(-width, width)
        return threshold

    def forward(self) -> Tensor:
        """Return the gates of all layers in one tensor of shape (n_units_total,)."""
        threshold, scores = self._threshold(), self.scores.detach()
        gates = self._relaxed(threshold, scores)
        _, cost = self._costs(gates)
        # dτ/ds = cost·m' / Σ cost·m' keeps the count constant; m' = m(1 - m)/T.
        share = cost * gates * (1 - gates)
        share = share / share.sum().clamp(min=torch.finfo(share.dtype).tiny)
        return self._relaxed(threshold + share @ (self.scores - scores), self.scores)


class Gated(nn.Module, ABC):
    """A network with gates.

    Attributes
    ----------
    columns : dict of str to slice or Tensor
        From :func:`gate_columns`, where gates act on inputs.
    """

    columns: dict[str, slice | Tensor]

    @abstractmethod
    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        """Return the outputs at rows x under the gates."""

    @abstractmethod
    def fold(self, gates: Tensor) -> None:
        """Multiply the gates into the weights, after which all gates count as 1."""

    @abstractmethod
    def release(self) -> nn.Module:
        """Return the network without its gates."""


class GatedNetwork(Gated):
    """A network whose units pass through gates, applied once, at the inputs of their consumers.

    Parameters
    ----------
    network : nn.Module
        The network; shared, not copied. Its consumers get a hook while this object lives.
    layers : sequence of UnitLayer
        Its prunable units.
    """

    def __init__(self, network: nn.Module, layers: Sequence[UnitLayer]) -> None:
        super().__init__()
        self.network = network
        self.layers = tuple(layers)
        self.columns = gate_columns(network, layers)
        self._gates: Tensor | None = None
        self._handles = [
            network.get_submodule(path).register_forward_pre_hook(self._hook(columns))
            for path, columns in self.columns.items()
        ]

    def _hook(self, columns: slice | Tensor) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor] | None]:
        def gate_inputs(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
            if self._gates is None:
                return None
            gates, inputs = _of_columns(self._gates, columns), args[0]
            # Features come last in a linear layer's inputs, channels second in a convolution's.
            others = [1] * (inputs.ndim - 2)
            shape = [*others, -1] if isinstance(module, nn.Linear) else [-1, *others]
            return (inputs * gates.reshape(*gates.shape[:-1], *shape),)

        return gate_inputs

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        """Return the outputs at rows x under gates of shape (n_units_total,), or a row of gates for each."""
        self._gates = gates
        try:
            return self.network(x)
        finally:
            self._gates = None

    def release(self) -> nn.Module:
        """Remove the hooks and return the network."""
        for handle in self._handles:
            handle.remove()
        return self.network

    @torch.no_grad()
    def fold(self, gates: Tensor) -> None:
        """Multiply the gates into the consumers' weights, after which all gates count as 1."""
        for path, columns in self.columns.items():
            consumer = self.network.get_submodule(path)
            weight = consumer.get_parameter("weight")
            # Of a grouped convolution each group of outputs reads inputs of its own.
            n_groups = consumer.groups if isinstance(consumer, _ConvNd) else 1
            by_group = weight.view(n_groups, weight.shape[0] // n_groups, weight.shape[1], -1)
            by_group.mul_(_of_columns(gates, columns).view(n_groups, 1, -1, 1))


def gate_columns(network: nn.Module, layers: Sequence[UnitLayer]) -> dict[str, slice | Tensor]:
    """Tell which gate acts on each input of the consumers.

    Parameters
    ----------
    network : nn.Module
        The network.
    layers : sequence of UnitLayer
        Its prunable units.

    Returns
    -------
    dict of str to slice, or Tensor of shape (n_inputs,) of long
        By the consumer's path: the slice of the gates that act on its inputs one by one, or for each input
        the position of its gate, -1 where there is none.
    """
    parameter = next(network.parameters())
    found: dict[str, Tensor] = {}
    start = 0
    for layer in layers:
        for path, positions in layer.consumers:
            module = network.get_submodule(path)
            # Of a grouped convolution the weights hold the inputs of one group.
            n_groups = module.groups if isinstance(module, _ConvNd) else 1
            n_inputs = n_groups * module.get_parameter("weight").shape[1]
            columns = found.setdefault(path, torch.full((n_inputs,), -1))
            units = torch.arange(start, start + layer.n_units)
            columns[torch.from_numpy(positions)] = units[:, None].expand(positions.shape)
        start += layer.n_units
    result: dict[str, slice | Tensor] = {}
    for path, columns in found.items():
        first, last = int(columns[0]), int(columns[-1])
        in_order = first >= 0 and torch.equal(columns, torch.arange(first, first + len(columns)))
        result[path] = slice(first, last + 1) if in_order else columns.to(parameter.device)
    return result


def _of_columns(gates: Tensor, columns: slice | Tensor) -> Tensor:
    """Return the gate of each input, of shape (..., n_inputs)."""
    if isinstance(columns, slice):
        return gates[..., columns]
    # Position -1 is the last: a gate that is always open.
    return nn.functional.pad(gates, (0, 1), value=1.0)[..., columns]
