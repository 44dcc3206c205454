"""Single weights as the prunable parts: a mask on each weight, true zeros in the end."""

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from skfairprune.constraints import Floats
from skfairprune.pruning.budget import Layout
from skfairprune.pruning.criteria import ScoringData
from skfairprune.pruning.gates import Gated
from skfairprune.pruning.layout import count_places
from skfairprune.pruning.reconstruction import log_worth
from skfairprune.pruning.rowwise import keeps_rows, row_by_row
from skfairprune.pruning.structure import Masks, Sample, Structure
from skfairprune.pruning.weight_criteria import WEIGHT_CRITERIA, weights_of

__all__ = ["WeightLayer", "WeightLayout", "WeightStructure", "find_weights"]


class WeightLayer(NamedTuple):
    """The weights of a layer.

    Attributes
    ----------
    name : str
        Path of the ``nn.Linear`` or the convolution.
    shape : tuple of int
        The shape of its weight, (n_outputs, n_inputs, ...).
    n_places : int
        How often the layer is applied within a row (tokens, pixels).
    n_others : int
        Its other parameters: the bias, which always stays.
    """

    name: str
    shape: tuple[int, ...]
    n_places: int
    n_others: int

    @property
    def n_units(self) -> int:
        """The number of weights."""
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class WeightLayout(Layout):
    """The numbers of weights that stay in each layer: each costs itself.

    Parameters
    ----------
    name : str
        The network's, for errors.
    layers : tuple of WeightLayer
        The dense layers.
    sizes : tuple of int
        The weights that stay in each.
    n_outputs : int
        The outputs of the network.
    measure : {"parameters", "macs"}
        What sparsity and costs are counted in.
    """

    name: str
    layers: tuple[WeightLayer, ...]
    sizes: tuple[int, ...]
    n_outputs: int
    measure: str = "parameters"

    @property
    def widths(self) -> tuple[int, ...]:
        """The weights that stay in each layer."""
        return self.sizes

    def resized(self, widths: Sequence[Any]) -> Self:
        """Return the layout with other numbers of weights, whole or soft."""
        return type(self)(self.name, self.layers, tuple(widths), self.n_outputs, self.measure)

    def cost(self) -> Any:
        """Return what the layers cost, by the measure."""
        return sum(self.layer_cost(number, self.measure) for number in range(len(self.layers)))

    def layer_cost(self, number: int, measure: str) -> Any:
        """Return what a layer costs, by any measure but units."""
        layer, size = self.layers[number], self.sizes[number]
        return size * layer.n_places if measure == "macs" else size + layer.n_others

    def n_parameters(self) -> int:
        """Return the parameters that are not removed."""
        return sum(self.layer_cost(number, "parameters") for number in range(len(self.layers)))

    def unit_cost(self, layer: int) -> int:
        """Return what one weight of a layer costs."""
        return self.layers[layer].n_places if self.measure == "macs" else 1

    def floors(self, floor: int) -> list[int]:
        """Return the fewest weights of each layer: one."""
        return [1] * len(self.sizes)

    def describe(self) -> str:
        """Name the network in an error."""
        return f"the linear layers and convolutions of {self.name}"

    def describe_least(self) -> str:
        """Name the least that stays in an error."""
        return "one weight, and the biases, left in each layer"


class WeightGates(Gated):
    """A network whose weights are multiplied by gates.

    Parameters
    ----------
    network : nn.Module
        The network; shared, not copied.
    layers : sequence of WeightLayer
        Its prunable weights.
    """

    def __init__(self, network: nn.Module, layers: Sequence[WeightLayer]) -> None:
        super().__init__()
        self.network = network
        self.layers = tuple(layers)
        self.columns = {}

    def _gated(self, gates: Tensor) -> dict[str, Tensor]:
        parts = gates.split([layer.n_units for layer in self.layers])
        # Not get_parameter: within a functional call they are tensors.
        weights = [self.network.get_submodule(layer.name).weight for layer in self.layers]
        return {
            f"{layer.name}.weight": weight * part.view(layer.shape)
            for layer, weight, part in zip(self.layers, weights, parts, strict=True)
        }

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        """Return the outputs at rows x under gates of shape (n_weights_total,)."""
        # Without ties: of a layer with two names torch would swap the weight twice, and leave the second.
        return torch.func.functional_call(self.network, self._gated(gates), (x,), tie_weights=False)

    def release(self) -> nn.Module:
        """Return the network."""
        return self.network

    @torch.no_grad()
    def fold(self, gates: Tensor) -> None:
        """Multiply the gates into the weights, after which all gates count as 1."""
        for name, weight in self._gated(gates).items():
            self.network.get_parameter(name).copy_(weight)


def find_weights(network: nn.Module, probe: Tensor) -> tuple[WeightLayer, ...]:
    """Find the weights of the linear layers and convolutions that a network calls once.

    Parameters
    ----------
    network : nn.Module
        The network.
    probe : Tensor of shape (n_samples, n_features)
        Some rows.

    Returns
    -------
    tuple of WeightLayer
        In the order of the network's modules.

    Raises
    ------
    ValueError
        If there is none.
    """
    modules = dict(network.named_modules())
    owners = Counter(
        parameter for module in modules.values() for parameter in module.parameters(recurse=False)
    )
    paths = [
        path
        for path, module in modules.items()
        if isinstance(module, nn.Linear | _ConvNd)
        and not isinstance(module, _ConvTransposeNd)
        and "weight" in module._parameters
        and module.weight.requires_grad
    ]
    places = count_places(network, paths, probe)
    layers = []
    for path in paths:
        module, found = modules[path], places.get(path, [])
        weight = module.get_parameter("weight")
        if len(found) == 1 and owners[weight] == 1:
            n_all = sum(parameter.numel() for parameter in module.parameters(recurse=False))
            layers.append(WeightLayer(path, tuple(weight.shape), found[0], n_all - weight.numel()))
    if not layers:
        raise ValueError(
            f"The network {type(network).__name__} has no linear layer or convolution with weights of its "
            "own that is called once: there is nothing to prune. Use sparsity=0, or another network."
        )
    return tuple(layers)


@dataclass(frozen=True)
class WeightStructure(Structure):
    """Single weights.

    Parameters
    ----------
    layers : tuple of WeightLayer
        The weights.
    layout : WeightLayout
        Their numbers.
    pattern : (int, int) or None
        Of every m consecutive inputs of an output at most n weights stay, for the pattern (n, m).
    """

    layers: tuple[WeightLayer, ...]
    layout: WeightLayout
    pattern: Sequence[int] | None = None

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shape of each layer's mask: that of its weight."""
        return [layer.shape for layer in self.layers]

    def gated(self, network: nn.Module) -> Gated:
        """Return the network with a gate for each weight."""
        return WeightGates(network, self.layers)

    def score(self, criterion: str, data: ScoringData) -> list[Floats]:
        """Return the worth of each weight by a key of ``WEIGHT_CRITERIA``."""
        return WEIGHT_CRITERIA[criterion](data)

    def start(self, network: nn.Module, sample: Sample, data: Callable[[], ScoringData]) -> list[Floats]:
        r"""Return the worth of weight and input, the logarithm of :math:`w_{oi}^2 E[x_i^2]`.

        It is what the outputs of the layer lose in mean square, as a share of all weights' sum: the score of
        Sun et al., "A Simple and Effective Pruning Approach for Large Language Models" (2024), squared. The
        mean is by the rows' weights, and rows that a layer does not read count as 0.
        """
        squares: dict[str, Tensor] = {}
        by_row = torch.zeros(0)  # the weights of the rows that are passed through

        def record(path: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Tensor]) -> None:
                inputs = args[0].detach().double().square()
                # Features come last in a linear layer's inputs, channels second in a convolution's.
                inputs = inputs.flatten(2).mean(2) if isinstance(module, _ConvNd) else inputs
                if inputs.numel():
                    total = by_row @ inputs.reshape(len(by_row), -1, inputs.shape[-1]).mean(1)
                    squares[path] = squares.get(path, torch.zeros_like(total)) + total

            return hook

        paths = [layer.name for layer in self.layers]
        if not keeps_rows(network, paths, (rows for rows, _ in sample)):
            sample = [(row, weight) for batch in sample for row, weight in row_by_row(batch)]
        handles = [network.get_submodule(path).register_forward_pre_hook(record(path)) for path in paths]
        with torch.no_grad():
            for rows, weight in sample:
                by_row = weight.double()
                network(rows)
        for handle in handles:
            handle.remove()
        errors = []
        for layer in self.layers:
            read = squares.get(layer.name)
            square = np.zeros(layer.shape[1]) if read is None else read.cpu().numpy()
            weights = weights_of(network, layer.name).reshape(layer.shape)
            # The outputs of a group of a convolution read the channels of their group.
            by_output = square.reshape(-1, layer.shape[1])
            by_output = np.repeat(by_output, layer.shape[0] // len(by_output), axis=0)
            error = weights**2 * by_output.reshape(*by_output.shape, *[1] * (weights.ndim - 2))
            errors.append((error / max(error.sum(), np.finfo(float).tiny)).ravel())
        return log_worth(errors, self.layout)

    def select(self, worth: Sequence[Floats], budget: float) -> Masks:
        """Return masks of the weights of most worth within a budget, and within the pattern."""
        allowed = [self._within_pattern(w, layer) for w, layer in zip(worth, self.layers, strict=True)]
        every = np.concatenate([np.where(part, w, -np.inf) for w, part in zip(worth, allowed, strict=True)])
        sizes = [layer.n_units for layer in self.layers]
        price = np.repeat([self.layout.unit_cost(number) for number in range(len(sizes))], sizes)
        free = budget - self.layout.resized([0] * len(sizes)).cost()
        order = np.argsort(-every, kind="stable")
        order = order[np.isfinite(every[order])]
        # The best weight of each layer stays in any case.
        ends = np.cumsum(sizes)
        parts = np.split(every, ends[:-1])
        best = [end - len(part) + int(np.argmax(part)) for end, part in zip(ends, parts, strict=True)]
        order = np.concatenate([best, order[~np.isin(order, best)]])
        kept = np.zeros(len(every), dtype=bool)
        while len(order):
            spent = np.cumsum(price[order]) <= free
            kept[order[spent]] = True
            free -= price[order[spent]].sum()
            # Of what follows the first that is too dear, some may be cheaper.
            order = order[~spent]
            order = order[price[order] <= free]
        masks = np.split(kept, ends[:-1])
        return [mask.reshape(layer.shape) for mask, layer in zip(masks, self.layers, strict=True)]

    def _within_pattern(self, worth: Floats, layer: WeightLayer) -> np.ndarray:
        """Return which weights are among the n best of their m, of shape (n_weights,)."""
        if self.pattern is None:
            return np.ones(len(worth), dtype=bool)
        n, m = self.pattern
        # Inputs last: of a convolution each tap has blocks of its own.
        rows = np.moveaxis(worth.reshape(*layer.shape[:2], -1), 1, 2)
        n_inputs = rows.shape[2]
        padded = np.full((*rows.shape[:2], -(-n_inputs // m) * m), -np.inf)
        padded[..., :n_inputs] = rows
        blocks = padded.reshape(*rows.shape[:2], -1, m)
        rank = np.argsort(np.argsort(-blocks, axis=3, kind="stable"), axis=3)
        allowed = (rank < n).reshape(padded.shape)[..., :n_inputs]
        return np.moveaxis(allowed, 2, 1).ravel()

    def remove(self, network: nn.Module, masks: Masks) -> nn.Module:
        """Return a copy whose masked weights are 0."""
        small = copy.deepcopy(network)
        with torch.no_grad():
            for layer, mask in zip(self.layers, masks, strict=True):
                weight = small.get_submodule(layer.name).get_parameter("weight")
                weight.mul_(torch.from_numpy(mask).to(weight.device))
        return small

    def remove_and_refit(self, network: nn.Module, masks: Masks, sample: Sample) -> nn.Module:
        """Return the network without the masked weights; fine-tuning makes up for them."""
        return self.remove(network, masks)

    def hold(self, masks: Masks, parameters: Callable[[str], list[nn.Parameter]]) -> None:
        """Keep what is gone 0 in a training: without a gradient steps and weight decay leave it there."""
        for layer, mask in zip(self.layers, masks, strict=True):
            for weight in parameters(f"{layer.name}.weight"):
                weight.register_hook(partial(torch.mul, torch.from_numpy(mask).to(weight)))

    def remaining(self, masks: Masks) -> "WeightStructure":
        """Return the same weights: those that are gone are 0."""
        return self

    def narrowed(self, masks: Masks, chosen: Masks) -> Masks:
        """Return the weights that are in both."""
        return [mask & kept for mask, kept in zip(masks, chosen, strict=True)]
