"""The network that a user brings: a module, a function that makes one, or a skorch net."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from skorch import NeuralNet
from torch import Tensor, nn

from skfairprune.networks.attention import replace_attention
from skfairprune.networks.contract import check_behaviour, check_modules
from skfairprune.networks.joint import JointNetwork
from skfairprune.networks.sharing import check_own_tensors
from skfairprune.networks.trial import copied
from skfairprune.networks.widening import check_outputs, widen_outputs

__all__ = ["make_module", "make_network", "name_of"]


def name_of(template: Any) -> str:
    """Name a network, or what makes it, for people."""
    if isinstance(template, NeuralNet):
        return f"{type(template).__name__}({name_of(template.module)})"
    if isinstance(template, partial):
        return name_of(template.func)
    return getattr(template, "__qualname__", type(template).__qualname__)


def make_network(
    template: Any, n_features: int, class_of: Sequence[int], n_classes: int, probe: Tensor
) -> JointNetwork:
    """Make the network that is trained, with the logits of the joint classes.

    Parameters
    ----------
    template : nn.Module, callable or NeuralNet
        A module, which is copied, with what it has learned; a function ``(n_features_in, n_outputs) ->
        nn.Module``; or a skorch net around a module or its class.
    n_features : int
        The columns of a row.
    class_of : sequence of int
        The class of each joint class.
    n_classes : int
        The classes.
    probe : Tensor of shape (n_samples, n_features)
        Some rows, at least two.

    Raises
    ------
    ValueError
        If the network does not give outputs for these classes, or cannot be trained or taken apart.
    TypeError
        If the function does not return a module.
    """
    fresh = callable(template) and not isinstance(template, nn.Module)
    given = _given_module(template, n_features, len(class_of))
    module = _copy(given)
    strange = [name for name, parameter in module.named_parameters() if not parameter.is_floating_point()]
    if strange:
        raise ValueError(f"The module's parameters {strange} are no real numbers: use floating-point ones.")
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ValueError(
            f"The module {name_of(template)} has no parameter that is trained: all have requires_grad=False, "
            "or there are none. Let at least the last layer learn."
        )
    module = module.to(probe.dtype)
    check_own_tensors(given, module, probe)
    check_behaviour(module, probe)
    if fresh:
        network = check_outputs(module, len(class_of), probe)
    else:
        network = widen_outputs(module, class_of, n_classes, probe)
    replace_attention(network)
    return network


def make_module(template: Any, n_features: int, n_outputs: int) -> nn.Module:
    """Make the module of a template, as the template has it.

    Parameters
    ----------
    template : nn.Module, callable or NeuralNet
        As in :func:`make_network`.
    n_features, n_outputs : int
        What a callable is given.

    Raises
    ------
    TypeError
        If the callable does not return a module.
    """
    # A function can return one and the same module every time; a fit must not change it.
    return _copy(_given_module(template, n_features, n_outputs))


def _given_module(template: Any, n_features: int, n_outputs: int) -> nn.Module:
    """Return the module of a template itself."""
    if isinstance(template, NeuralNet):
        given = template.get_params_for("module")
        try:
            template = template.module if isinstance(template.module, nn.Module) else template.module(**given)
        except TypeError as error:
            raise TypeError(
                f"The net's module {name_of(template.module)} cannot be made of module__ parameters "
                f"{sorted(given)}: {error}."
            ) from error
    if isinstance(template, nn.Module):
        return template
    make: Callable[[int, int], Any] = template
    try:
        made = make(n_features, n_outputs)
    except TypeError as error:
        raise TypeError(
            f"module(n_features_in={n_features}, n_outputs={n_outputs}) failed: {error}. Give a callable "
            "that takes these two, such as lambda n_features_in, n_outputs: MyNetwork(...), an instance of a "
            "network, or a skorch net around its class."
        ) from error
    if not isinstance(made, nn.Module):
        raise TypeError(
            f"module(n_features_in, n_outputs) must return a torch.nn.Module; it returned {made!r}."
        )
    return made


def _copy(module: nn.Module) -> nn.Module:
    """Return a copy of a module that can be taken apart, with gradients that any optimizer takes."""
    check_modules(module)
    module = copied(module)
    for layer in module.modules():
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            layer.sparse = False
    return module
