"""Operations that the dependency graph does not look into: what makes or reads their channels stays whole."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

__all__ = ["Choice", "OpaqueNetwork", "Part", "PartPruner", "is_mixing", "is_mixing_or_splits"]

#: The functions of torch's recurrent layers, and of other layers that mix channels by several operations.
_MIXING = {"gru", "lstm", "rnn_tanh", "rnn_relu", "local_response_norm"}
# The dimension along which each concatenates where none is given.
_CONCATENATIONS = {"cat": 0, "concat": 0, "concatenate": 0, "hstack": 1}

#: Takes the name of a function and those of its outputs that need a gradient; tells whether it is opaque.
Choice = Callable[[str, Sequence[Tensor]], bool]


def is_mixing(name: str, outputs: Sequence[Tensor]) -> bool:
    """Tell whether a function is that of a recurrent layer, or of another that mixes channels."""
    return name.removesuffix("_cell") in _MIXING


def is_mixing_or_splits(name: str, outputs: Sequence[Tensor]) -> bool:
    """Tell whether a function mixes channels, or has several outputs: chunk, split, unbind."""
    return is_mixing(name, outputs) or len(outputs) > 1


class _Unexplained(torch.autograd.Function):
    """An output that depends on some inputs, without telling how."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, *inputs: Tensor) -> Tensor:
        """Return the output."""
        return output.clone()


class Part(nn.Module):
    """The node of one output of an opaque function.

    Attributes
    ----------
    function : str
        The name of the function.
    n_channels : int
        The channels of the output.
    """

    function: str
    n_channels: int

    def forward(self, function: str, output: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        """Return the output, as something that depends on the inputs."""
        self.function = function
        # Along the one dimension that a split changes; features of recurrent layers are last.
        pairs = zip(output.shape, inputs[0].shape, strict=False)
        changed = [size for size, before in pairs if size != before]
        unchanged = output.shape[1 if function == "local_response_norm" else -1]
        self.n_channels = changed[0] if len(changed) == 1 else unchanged
        return _Unexplained.apply(output.detach(), *inputs)


class PartPruner:
    """What torch-pruning asks about a :class:`Part`. Its caller sees to it that nothing is pruned there."""

    pruning_dim: Any = None

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Stand for the removal of outputs."""
        raise NotImplementedError

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        """Stand for the removal of inputs, which does not trigger that of outputs."""
        raise NotImplementedError

    def get_out_channels(self, layer: Part) -> int:
        """Return the channels of a part."""
        return layer.n_channels

    def get_in_channels(self, layer: Part) -> None:
        """Return None: what a part reads is not told."""


class OpaqueNetwork(nn.Module):
    """A network in whose graph a :class:`Part` stands for each output of an opaque function.

    With ``beside`` so does one for what is computed from the rows alone and concatenated with other channels,
    which the dependency graph else leaves out when it counts their places.

    Parameters
    ----------
    network : nn.Module
        The network; shared, not copied.
    rows : Tensor of shape (n_samples, n_features)
        Some rows, by which the functions are found.
    is_opaque : Choice
        Which functions are opaque.
    beside : bool
        Whether parts stand for what is concatenated with channels, too.

    Attributes
    ----------
    largest : int
        The most elements that any output of a function has.
    """

    def __init__(self, network: nn.Module, rows: Tensor, is_opaque: Choice, beside: bool) -> None:
        super().__init__()
        self.beside = beside
        self.network = network
        self.is_opaque = is_opaque
        self.parts = nn.ModuleList()
        self.largest = 0
        self(rows)  # makes the parts, so that torch-pruning finds them among the modules

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's outputs."""
        with _Replace(self.parts, self.is_opaque, self.beside) as replace:
            outputs = self.network(x)
        self.largest = replace.largest
        return outputs


class _Replace(TorchFunctionMode):
    """Put parts in place of what opaque functions give, in the order of their calls."""

    def __init__(self, parts: nn.ModuleList, is_opaque: Choice, beside: bool) -> None:
        super().__init__()
        self.parts = parts
        self.is_opaque = is_opaque
        self.beside = beside
        self.n_used = self.largest = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        function = getattr(func, "__name__", "")
        if function in _CONCATENATIONS and self.beside and args:
            given = kwargs or {}
            default = args[1] if len(args) > 1 else _CONCATENATIONS[function]
            args = (self._with_parts(args[0], given.get("dim", given.get("axis", default))), *args[1:])
        result = func(*args, **(kwargs or {}))
        values, spec = tree_flatten(result)
        self.largest = max(self.largest, *(v.numel() for v in values if isinstance(v, Tensor)), 0)
        inputs = [x for x in tree_flatten((args, kwargs))[0] if _has_graph(x)]
        outputs = [value for value in values if _has_graph(value)]
        if not inputs or not outputs or not self.is_opaque(function, outputs):
            return result
        replaced = [
            self._next_part()(function, value, inputs) if _has_graph(value) else value for value in values
        ]
        return tree_unflatten(replaced, spec)

    def _with_parts(self, tensors: Sequence[Tensor], dim: int) -> Sequence[Tensor]:
        """Put parts in place of tensors that are concatenated with others, and come from the rows alone."""
        if not any(_has_graph(tensor) for tensor in tensors):
            return tensors
        together = []
        for tensor in tensors:
            if not _has_graph(tensor) and tensor.is_floating_point() and tensor.ndim > 1:
                part = self._next_part()
                tensor = part("cat", tensor, [tensor.detach().requires_grad_()])
                part.n_channels = tensor.shape[dim]
            together.append(tensor)
        return together

    def _next_part(self) -> Part:
        if self.n_used == len(self.parts):
            self.parts.append(Part())
        self.n_used += 1
        part = self.parts[self.n_used - 1]
        assert isinstance(part, Part)
        return part


def _has_graph(value: Any) -> bool:
    """Whether a value is a tensor that was computed from parameters."""
    return isinstance(value, Tensor) and value.grad_fn is not None
