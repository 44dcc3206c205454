"""Gates: the relaxed mask, one scalar in [0, 1] a unit, always at the budget."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from skfairprune.pruning.budget import Chain
from skfairprune.pruning.units import UnitLayer

__all__ = ["BudgetedGates", "GatedNetwork"]

# The threshold is bracketed by nested grids and polished by Newton steps, without leaving the device.
_GRID, _GRID_ROUNDS, _NEWTON_ROUNDS = 32, 2, 3


class BudgetedGates(nn.Module):
    r"""Gates that are a soft choice of the best-scored units under a budget.

    The gate of unit :math:`u` with score :math:`s_u` is

    .. math:: m_u = \sigma\big((s_u - \tau) / T\big),

    with the threshold :math:`\tau` set so that what the network costs at the soft layer widths
    :math:`\sum_{u \in l} m_u`, by the chain's measure, equals the budget. Gradients pass through
    :math:`\tau` (implicit function theorem), so that a step on the scores trades units against each other
    and never the budget. As the temperature :math:`T` falls to 0 the gates become the binary mask of the
    best-scored units.

    Parameters
    ----------
    chain : Chain
        Counts the cost.
    scores : sequence of Tensor of shape (n_units,)
        The starting scores, by layer, of spread about 1.
    """

    def __init__(self, chain: Chain, scores: Sequence[Tensor]) -> None:
        super().__init__()
        self.chain = chain
        self.scores = nn.Parameter(torch.cat(list(scores)))
        self.sizes = [len(s) for s in scores]
        self.budget = float(chain.cost())
        self.temperature = 1.0

    def _relaxed(self, threshold: Tensor, scores: Tensor) -> Tensor:
        return torch.sigmoid((scores - threshold) / self.temperature)

    def _count(self, gates: Tensor) -> Tensor:
        """Return the cost at the soft widths of gates of shape (..., n_units_total)."""
        return self._soft(gates).cost()  # type: ignore[return-value]

    def _soft(self, gates: Tensor) -> Chain:
        return self.chain.resized([layer.sum(-1) for layer in gates.split(self.sizes, dim=-1)])

    def _costs(self, gates: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cost and, for each unit, its derivative by the unit's gate."""
        soft = self._soft(gates)
        costs = [gates.new_ones(size) * soft.unit_cost(layer) for layer, size in enumerate(self.sizes)]
        return soft.cost(), torch.cat(costs)  # type: ignore[return-value]

    def _threshold(self) -> Tensor:
        """Find the threshold at which the cost meets the budget."""
        scores = self.scores.detach()
        low = scores.min() - 40 * self.temperature
        width = scores.max() + 40 * self.temperature - low
        steps = torch.arange(_GRID + 1, device=scores.device, dtype=scores.dtype) / _GRID
        for _ in range(_GRID_ROUNDS):
            grid = low + width * steps
            over = self._count(self._relaxed(grid[:, None], scores)) > self.budget
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


class GatedNetwork(nn.Module):
    """A network whose units pass through gates, applied once, at the input of their consumer.

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
        self._gates: tuple[Tensor, ...] | None = None
        self._handles = [
            network.get_submodule(layer.consumer).register_forward_pre_hook(self._hook(index))
            for index, layer in enumerate(layers)
        ]

    def _hook(self, index: int) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor] | None]:
        def gate_inputs(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
            return None if self._gates is None else (args[0] * self._gates[index],)

        return gate_inputs

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        """Return the outputs at rows x under gates of shape (n_units_total,), or a row of gates for each."""
        self._gates = gates.split([layer.n_units for layer in self.layers], dim=-1)
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
        for layer, gate in zip(
            self.layers, gates.split([layer.n_units for layer in self.layers]), strict=True
        ):
            consumer = self.network.get_submodule(layer.consumer)
            assert isinstance(consumer, nn.Linear)
            consumer.weight.mul_(gate)
