"""Networks of one architecture that are trained side by side on the same rows."""

import copy

import torch
from torch import Tensor, nn

from skfairprune.modules import TabularNetwork

__all__ = ["CopyStack", "NetworkStack", "stack_networks"]


class NetworkStack(nn.Module):
    """Built-in networks of the same sizes, evaluated together on the same rows.

    All read the same encoded rows, so their first layers are one matrix product, and each layer after them is
    one batch of products, which is faster than ``torch.vmap`` (docs/design_notes.md).

    Parameters
    ----------
    networks : list of TabularNetwork
        The networks; their weights are copied.
    """

    def __init__(self, networks: list[TabularNetwork]) -> None:
        super().__init__()
        parameters, _ = torch.func.stack_module_state(networks)
        self.names = list(parameters)
        self.stacked = nn.ParameterList(parameters[name].detach() for name in self.names)
        # Outside the module tree: only its structure is used, and its buffers.
        self._template = (copy.deepcopy(networks[0]),)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of all networks, of shape (n_networks, n_samples, n_joint)."""
        template = self._template[0].train(self.training)
        hidden = template.encoding(x)
        for name, layer in template.layers.named_children():
            if not isinstance(layer, nn.Linear):
                hidden = layer(hidden)
                continue
            (weight,), (bias,) = (self.parameters_of(f"layers.{name}.{kind}") for kind in ("weight", "bias"))
            if hidden.ndim == 2:
                joined = nn.functional.linear(hidden, weight.flatten(0, 1), bias.flatten())
                hidden = joined.unflatten(1, bias.shape).transpose(0, 1)
            else:
                hidden = torch.baddbmm(bias[:, None], hidden, weight.transpose(1, 2))
        return hidden

    def each(self, x: Tensor, number: Tensor) -> Tensor:
        """Return the logits of each row under the network of its number, of shape (n_samples, n_joint)."""
        template = self._template[0].train(self.training)
        logits = None
        for position in number.unique().tolist():
            rows = (number == position).nonzero().squeeze(1)
            parameters = {
                name: stacked[position] for name, stacked in zip(self.names, self.stacked, strict=True)
            }
            part = torch.func.functional_call(template, parameters, (x[rows],))
            logits = part.new_empty(len(x), part.shape[1]) if logits is None else logits
            logits[rows] = part
        assert logits is not None
        return logits

    def parameters_of(self, name: str) -> list[nn.Parameter]:
        """Return a parameter of all networks: one, of shape (n_networks, ...)."""
        return [self.stacked[self.names.index(name)]]

    @torch.no_grad()
    def unstack(self, position: int) -> nn.Module:
        """Return one of the networks."""
        network = copy.deepcopy(self._template[0]).eval()
        for name, stacked in zip(self.names, self.stacked, strict=True):
            network.get_parameter(name).copy_(stacked[position])
        return network


class CopyStack(nn.Module):
    """Networks of one architecture, evaluated one after the other: any, also with statistics of their own.

    Parameters
    ----------
    networks : list of nn.Module
        The networks; they are copied.
    """

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(copy.deepcopy(network) for network in networks)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of all networks, of shape (n_networks, n_samples, n_joint)."""
        return torch.stack([network(x) for network in self.networks])

    def each(self, x: Tensor, number: Tensor) -> Tensor:
        """Return the logits of each row under the network of its number, of shape (n_samples, n_joint)."""
        return self(x)[number, torch.arange(len(x), device=x.device)]

    def parameters_of(self, name: str) -> list[nn.Parameter]:
        """Return a parameter of all networks."""
        return [network.get_parameter(name) for network in self.networks]

    def unstack(self, position: int) -> nn.Module:
        """Return one of the networks."""
        return copy.deepcopy(self.networks[position]).eval()


def stack_networks(networks: list[nn.Module]) -> NetworkStack | CopyStack:
    """Stack networks of one architecture: the built-in one in one pass, others one after the other."""
    built_in = [network for network in networks if isinstance(network, TabularNetwork)]
    if len(built_in) == len(networks):
        return NetworkStack(built_in)
    return CopyStack(networks)
