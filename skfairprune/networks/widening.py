"""A network of class outputs given outputs for the joint classes, with what it has learned."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skfairprune.networks.joint import JointNetwork, at_layer, to_logits
from skfairprune.networks.outputs import ADVICE, find_link, find_output_layer
from skfairprune.networks.trial import copied, forward_quietly, kind, run_as_given, trial_of

__all__ = ["check_outputs", "widen_outputs"]

_TOLERANCE = 1e-5  # of class probabilities


def widen_outputs(module: nn.Module, class_of: Sequence[int], n_classes: int, probe: Tensor) -> JointNetwork:
    r"""Make a network of class outputs give the logits of the joint classes, with what it has learned.

    The output layer is the ``nn.Linear`` of which the network's outputs are the identity, softmax or
    log_softmax (``n_classes`` outputs), or the identity, sigmoid or logsigmoid (one output, two classes). It
    is found by a trial: random numbers in place of the layer's outputs must come out of the network so, in
    evaluation and in training. All weights are disturbed for it, so that nothing is 0 or 1 as yet and hides.

    With :math:`w_c, b_c` the layer's weights for class :math:`c` (for one output, which is the score of class
    1, :math:`w_0 = 0, b_0 = 0`) and :math:`n_c` the number of joint classes of class :math:`c`, joint class
    :math:`j` of class :math:`c(j)` gets

    .. math:: w'_j = w_{c(j)}, \qquad b'_j = b_{c(j)} - \log n_{c(j)},

    so that the softmax of the joint logits, summed over the joint classes of a class, is the class
    probability that the user's network gives. Where the joint classes are the classes in their order, and the
    network has an output for each, nothing is widened, and what the outputs are is found as in
    :func:`check_outputs`.

    Parameters
    ----------
    module : nn.Module
        The network, with outputs of shape (n_samples,), (n_samples, 1) or (n_samples, n_classes). It is
        copied and stays as it is.
    class_of : sequence of int
        The class in [0, n_classes) of each joint class. Every class occurs.
    n_classes : int
        The number of classes, at least 2.
    probe : Tensor of shape (n_samples, n_features)
        Some rows, at least two.

    Returns
    -------
    JointNetwork
        Around the widened copy, in its mode.

    Raises
    ------
    ValueError
        If the network cannot be copied, fails on the probe or changes it, if its outputs are not a finite
        tensor of one of the shapes, or are something else in training, if no layer or more than one explains
        them, if that layer cannot be widened since it is called more than once, shares its weights or
        computes them, or if the widened network does not run or gives other class probabilities.
    """
    classes = [int(c) for c in class_of]
    if set(classes) != set(range(n_classes)):
        raise ValueError(f"class_of must name each of the classes 0 to {n_classes - 1}, got {classes}.")
    network = copied(module)
    outputs = run_as_given(network, probe)
    n_outputs = 1 if outputs.ndim == 1 else outputs.shape[1]
    if n_outputs != n_classes and not (n_outputs == 1 and n_classes == 2):
        expected = "1 or 2" if n_classes == 2 else str(n_classes)
        raise ValueError(
            f"The network {kind(network)} gives outputs of shape {tuple(outputs.shape)} for {len(probe)} "
            f"rows, and y has {n_classes} classes: give a network with {expected} outputs, or a function "
            "(n_features_in, n_outputs) -> nn.Module whose module returns n_outputs logits."
        )
    if n_outputs == n_classes and classes == list(range(n_classes)):
        return JointNetwork(network, find_link(network, n_classes, probe), n_classes)
    path, link = find_output_layer(network, n_outputs, probe)
    _widen(network.get_submodule(path), classes, n_outputs)
    # What makes a vector of one output a row need not do with more.
    ending = at_layer(path) if outputs.ndim == 1 else link
    joint = JointNetwork(network, ending, len(classes))
    _check_probabilities(joint, classes, _class_probabilities(outputs, link), probe)
    return joint


def check_outputs(module: nn.Module, n_joint: int, probe: Tensor) -> JointNetwork:
    """Find what a network with an output for each joint class gives, and make logits of it.

    The outputs are probabilities if they are not negative and sum to 1 in every row, log-probabilities, which
    are logits, if their exponentials are so, and logits if they are bounded on no side and sum to nothing
    fixed. Since logits may be in [0, 1] by chance, this is tried with other weights, too, in evaluation and
    in training. All else is refused, since it can be more than one thing: a sigmoid or logsigmoid of each,
    percentages, losses, a tanh, log-odds.

    Parameters
    ----------
    module : nn.Module
        The network, with outputs of shape (n_samples, n_joint). It is not copied, and stays as it is.
    n_joint : int
        The number of joint classes, at least 2.
    probe : Tensor of shape (n_samples, n_features)
        Some rows, at least two.

    Returns
    -------
    JointNetwork
        Around the module, in its mode.

    Raises
    ------
    ValueError
        If the network cannot be copied for the trials, fails on the probe or changes it, or if its outputs
        are not a finite tensor of that shape, are something else in training, or none of these.
    """
    outputs = run_as_given(module, probe)
    if outputs.shape != (len(probe), n_joint):
        raise ValueError(
            f"The function given as module was called as module({probe.shape[1]}, {n_joint}), the columns "
            f"and then n_outputs, and its network {kind(module)} gives outputs of shape "
            f"{tuple(outputs.shape)} for {len(probe)} rows: it must return n_outputs values a row, of shape "
            f"({len(probe)}, {n_joint}), also for two classes. Wrap a function of other parameters: "
            "lambda n_features_in, n_outputs: Network(n_features_in, width=64, n_outputs=n_outputs)."
        )
    return JointNetwork(module, find_link(module, n_joint, probe), n_joint)


def _widen(layer: nn.Module, classes: list[int], n_outputs: int) -> None:
    """Give a linear layer a row for each joint class."""
    assert isinstance(layer, nn.Linear)
    old_weight, old_bias = layer.weight, layer.bias
    weight = old_weight.detach()
    bias = weight.new_zeros(n_outputs) if old_bias is None else old_bias.detach()
    if n_outputs == 1:
        weight = torch.cat([torch.zeros_like(weight), weight])
        bias = torch.cat([torch.zeros_like(bias), bias])
    index = torch.tensor(classes, device=weight.device)
    sizes = torch.bincount(index).to(bias.dtype)
    bias_trained = old_weight.requires_grad if old_bias is None else old_bias.requires_grad
    layer.weight = nn.Parameter(weight[index], requires_grad=old_weight.requires_grad)
    layer.bias = nn.Parameter((bias - sizes.log())[index], requires_grad=bias_trained)
    layer.out_features = len(classes)


def _class_probabilities(outputs: Tensor, link: str) -> Tensor:
    """Return what the user's network says, of shape (n_samples, n_classes)."""
    logits = to_logits(outputs.reshape(len(outputs), -1), link)
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    return torch.softmax(logits, dim=1)


def _check_probabilities(joint: JointNetwork, classes: list[int], expected: Tensor, probe: Tensor) -> None:
    """Raise unless the widened network gives these class probabilities on the probe."""
    what = f"The network {kind(joint.module)} with {joint.n_joint} outputs, one for each class and group,"
    try:
        logits = forward_quietly(trial_of(joint), probe.clone())
    except Exception as error:  # whatever the user's code raises
        raise ValueError(
            f"{what} fails: {type(error).__name__}: {error}. What comes after the output layer must do with "
            f"any number of outputs. {ADVICE}"
        ) from error
    if logits.shape != (len(probe), joint.n_joint):
        raise ValueError(
            f"{what} gives outputs of shape {tuple(logits.shape)} for {len(probe)} rows. What comes after "
            f"the output layer must not select, sum or transpose outputs. {ADVICE}"
        )
    found = torch.zeros_like(expected)
    found.index_add_(1, torch.tensor(classes, device=found.device), torch.softmax(logits, dim=1))
    if not torch.allclose(found, expected, rtol=0, atol=_TOLERANCE):
        raise ValueError(
            f"{what} gives class probabilities that differ by {float((found - expected).abs().max()):.2g} "
            f"from those of the network as it was given. {ADVICE}"
        )
