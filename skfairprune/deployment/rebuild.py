"""A saved network of the user's own, rebuilt from its template and the tensors in the file."""

import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from skfairprune.deployment.codec import OwnNetwork
from skfairprune.modules import DecisionNetwork
from skfairprune.networks.attention import replace_attention
from skfairprune.networks.joint import JointNetwork
from skfairprune.networks.template import make_module, name_of

__all__ = ["rebuild"]


def rebuild(
    saved: OwnNetwork,
    template: Any,
    n_features: int,
    shapes: dict[str, tuple[int, ...]],
    path: str | os.PathLike[str],
) -> DecisionNetwork:
    """Build a network from its template, with the shapes and the values of the saved one.

    Parameters
    ----------
    saved : OwnNetwork
        What the file holds.
    template : nn.Module, callable or NeuralNet
        The dense network, as it was given to the estimator.
    n_features : int
        The columns of a row.
    shapes : dict of tuple of int
        The shapes of the dense network's parameters, by their names in the template.
    path : str or path
        The file, for errors.

    Raises
    ------
    ValueError
        If the template has other layers than the saved network.
    """
    dtype = saved.state["output_weights"].dtype
    with torch.random.fork_rng(devices=[]):  # the first weights of a callable are replaced
        module = make_module(template, n_features, saved.n_joint).to(dtype)
    replace_attention(module)
    if strange := [name for name, _ in module.named_parameters() if name not in shapes][:5]:
        raise ValueError(
            f"{path} does not hold a network with the layers of module={name_of(template)}: it has no "
            f"{strange}, but {[*shapes][:5]}. Give the module that the estimator was fitted with."
        )
    for name, parameter in module.named_parameters():
        shape, given = tuple(shapes[name]), tuple(parameter.shape)
        # The output layer was widened.
        if given != shape and not (shape[:1] == (saved.n_joint,) and shape[1:] == given[1:]):
            raise ValueError(
                f"{path} does not hold a network with the layers of module={name_of(template)}: its {name} "
                f"was of shape {shape} before pruning, and that of module is {given}. Give the module "
                "that the estimator was fitted with."
            )
    state = dict(saved.state)
    own = {name: state.pop(name) for name in ("output_weights", "bounds", "rules")}
    network = DecisionNetwork(JointNetwork(module, saved.link, saved.n_joint), **own)
    found = set(network.state_dict()) - set(own)
    # The output layer may have got a bias when it was widened.
    added = {name for name in set(state) - found if name.endswith(".bias")}
    if (set(state) - added) != found:
        wrong = sorted(set(state) ^ found)[:5]
        raise ValueError(
            f"{path} does not hold a network with the layers of module={name_of(template)}: they "
            f"differ in {wrong}. Give the module that the estimator was fitted with."
        )
    for name, value in state.items():
        _assign(network, name, value, path)
    return network.eval().requires_grad_(False)


def _assign(network: nn.Module, name: str, value: Tensor, path: str | os.PathLike[str]) -> None:
    """Put a tensor in place of another, and let its module state the new shape."""
    owner, _, attribute = name.rpartition(".")
    module = network.get_submodule(owner)
    old = getattr(module, attribute)
    if not (old is None or old.ndim == value.ndim):
        raise ValueError(
            f"{path} is damaged or of another network: {name} has the shape {tuple(value.shape)}, and "
            f"that of module {tuple(old.shape)}."
        )
    is_buffer = attribute in module._buffers
    setattr(module, attribute, value if is_buffer else nn.Parameter(value))
    if attribute == "weight":
        _state_shape(module, value)


def _state_shape(module: nn.Module, weight: Tensor) -> None:
    """Set the sizes that a module states of its weight."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, _ConvTransposeNd):
        return  # it has other axes, and no unit of it is removed
    elif isinstance(module, _ConvNd):
        if module.groups > 1 and module.groups == module.in_channels == module.out_channels:
            module.groups = module.in_channels = len(weight)
        else:
            module.in_channels = weight.shape[1] * module.groups
        module.out_channels = len(weight)
    elif isinstance(module, _NormBase):
        module.num_features = len(weight)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(weight)
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = weight.shape[1]
