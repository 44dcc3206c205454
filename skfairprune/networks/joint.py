"""The outputs of a network: what they are, and how they become logits of the joint classes (label, group)."""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["JointNetwork", "check_outputs", "widen_outputs"]

_CLOSE = 1e-5  # between probabilities, and outputs beside their own scale


class JointNetwork(nn.Module):
    """A network that gives logits of the joint classes, whatever it makes of them.

    Parameters
    ----------
    module : nn.Module
        Maps rows of shape (n_samples, n_features) to outputs of shape (n_samples, n_joint), or what can be
        reshaped to it row by row.
    link : {"logits", "probability", "sigmoid"}
        What the outputs are: logits (or logarithms of probabilities, which are logits, too), probabilities
        that sum to 1, or a sigmoid of each logit.
    n_joint : int
        The joint classes.
    """

    def __init__(self, module: nn.Module, link: str, n_joint: int) -> None:
        super().__init__()
        self.module = module
        self.link = link
        self.n_joint = n_joint

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, of shape (n_samples, n_joint)."""
        outputs = self.module(x).reshape(x.shape[0], self.n_joint)
        tiny = torch.finfo(outputs.dtype).tiny
        if self.link == "probability":
            return outputs.clamp_min(tiny).log()
        if self.link == "sigmoid":
            return (
                outputs.clamp_min(tiny).log() - (1 - outputs).clamp_min(torch.finfo(outputs.dtype).eps).log()
            )
        return outputs


class _Head(NamedTuple):
    """The output layer of a network, and what becomes of its outputs."""

    path: str
    link: str
    form: str  # "identity", "softmax", "log_softmax" or "sigmoid"


def widen_outputs(module: nn.Module, class_of: Sequence[int], n_classes: int, probe: Tensor) -> JointNetwork:
    r"""Return a copy of a network of class scores that gives logits of the joint classes.

    Its output layer, with weights :math:`w_c` and bias :math:`b_c` of class :math:`c`, is widened: joint
    class :math:`j`, one of :math:`n_c` of the class, gets

    .. math:: w_j = w_{c(j)}, \qquad b_j = b_{c(j)} - \log n_{c(j)},

    so that the softmax, summed over the joint classes of each class, is that of the network as it was. The
    one output of a network of two classes is the logit of the second against 0.

    Parameters
    ----------
    module : nn.Module
        Maps rows to scores of shape (n_samples, n_classes), or with two classes (n_samples,) or
        (n_samples, 1): the outputs of a ``nn.Linear``, or their softmax, log-softmax or, of one output,
        sigmoid. It is not changed.
    class_of : sequence of int
        The class of each joint class.
    n_classes : int
        The classes.
    probe : Tensor of shape (n_samples, n_features)
        Some rows, on which this is found out and checked.

    Raises
    ------
    ValueError
        If the outputs are not for these classes, or do not follow from one linear layer in one of these ways.
    """
    outputs, calls = _run(module, probe)
    n_outputs = outputs.shape[1]
    if n_outputs != n_classes and not (n_outputs == 1 and n_classes == 2):
        raise ValueError(
            f"The {_name(module)} has {n_outputs} outputs for a row, and there are {n_classes} classes: "
            f"{'1 or 2' if n_classes == 2 else n_classes} are needed."
        )
    head = _find_head(module, outputs, calls)
    if head is None:
        raise ValueError(
            f"The outputs of the {_name(module)} are not those of one linear layer, nor their softmax, "
            "log-softmax or (of one output) sigmoid. Return the outputs of the last nn.Linear themselves; or "
            "give module as a callable (n_features_in, n_outputs) -> nn.Module, whose module returns "
            "n_outputs logits."
        )
    network = copy.deepcopy(module)
    if list(class_of) != list(range(n_outputs)):
        _check_own(network, head.path, calls)
        network = _replace(network, head.path, _widened(network.get_submodule(head.path), class_of))
    joint = JointNetwork(network, head.link, len(class_of))
    _check_same(module, joint, _class_proba(outputs, head), class_of, probe)
    return joint


def check_outputs(module: nn.Module, n_joint: int, probe: Tensor) -> JointNetwork:
    """Return a network that was made with the outputs asked for, with its outputs as logits.

    Parameters
    ----------
    module : nn.Module
        Maps rows to outputs of shape (n_samples, n_joint): logits, or their softmax or log-softmax.
    n_joint : int
        The outputs asked for.
    probe : Tensor of shape (n_samples, n_features)
        Some rows.

    Raises
    ------
    ValueError
        If it has another number of outputs, or they lie in [0, 1] and do not sum to 1.
    """
    outputs, calls = _run(module, probe)
    if outputs.shape[1] != n_joint:
        raise ValueError(
            f"module(n_features_in, n_outputs) was asked for n_outputs={n_joint} outputs (the classes, by "
            f"group under a constraint), and the {_name(module)} returns {outputs.shape[1]}. Use n_outputs "
            "for its last layer; or give an instance of a network of class scores, which is widened."
        )
    head = _find_head(module, outputs, calls)
    if head is not None and head.form != "sigmoid":
        return JointNetwork(module, head.link, n_joint)
    if _are_distributions(outputs):
        return JointNetwork(module, "probability", n_joint)
    if head is not None or bool(((outputs >= 0) & (outputs <= 1)).all()):
        raise ValueError(
            f"The outputs of the {_name(module)} lie between 0 and 1 and do not sum to 1: {n_joint} sigmoids "
            "are no distribution over the outputs asked for. Return the logits, or their softmax."
        )
    return JointNetwork(module, "logits", n_joint)


def _name(module: nn.Module) -> str:
    return f"module {type(module).__name__}"


def _run(module: nn.Module, probe: Tensor) -> tuple[Tensor, list[tuple[str, Tensor]]]:
    """Return the outputs on the probe, (n_samples, n_outputs), and those of each linear layer called."""
    trial = copy.deepcopy(module).eval()
    calls: list[tuple[str, Tensor]] = []
    for path, part in trial.named_modules():
        if isinstance(part, nn.Linear):
            part.register_forward_hook(
                lambda _, args, out, path=path: calls.append((path, out.detach().clone()))
            )
    what = f"rows of shape {tuple(probe.shape)} and type {probe.dtype}"
    try:
        with torch.no_grad():
            outputs = trial(probe)
    except Exception as error:  # of the user's own forward pass
        raise ValueError(f"The {_name(module)} fails on {what}: {type(error).__name__}: {error}") from error
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        raise ValueError(
            f"The {_name(module)} must return one tensor of scores; it returned {outputs!r:.200}."
        )
    if outputs.ndim not in (1, 2) or len(outputs) != len(probe):
        raise ValueError(
            f"The {_name(module)} must return scores of shape (n_samples, n_classes), or (n_samples,) of "
            f"two classes; on {what} it returned the shape {tuple(outputs.shape)}."
        )
    if not bool(outputs.isfinite().all()):
        raise ValueError(f"The {_name(module)} returns outputs that are not finite, on {what}.")
    return outputs.reshape(len(probe), -1), calls


def _find_head(module: nn.Module, outputs: Tensor, calls: list[tuple[str, Tensor]]) -> _Head | None:
    """Find the linear layer whose outputs, in one of the known forms, are those of the network."""
    scale = max(float(outputs.abs().max()), 1.0)
    for path, found in reversed(calls):
        if found.numel() != outputs.numel():
            continue
        logits = found.reshape(outputs.shape)
        forms = {"identity": logits, "sigmoid": torch.sigmoid(logits)}
        if outputs.shape[1] > 1:
            forms |= {"softmax": logits.softmax(1), "log_softmax": logits.log_softmax(1)}
        for form, expected in forms.items():
            if float((outputs - expected).abs().max()) <= _CLOSE * scale:
                link = {"softmax": "probability", "sigmoid": "sigmoid"}.get(form, "logits")
                return _Head(path, link, form)
    return None


def _are_distributions(outputs: Tensor) -> bool:
    """Tell whether each row is non-negative and sums to 1."""
    return bool((outputs >= 0).all()) and float((outputs.sum(1) - 1).abs().max()) < 1e-4


def _class_proba(outputs: Tensor, head: _Head) -> Tensor:
    """Return the class probabilities that the network's outputs stand for."""
    if outputs.shape[1] == 1:
        positive = outputs if head.form == "sigmoid" else torch.sigmoid(outputs)
        return torch.cat([1 - positive, positive], dim=1)
    if head.form == "sigmoid":
        raise ValueError(
            f"The outputs are {outputs.shape[1]} sigmoids, which are no distribution over the classes. "
            "Return logits or their softmax, or of two classes one output."
        )
    return outputs if head.form == "softmax" else outputs.softmax(1)


def _check_own(network: nn.Module, path: str, calls: list[tuple[str, Tensor]]) -> None:
    """Refuse an output layer that is something else beside."""
    layer = network.get_submodule(path)
    n_calls = sum(called == path for called, _ in calls)
    owners = [
        part
        for part in set(network.modules())
        if any(parameter is layer.weight for parameter in part.parameters(recurse=False))
    ]
    if n_calls != 1 or owners != [layer] or "weight" not in layer._parameters:
        told = f"called {n_calls} times" if n_calls != 1 else "not a weight of its own alone"
        raise ValueError(
            f"The output layer {path or 'itself'} of the {_name(network)} is {told}, so that it cannot be "
            "widened. Use a nn.Linear of its own for the outputs."
        )


def _widened(layer: nn.Module, class_of: Sequence[int]) -> nn.Linear:
    """Return an output layer for the joint classes that says what the layer of classes says."""
    assert isinstance(layer, nn.Linear)
    weight = layer.weight.detach()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()
    if len(weight) == 1:
        weight, bias = torch.cat([0 * weight, weight]), torch.cat([0 * bias, bias])
    number = torch.as_tensor(class_of, device=weight.device)
    with torch.random.fork_rng(devices=[]):
        wide = nn.Linear(weight.shape[1], len(number), device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        wide.weight.copy_(weight[number])
        wide.bias.copy_(bias[number] - torch.bincount(number).to(bias)[number].log())
    return wide.train(layer.training)


def _replace(network: nn.Module, path: str, layer: nn.Module) -> nn.Module:
    """Put a layer in place of another."""
    if not path:
        return layer
    network.set_submodule(path, layer)
    return network


def _check_same(
    module: nn.Module, joint: JointNetwork, expected: Tensor, class_of: Sequence[int], probe: Tensor
) -> None:
    """Refuse a network that does something else once its output layer is wider."""
    number = torch.as_tensor(class_of, device=probe.device)
    try:
        with torch.no_grad():
            proba = copy.deepcopy(joint).eval()(probe).softmax(1)
        found = torch.zeros_like(expected).index_add_(1, number, proba)
        same = float((found - expected).abs().max()) <= 10 * _CLOSE
    except (RuntimeError, IndexError, ValueError):
        same = False
    if not same:
        raise ValueError(
            f"The {_name(module)} takes its output layer apart, so that it does not work with another number "
            "of outputs, which a constraint needs (the classes, by group). Return the outputs of the last "
            "nn.Linear themselves; or give module as a callable (n_features_in, n_outputs) -> nn.Module, "
            "whose module returns n_outputs logits."
        )
