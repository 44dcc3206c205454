"""The layout of any network: what its prunable parts cost at given widths."""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from skfairprune.pruning.budget import Layout
from skfairprune.pruning.shrink import is_depthwise
from skfairprune.pruning.units import UnitLayer

__all__ = ["ModuleCost", "NetworkLayout", "count_places", "measure_layout"]


class ModuleCost(NamedTuple):
    """How the size of one module follows from its inputs and outputs.

    Attributes
    ----------
    path : str
        Its path.
    reads, makes : tuple of (int, int)
        The layers of units among its inputs, and its outputs, with the positions that a unit takes.
    other_inputs, other_outputs : int
        The positions that no unit takes.
    per_pair, per_output : float
        Parameters for each pair of an input and an output, and for each output.
    pair_macs, output_macs : float
        Multiplications of one row, likewise.
    """

    path: str
    reads: tuple[tuple[int, int], ...]
    makes: tuple[tuple[int, int], ...]
    other_inputs: int
    other_outputs: int
    per_pair: float
    per_output: float
    pair_macs: float
    output_macs: float

    def n_inputs(self, widths: Sequence[Any]) -> Any:
        """Return the inputs at these widths of the layers."""
        return self.other_inputs + sum(size * widths[layer] for layer, size in self.reads)

    def n_outputs(self, widths: Sequence[Any]) -> Any:
        """Return the outputs at these widths of the layers."""
        return self.other_outputs + sum(size * widths[layer] for layer, size in self.makes)

    def rates(self, measure: str) -> tuple[float, float]:
        """Return what a pair of input and output, and an output, cost by a measure."""
        if measure == "macs":
            return self.pair_macs, self.output_macs
        return self.per_pair, self.per_output

    def cost(self, widths: Sequence[Any], measure: str) -> Any:
        """Return what the module costs at these widths, by a measure."""
        pair, each = self.rates(measure)
        return (pair * self.n_inputs(widths) + each) * self.n_outputs(widths)

    def slope(self, widths: Sequence[Any], measure: str, layer: int) -> Any:
        """Return the derivative of the cost by the width of a layer."""
        pair, each = self.rates(measure)
        made = sum(size for number, size in self.makes if number == layer)
        read = sum(size for number, size in self.reads if number == layer)
        return made * (pair * self.n_inputs(widths) + each) + read * pair * self.n_outputs(widths)


@dataclass(frozen=True)
class NetworkLayout(Layout):
    """The widths of a network's prunable layers, and what the modules on both their sides cost.

    Modules that no unit is part of are not counted: nothing of them can be removed.

    Parameters
    ----------
    name : str
        The network's, for errors.
    modules : tuple of ModuleCost
        The modules.
    sizes : tuple of int
        The units of each prunable layer.
    unit_sizes : tuple of int
        The outputs that make one unit of each.
    n_outputs : int
        The outputs of the network.
    measure : {"parameters", "units", "macs"}
        What sparsity and costs are counted in.
    """

    name: str
    modules: tuple[ModuleCost, ...]
    sizes: tuple[int, ...]
    unit_sizes: tuple[int, ...]
    n_outputs: int
    measure: str = "parameters"

    @property
    def widths(self) -> tuple[int, ...]:
        """The units of each prunable layer."""
        return self.sizes

    def resized(self, widths: Sequence[Any]) -> Self:
        """Return the layout with other widths, numbers or tensors of soft widths."""
        return replace(self, sizes=tuple(widths))

    def cost(self) -> Any:
        """Return what the prunable parts cost, by the measure."""
        if self.measure == "units":
            return sum(self.sizes)
        return self._rounded(sum(module.cost(self.sizes, self.measure) for module in self.modules))

    def n_parameters(self) -> int:
        """Return the parameters of the prunable parts."""
        return sum(self.count(module, "parameters") for module in self.modules)

    def unit_cost(self, layer: int) -> Any:
        """Return what one unit of a layer takes along, by the measure: the derivative of the cost."""
        if self.measure == "units":
            return 1
        return sum(module.slope(self.sizes, self.measure, layer) for module in self.modules)

    def count(self, module: ModuleCost, measure: str) -> int:
        """Return what a module costs, by any measure but units."""
        return round(module.cost(self.sizes, measure))

    def floors(self, floor: int) -> list[int]:
        """Return the fewest units of each layer whose outputs are at least `floor`, where it has as many."""
        return [
            min(width, -(-floor // size)) for width, size in zip(self.sizes, self.unit_sizes, strict=True)
        ]

    def describe(self) -> str:
        """Name the network in an error."""
        return f"the prunable layers of {self.name}"

    @staticmethod
    def _rounded(cost: Any) -> Any:
        # The rates of a grouped convolution are fractions, its parameters a whole number.
        return round(cost) if isinstance(cost, int | float) else cost


def measure_layout(
    network: nn.Module, layers: Sequence[UnitLayer], probe: Tensor, n_outputs: int, measure: str
) -> NetworkLayout:
    """Measure what the modules of a network cost by their inputs and outputs.

    Parameters
    ----------
    network : nn.Module
        The network.
    layers : sequence of UnitLayer
        Its prunable units.
    probe : Tensor of shape (n_samples, n_features)
        Some rows: how often a layer is applied within one (tokens, pixels) is seen on them.
    n_outputs : int
        The outputs of the network.
    measure : {"parameters", "units", "macs"}
        What sparsity and costs are counted in.
    """
    reads: dict[str, list[tuple[int, int]]] = {}
    makes: dict[str, list[tuple[int, int]]] = {}
    for number, layer in enumerate(layers):
        for path, positions in (*layer.producers, *layer.carriers):
            makes.setdefault(path, []).append((number, positions.shape[1]))
        for path, positions in layer.consumers:
            reads.setdefault(path, []).append((number, positions.shape[1]))
    widths = tuple(layer.n_units for layer in layers)
    places = count_places(network, {*makes, *reads}, probe)
    modules = []
    for path, module in network.named_modules():
        if path not in makes and path not in reads:
            continue
        n_in, n_out, rates = module_rates(module, places[path][0])
        of_inputs, of_outputs = tuple(reads.get(path, ())), tuple(makes.get(path, ()))
        other_inputs = n_in - sum(size * widths[layer] for layer, size in of_inputs)
        other_outputs = n_out - sum(size * widths[layer] for layer, size in of_outputs)
        modules.append(ModuleCost(path, of_inputs, of_outputs, other_inputs, other_outputs, *rates))
    unit_sizes = tuple(layer.producers[0].positions.shape[1] for layer in layers)
    return NetworkLayout(type(network).__name__, tuple(modules), widths, unit_sizes, n_outputs, measure)


def module_rates(module: nn.Module, n_places: int) -> tuple[int, int, tuple[float, float, float, float]]:
    """Return a module's inputs and outputs, and its parameters and multiplications by them."""
    bias = int(getattr(module, "bias", None) is not None)
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features, (1, bias, n_places, 0)
    if isinstance(module, _ConvNd):
        taps = module.weight[0, 0].numel()
        if is_depthwise(module):
            return 0, module.out_channels, (0, taps + bias, 0, taps * n_places)
        per_pair = taps / module.groups
        return module.in_channels, module.out_channels, (per_pair, bias, per_pair * n_places, 0)
    if isinstance(module, nn.Embedding):
        return 0, module.embedding_dim, (0, module.num_embeddings, 0, 0)
    if isinstance(module, nn.PReLU):
        return 0, module.num_parameters, (0, 1, 0, 0)
    assert isinstance(module, _NormBase)
    n_parameters = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    return 0, module.num_features, (0, n_parameters / module.num_features, 0, 0)


def count_places(network: nn.Module, paths: Iterable[str], probe: Tensor) -> dict[str, list[int]]:
    """Return at how many places of one row (tokens, pixels) each module is applied, a number for each call.

    Parameters
    ----------
    network : nn.Module
        The network; it is not changed.
    paths : iterable of str
        Its linear layers, convolutions, norms and embeddings that are asked about.
    probe : Tensor of shape (n_samples, n_features)
        Some rows.
    """
    places: dict[str, list[int]] = {}

    def record(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            n_outputs = output.shape[1] if isinstance(module, _ConvNd) else output.shape[-1]
            # Where rows go different ways a layer has fewer: one place is the least.
            places.setdefault(path, []).append(max(output.numel() // (len(probe) * n_outputs), 1))

        return hook

    network = copy.deepcopy(network).eval()
    for path in paths:
        network.get_submodule(path).register_forward_hook(record(path))
    with torch.no_grad():
        network(probe)
    return places
