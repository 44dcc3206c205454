"""The units of any network, found by its dependency graph.

torch-pruning follows the channels of every layer through the autograd graph: what is added to them, what
they are concatenated with, and who reads them (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR
2023). It takes what it does not know for elementwise, so that each layer of units that it finds is tried
here: under random weights, the network without some of its units must give the outputs of the network with
their gates at 0.
"""

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from skfairprune.networks.attention import HeadAttention
from skfairprune.pruning.gates import GatedNetwork
from skfairprune.pruning.layout import module_rates
from skfairprune.pruning.opaque import (
    Choice,
    OpaqueNetwork,
    Part,
    PartPruner,
    is_mixing,
    is_mixing_or_splits,
)
from skfairprune.pruning.shrink import is_depthwise, shrink
from skfairprune.pruning.units import Side, UnitLayer

__all__ = ["FoundUnits", "called_layers", "find_coupled_units"]

_TOLERANCE = 1e-4  # of the outputs' scale: far above rounding, far below any other weights


_TRAINING_PASSES = 4  # some parts of networks are run at random


class FoundUnits(NamedTuple):
    """The prunable units of a network, and what else it has.

    Attributes
    ----------
    layers : tuple of UnitLayer
        Its units.
    left_out : dict of str
        By the path of the layers whose outputs stay whole: why.
    """

    layers: tuple[UnitLayer, ...]
    left_out: dict[str, str]


#: The paths of what makes some units, and a function that makes their layer or says why it cannot.
_Candidate = tuple[list[str], Callable[..., UnitLayer]]


class _LeftOutError(Exception):
    """Units that cannot be removed, and why."""


def find_coupled_units(network: nn.Module, probe: Tensor) -> FoundUnits:
    """Find the units of a network: neurons, channels and attention heads, coupled where they are one.

    Channels that are added to each other are one unit, with all layers that make them. So are the channels of
    equal place in the groups of a grouped convolution.

    Parameters
    ----------
    network : nn.Module
        Maps rows of shape (n_samples, n_features) to outputs of shape (n_samples, n_outputs); it is not
        changed. Attention whose heads are to be found is a
        :class:`~skfairprune.networks.attention.HeadAttention`.
    probe : Tensor of shape (n_samples, n_features)
        Some rows, at least two.

    Returns
    -------
    FoundUnits
        The units, in the order of the network's modules, and the reasons for those that are left out.

    Raises
    ------
    ValueError
        If the network cannot be traced, or no unit of it can be removed.
    """
    trial, rows = _scrambled(network).double(), probe.double()
    try:
        calls = _count_calls(trial, rows)
    except Exception:  # of the user's own forward pass, such as of tensors in a precision of its own
        trial, rows = _scrambled(network), probe
        calls = _count_calls(trial, rows)
    layers: list[UnitLayer] = []
    left_out: dict[str, str] = {}
    order = {path: number for number, (path, _) in enumerate(network.named_modules())}

    def try_all(candidates: list[_Candidate]) -> None:
        for names, make in sorted(candidates, key=lambda candidate: order[candidate[0][0]]):
            try:
                layer = make()
                _check_modules(trial, layer, calls)
                _check_removal(trial, (layer,), rows)
            except _LeftOutError as error:
                for name in names:
                    left_out.setdefault(name, str(error))
            else:
                layers.append(layer)
                for name in names:
                    left_out.pop(name, None)

    parts = [*_heads(trial), *_embeddings(trial, rows), *_recurrent(trial)]
    try_all([*_trace(trial, rows, beside=True), *parts])
    if left_out and _concatenates(trial, rows):
        # What is put before, behind or above is not beside the channels: zeros before a sequence, for one.
        others = _trace(trial, rows, beside=False)
        try_all([candidate for candidate in others if left_out.keys() >= set(candidate[0])])
        layers.sort(key=lambda layer: order[layer.name])
    if len(layers) > 1:
        layers = _keep_together(trial, layers, rows, left_out)
    if not layers:
        reasons = (f"{name or 'the network itself'}: {reason}" for name, reason in left_out.items())
        told = "; ".join(reasons) or "it has no linear layer"
        raise ValueError(
            f"The network {type(network).__name__} has no unit that can be removed: {told}. Give a network "
            "with hidden units (linear layers, convolutions or attention, one after the other) that may "
            "leave one by one: docs/networks.md says when. Or use sparsity=0."
        )
    return FoundUnits(tuple(layers), left_out)


@torch.no_grad()
def called_layers(network: nn.Module, rows: Tensor) -> set[str]:
    """Return the paths of the linear layers and convolutions that a pass in evaluation calls.

    Parameters
    ----------
    network : nn.Module
        The network; it is not changed.
    rows : Tensor of shape (n_samples, n_features)
        The rows.
    """
    trial = copy.deepcopy(network).eval()
    calls = _count_calls(trial, rows)
    return {path for path in calls if isinstance(trial.get_submodule(path), nn.Linear | _ConvNd)}


def _scrambled(network: nn.Module) -> nn.Module:
    """Return a copy with random weights and statistics, so that nothing is 0 by chance."""
    trial = copy.deepcopy(network).eval().requires_grad_(True)
    generator = torch.Generator().manual_seed(0)

    def noise(tensor: Tensor) -> Tensor:
        return torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)

    with torch.no_grad():
        for module in trial.modules():
            for parameter in module.parameters(recurse=False):
                parameter.add_(noise(parameter) - 0.5, alpha=0.2)
            if isinstance(module, _NormBase) and module.running_mean is not None:
                assert module.running_var is not None
                module.running_mean.add_(noise(module.running_mean))
                module.running_var.add_(noise(module.running_var))
    return trial


def _count_calls(network: nn.Module, rows: Tensor) -> Counter[str]:
    """Return how often each module is called in one pass."""
    calls: Counter[str] = Counter()
    # By the first path of a module that has several.
    paths = {module: path for path, module in network.named_modules()}
    handles = [
        module.register_forward_hook(lambda module, *_: calls.update([paths[module]])) for module in paths
    ]
    try:
        network(rows)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _trace(network: nn.Module, rows: Tensor, beside: bool) -> Iterator[_Candidate]:
    """Yield the candidates that the dependency graph knows, and the layers that it does not.

    ``beside`` tells whether what is concatenated with channels is part of the graph.
    """
    import torch_pruning

    kinds = (torch_pruning.ops.TORCH_CONV, torch_pruning.ops.TORCH_LINEAR)
    paths = {module: path for path, module in network.named_modules()}
    inside = {
        module
        for attention in network.modules()
        if isinstance(attention, HeadAttention)
        for module in (attention.query, attention.key, attention.value)
    }
    unknown = {module for module in paths if isinstance(module, kinds)} - inside
    reason = "no differentiable operation leads from its outputs to those of the network"
    try:
        graph, groups = _dependencies(network, rows, kinds, beside)
    except Exception as error:  # whatever torch-pruning comes to on a network that it does not understand
        groups = []
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        reason = f"torch-pruning cannot follow the network's operations ({told})"
    for group in groups:
        root = group[0].dep.target.module
        if root not in inside:
            made = [root]
            for item in group.items:
                module = item.dep.target.module
                if isinstance(module, kinds) and graph.is_out_channel_pruning_fn(item.dep.handler):
                    made += [module] if module not in made else []
            unknown -= set(made)
            names = [paths[module] for module in made]
            yield names, lambda group=group, name=names[0]: _layer(graph, group, name, paths)
    for module in unknown:
        yield [paths[module]], lambda: _leave_out(reason)


class _Bounded(list):
    """Mappings of places from one operation to the next, none of which may come to one that is not there.

    torch-pruning follows some reshapes around a circle without end, to ever higher places.
    """

    def __init__(self, mappings: Iterable[Any], largest: int) -> None:
        super().__init__(mappings)
        self.largest = largest

    def __setitem__(self, position: Any, mapping: Any) -> None:
        def bounded(places: list[Any]) -> list[Any]:
            mapped = mapping(places)
            if any(place.idx >= self.largest for place in mapped):
                raise RuntimeError("it counts more channels than there are, since a reshape multiplies them")
            return mapped

        super().__setitem__(position, bounded if callable(mapping) else mapping)


def _dependencies(
    network: nn.Module, rows: Tensor, kinds: tuple[type, ...], beside: bool
) -> tuple[Any, list[Any]]:
    """Return the dependency graph and its groups of what leaves together.

    Recurrent layers, and others that mix channels, are no part of it. Where torch-pruning fails, splits are
    none, either: it loses the places of their channels. Nor is then what is concatenated with channels.
    """
    import torch_pruning

    def find(is_opaque: Choice, beside: bool) -> tuple[Any, list[Any]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of free parameters, which are refused here
            opaque = OpaqueNetwork(network, rows, is_opaque, beside)
            graph = torch_pruning.DependencyGraph().build_dependency(
                opaque,
                rows,
                forward_fn=lambda module, inputs: module(inputs),
                customized_pruners={Part: PartPruner()},
                verbose=False,
            )
            for node in graph.module2node.values():
                for dependency in node.dependencies:
                    dependency.index_mapping = _Bounded(dependency.index_mapping, opaque.largest)
            return graph, list(graph.get_all_groups(root_module_types=kinds))

    attempts = [(is_mixing, True)] if beside else []
    for attempt in (*attempts, (is_mixing, False)):
        with suppress(Exception):  # of torch-pruning
            return find(*attempt)
    return find(is_mixing_or_splits, False)


def _concatenates(network: nn.Module, rows: Tensor) -> bool:
    """Tell whether channels are concatenated with what no layer made."""
    with suppress(Exception):  # of the user's own forward pass
        return any(part.function == "cat" for part in OpaqueNetwork(network, rows, is_mixing, True).parts)
    return False


def _leave_out(reason: str) -> UnitLayer:
    raise _LeftOutError(reason)


def _layer(graph: Any, group: Any, name: str, paths: dict[nn.Module, str]) -> UnitLayer:
    """Turn a group of the dependency graph into a layer of units."""
    import torch_pruning

    n_roots = len(group[0].idxs)
    sides: dict[str, list[Side]] = {"producers": [], "carriers": [], "consumers": []}
    grouped: list[tuple[_ConvNd, NDArray[np.intp]]] = []
    for item in group.items:
        module, handler = item.dep.target.module, item.dep.handler
        if isinstance(module, torch_pruning.ops._OutputOp):
            raise _LeftOutError("its outputs are, or scale, those of the network")
        if module not in paths and not isinstance(module, nn.Parameter | Part):
            continue  # an operation without weights
        role = _role(module, graph.is_out_channel_pruning_fn(handler))
        if role is None:
            continue
        positions = _by_root(item.idxs, item.root_idxs, n_roots, paths[module])
        if isinstance(module, nn.Module):
            n_inputs, n_outputs, _ = module_rates(module, 1)
            if positions.max() >= (n_inputs if role == "consumers" else n_outputs):
                raise _LeftOutError(
                    f"its places in {paths[module]} cannot be told: an operation such as a stack, a split or "
                    "a gate (F.glu) moves them"
                )
        sides[role].append(Side(paths[module], positions))
        if isinstance(module, _ConvNd) and module.groups > 1 and role != "carriers":
            grouped.append((module, positions))
    if not sides["producers"]:
        raise _LeftOutError("no layer with weights makes them alone")
    if not sides["consumers"]:
        raise _LeftOutError("no layer with weights reads its outputs: they are the network's")
    if grouped:
        n_blocks = max(module.groups for module, _ in grouped)
        if n_roots % n_blocks or not all(_is_balanced(*part, n_blocks) for part in grouped):
            raise _LeftOutError("its channels cannot leave all groups of a grouped convolution alike")
        members = np.arange(n_roots).reshape(n_blocks, -1).T
        sides = {
            role: [Side(path, positions[members].reshape(len(members), -1)) for path, positions in found]
            for role, found in sides.items()
        }
    return UnitLayer(name, *(tuple(sides[role]) for role in ("producers", "carriers", "consumers")))


def _role(module: nn.Module, makes: bool) -> str | None:
    """Return which side of a layer of units a module is on; None if it holds nothing of them."""
    if isinstance(module, Part):
        verb = "is coupled with" if makes else "reads"
        raise _LeftOutError(f"the function {module.function} {verb} its outputs")
    if isinstance(module, nn.Parameter):
        raise _LeftOutError("a parameter that is no layer's is coupled with its outputs")
    if isinstance(module, _ConvTransposeNd):
        raise _LeftOutError(f"a {type(module).__name__} is coupled with its outputs")
    if is_depthwise(module):
        return "carriers"
    if isinstance(module, nn.Linear | _ConvNd):
        return "producers" if makes else "consumers"
    if isinstance(module, nn.Embedding):
        return "producers"
    if isinstance(module, _NormBase):
        return "carriers"
    if isinstance(module, nn.PReLU):
        return "carriers" if module.num_parameters > 1 else None
    if any(True for _ in module.parameters()):
        raise _LeftOutError(f"a {type(module).__name__} mixes its outputs with each other")
    return None


def _by_root(positions: list[int], roots: list[int], n_roots: int, path: str) -> NDArray[np.intp]:
    """Return the positions that belong to each unit, of shape (n_roots, n_positions)."""
    counts = np.bincount(roots, minlength=n_roots)
    if len(counts) != n_roots or not counts.min() == counts.max() > 0:
        raise _LeftOutError(f"its outputs have unequal parts in the inputs of {path}")
    order = np.argsort(np.asarray(roots), kind="stable")
    return np.asarray(positions, dtype=np.intp)[order].reshape(n_roots, -1)


def _is_balanced(module: _ConvNd, positions: NDArray[np.intp], n_blocks: int) -> bool:
    """Tell whether each block of units has the same places in every group of a convolution."""
    members = np.arange(len(positions)).reshape(n_blocks, -1).T
    n_channels = positions.size
    size = n_channels // module.groups
    for block in positions[members].reshape(len(members), -1):
        places = [np.sort(block[block // size == group] % size) for group in range(module.groups)]
        if not all(np.array_equal(place, places[0]) for place in places):
            return False
    return True


def _heads(network: nn.Module) -> Iterator[_Candidate]:
    """Yield the heads of each attention."""
    for path, attention in network.named_modules():
        if not isinstance(attention, HeadAttention):
            continue
        n_heads = attention.query.out_features // attention.head_dim
        each = np.arange(n_heads * attention.head_dim).reshape(n_heads, -1)
        made = tuple(Side(f"{path}.{name}", each) for name in ("query", "key", "value"))
        layer = UnitLayer(path, made, (), (Side(f"{path}.out", each),))
        yield [path], lambda layer=layer: layer


def _embeddings(network: nn.Module, rows: Tensor) -> Iterator[_Candidate]:
    """Yield the dimensions of each embedding.

    Embeddings are concatenated with columns that are no layer's output, where the dependency graph loses
    their place. Under random weights it shows in the numbers: the inputs of a linear layer that equal an
    output.
    """
    embeddings = {path: m for path, m in network.named_modules() if isinstance(m, nn.Embedding)}
    if not embeddings:
        return
    made: dict[str, Tensor] = {}
    read: dict[str, Tensor] = {}
    handles = []
    for path, module in network.named_modules():
        if path in embeddings:
            hook = module.register_forward_hook(lambda _, args, out, path=path: made.update({path: out}))
        elif isinstance(module, nn.Linear):
            hook = module.register_forward_pre_hook(lambda _, args, path=path: read.update({path: args[0]}))
        else:
            continue
        handles.append(hook)
    with torch.no_grad():
        network(rows)
    for handle in handles:
        handle.remove()
    flat = {path: inputs.T for path, inputs in read.items() if inputs.ndim == 2}

    def make(path: str) -> UnitLayer:
        if path not in made:
            raise _LeftOutError("it is not used")
        outputs = made[path].reshape(len(rows), -1, made[path].shape[-1]).permute(2, 1, 0)
        sides = []
        for reader, inputs in flat.items():
            same = ((unit[:, None] == inputs).all(dim=-1).any(dim=0) for unit in outputs)
            equal = torch.stack(list(same))  # units by inputs
            counts = equal.sum(dim=1)
            if bool((counts > 0).all()) and bool((counts == counts[0]).all()):
                sides.append(Side(reader, equal.nonzero()[:, 1].reshape(len(equal), -1).cpu().numpy()))
        if not sides:
            raise _LeftOutError("no linear layer reads its outputs as they are")
        units = Side(path, np.arange(embeddings[path].embedding_dim)[:, None])
        return UnitLayer(path, (units,), (), tuple(sides))

    for path in embeddings:
        yield [path], lambda path=path: make(path)


def _recurrent(network: nn.Module) -> Iterator[_Candidate]:
    """Yield the recurrent layers, which stay whole."""
    for path, module in network.named_modules():
        if isinstance(module, nn.RNNBase | nn.RNNCellBase):
            yield [path], lambda: _leave_out("recurrent layers stay whole")


def _check_modules(network: nn.Module, layer: UnitLayer, calls: Counter[str]) -> None:
    """Refuse modules whose weights are not their own, once."""
    owners: Counter[nn.Parameter] = Counter()
    for module in set(network.modules()):
        owners.update(module.parameters(recurse=False))
    names = Counter(module for _, module in network.named_modules(remove_duplicate=False))
    for path, _ in (*layer.producers, *layer.carriers, *layer.consumers):
        module = network.get_submodule(path)
        if names[module] > 1:
            raise _LeftOutError(f"{path} has {names[module]} names in the network")
        if calls[path] != 1:
            raise _LeftOutError(f"{path} is called {calls[path]} times")
        for name in ("weight", "bias"):
            parameter = getattr(module, name, None)
            if parameter is not None and name not in module._parameters:
                raise _LeftOutError(f"the {name} of {path} is computed from other parameters")
            if parameter is not None and owners[parameter] > 1:
                raise _LeftOutError(f"the {name} of {path} is shared with another layer")


def _check_removal(network: nn.Module, layers: tuple[UnitLayer, ...], rows: Tensor) -> None:
    """Refuse units of which the network without some is not the network with their gates at 0."""
    generator = np.random.default_rng(0)
    masks = []
    for layer in layers:
        if layer.n_units < 2:
            raise _LeftOutError("it has one unit")
        mask = generator.uniform(size=layer.n_units) < 0.5
        mask[generator.permutation(layer.n_units)[:2]] = [True, False]
        masks.append(mask)
    made = {side.path for layer in layers for side in (*layer.producers, *layer.carriers)}
    gates = torch.from_numpy(np.concatenate(masks)).to(next(network.parameters()))
    try:
        gated = GatedNetwork(network, layers)
        try:
            masked = _outputs(network, lambda: gated(rows, gates), made)
        finally:
            gated.release()
        small = shrink(network, layers, masks)
        shrunk = _outputs(small, lambda: small(rows), made)
    except Exception as error:  # of the user's own forward pass
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise _LeftOutError(f"without some of its outputs the network fails: {told}") from error
    told = _failure_in_training(small, rows)
    if told and not _failure_in_training(network, rows):
        raise _LeftOutError(f"without some of its outputs the network fails in training: {told}")
    spreads = [float(found.max() - found.min()) for found in masked]
    if max(spreads) == 0:
        if len(layers) > 1:  # of several layers too few units may be left to tell the rows apart
            return
        raise _LeftOutError("on the first rows nothing depends on its outputs")
    for found, other, spread in zip(masked, shrunk, spreads, strict=True):
        least = _TOLERANCE * (spread or float(found.abs().max()))
        if other.shape != found.shape or not float((other - found).abs().max()) <= least:
            raise _LeftOutError("without some of its outputs the network is not the one where they are 0")


def _failure_in_training(network: nn.Module, rows: Tensor) -> str:
    """Return the error of a pass in training mode, where a network may have parts of its own, or nothing."""
    trial = copy.deepcopy(network).train()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[rows.device] if rows.is_cuda else []):
            for _ in range(_TRAINING_PASSES):
                trial(rows)
    except Exception as error:  # of the user's own forward pass
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def _keep_together(
    network: nn.Module, layers: list[UnitLayer], rows: Tensor, left_out: dict[str, str]
) -> list[UnitLayer]:
    """Return the layers whose units can leave beside those of the others, and say which cannot."""
    try:
        _check_removal(network, tuple(layers), rows)
        return layers
    except _LeftOutError:
        pass
    kept: list[UnitLayer] = []
    for layer in layers:
        try:
            _check_removal(network, (*kept, layer), rows)
        except _LeftOutError as error:
            left_out[layer.name] = f"beside the units of other layers: {error}"
        else:
            kept.append(layer)
    return kept


def _outputs(network: nn.Module, run: Callable[[], Tensor], without: set[str]) -> list[Tensor]:
    """Return the outputs of a network and, as a softmax behind them can hide much, of its other layers."""
    found: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _, args, out, path=path: found.update({path: out}))
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear | _ConvNd) and path not in without
    ]
    try:
        with torch.no_grad():
            outputs = run()
    finally:
        for handle in handles:
            handle.remove()
    return [outputs.detach(), *(found[path].detach() for path in sorted(found))]
