"""What a network's copy uses that is not its own: tensors of the network that was given, or foreign ones."""

from contextlib import suppress
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from skfairprune.networks.trial import kind, trial_of

__all__ = ["check_own_tensors"]

# What reads no values: a property, such as a shape or a type, and the methods for it.
_NO_VALUES = frozenset({"__get__", "__len__", "dim", "is_floating_point", "numel", "size", "type"})


def check_own_tensors(given: nn.Module, network: nn.Module, probe: Tensor) -> None:
    """Refuse a network whose copies go on using tensors of the one that was given, or weights of nobody.

    Functions keep what they have closed over when they are copied, such as hooks that read a buffer of
    ``self``; and what is not registered in a module is neither trained nor pruned.

    Parameters
    ----------
    given : nn.Module
        The network of the user.
    network : nn.Module
        A copy of it, for rows of the probe's type.
    probe : Tensor of shape (n_samples, n_features)
        Some rows, at least two.

    Raises
    ------
    ValueError
        If it uses parameters or buffers of the one given, or trained weights that are none of its parameters.
    """
    names = {
        place: name
        for name, tensor in chain(given.named_parameters(), given.named_buffers())
        if (place := _place(tensor))
    }
    for training in (False, True):
        trial = trial_of(network, training)
        watch = _Watch(trial, names)
        # What fails is told by other trials, with the reason.
        with suppress(Exception), torch.enable_grad(), torch.random.fork_rng(devices=[]), watch:
            trial(probe.clone())
        if watch.shared:
            used = ", ".join(dict.fromkeys(watch.shared))
            raise ValueError(
                f"Copies of the network {kind(network)} go on using {used} of the instance that you made: a "
                "function that uses a layer, a parameter or a buffer, such as a hook, is not copied. Make it "
                "a method or a module, or let the hook read them from the module that it is given."
            )
        if watch.foreign:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in watch.foreign)
            raise ValueError(
                f"The network {kind(network)} uses weights of the shapes {shapes} that are trained and none "
                "of its parameters, so that fit neither trains nor removes them. Register layers as "
                "attributes of a module, or in an nn.ModuleList, and tensors as nn.Parameter; or freeze what "
                "is constant, by requires_grad_(False)."
            )


def _place(tensor: Tensor) -> int:
    """Return where the numbers of a tensor, or of what it is a view of, are; 0 if it has none."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


class _Watch(TorchFunctionMode):
    """Note the tensors of others that functions of torch are called with.

    Parameters
    ----------
    network : nn.Module
        The network that is run.
    names : dict of str
        The names of the tensors of the one that was given, by the place of their numbers.

    Attributes
    ----------
    shared : list of str
        The names of those that were used.
    foreign : list of Tensor
        Trained tensors that are neither the network's nor were made by a function.
    """

    def __init__(self, network: nn.Module, names: dict[int, str]) -> None:
        super().__init__()
        self.names = names
        self.known: dict[int, Tensor] = {id(tensor): tensor for tensor in network.parameters()}
        self.shared: list[str] = []
        self.foreign: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and getattr(func, "__name__", "") not in _NO_VALUES:
                self._note(value)
        result = func(*args, **(kwargs or {}))
        self.known |= {id(value): value for value in tree_leaves(result) if isinstance(value, Tensor)}
        return result

    def _note(self, value: Tensor) -> None:
        if name := self.names.get(_place(value)):
            self.shared.append(name)
        elif (
            torch.is_grad_enabled() and value.requires_grad and value.is_leaf and id(value) not in self.known
        ):
            self.known[id(value)] = value
            self.foreign.append(value)
