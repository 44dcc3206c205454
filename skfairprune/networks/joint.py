"""A network of the user's, made to give the logits of the joint classes (label and group)."""

import copy
import threading
from collections.abc import Callable, Sequence
from functools import partial
from types import MethodType

import torch
from torch import Tensor, nn

from skfairprune.networks.trial import (
    copied,
    flip_signs,
    forward_quietly,
    kind,
    magnify,
    run_as_given,
    run_trial,
    trial_of,
)

__all__ = ["JointNetwork", "check_outputs", "widen_outputs"]

_LINKS = ("logits", "probability", "sigmoid", "log_sigmoid")
_AT = "at "
_ONE_AT_A_TIME = threading.RLock()
_TOLERANCE = 1e-5  # of class probabilities
# Changes of the weights, by which what always holds for the outputs is told from what holds by chance: larger
# ones (of which those that must be positive remain so), then random signs, with some noise and with much.
_DISTURBANCES: tuple[Callable[[nn.Module, torch.Generator], None], ...] = (
    magnify,
    *[partial(flip_signs, noise=0.1)] * 6,
    *[partial(flip_signs, noise=1.0)] * 4,
)
_ADVICE = (
    "Return the output of the last nn.Linear, or its softmax, log_softmax or, of one output, sigmoid; or "
    "give module as a function (n_features_in, n_outputs) -> nn.Module whose module returns n_outputs logits."
)


class JointNetwork(nn.Module):
    r"""A user's network that gives the logits of the joint classes.

    With :math:`f_j` the outputs of ``module`` the logits are

    .. math::

        l_j(x) = f_j(x), \quad \log f_j(x), \quad \log \frac{f_j(x)}{1 - f_j(x)}, \quad
        f_j(x) - \log(1 - e^{f_j(x)})

    for the links "logits", "probability", "sigmoid" and "log_sigmoid". Log-probabilities are logits. So that
    logits and their first two derivatives are finite, probabilities are clamped to at least the root of the
    smallest positive number of their type (1e-19 in single precision), and sigmoids also to at most 1 less
    the spacing of numbers there (1e-7). Clamped outputs have no gradient.

    With the link "at PATH" the logits are the outputs of the layer of that path, and the rest of the module
    gets the first of them: for modules that make a vector of one output a row, and can do with no more.

    Parameters
    ----------
    module : nn.Module
        Maps rows (n_samples, n_features) to ``n_joint`` outputs a row, of shape (n_samples, n_joint), or of
        one or three dimensions and in the order of the rows.
    link : {"logits", "probability", "sigmoid", "log_sigmoid"} or str
        What the outputs are of the logits; or "at " and the path of the layer that gives them.
    n_joint : int
        The number of joint classes.

    Raises
    ------
    ValueError
        If the link is unknown.
    """

    def __init__(self, module: nn.Module, link: str, n_joint: int) -> None:
        super().__init__()
        if link not in _LINKS and not _is_at(link, module):
            raise ValueError(f"link={link!r} is unknown: use one of {', '.join(_LINKS)}, or 'at PATH'.")
        self.module = module
        self.link = link
        self.n_joint = n_joint
        self.training = module.training

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, of shape (n_samples, n_joint), of rows (n_samples, n_features)."""
        if self.link.startswith(_AT):
            path = self.link.removeprefix(_AT)
            return _run_to(path, self.module, self.module, x).reshape(x.shape[0], self.n_joint)
        outputs = self.module(x)
        if outputs.ndim != 2:
            outputs = outputs.reshape(x.shape[0], self.n_joint)
        return _to_logits(outputs, self.link)

    @property
    def bare(self) -> nn.Module:
        """The module; with a link "at PATH" one of the same layers and names that gives those outputs."""
        if not self.link.startswith(_AT):
            return self.module
        path, module = self.link.removeprefix(_AT), self.module
        own = module.__dict__.get("forward", type(module).forward)
        whole = getattr(own, "__func__", own)

        def forward(module: nn.Module, x: Tensor) -> Tensor:
            return _run_to(path, module, partial(whole, module), x)

        bare = copy.copy(module)
        # A method of the object, which a copy of it binds anew; its class stays what it is.
        bare.__dict__["forward"] = MethodType(forward, bare)
        return bare


def _run_to(path: str, module: nn.Module, run: Callable[[Tensor], object], x: Tensor) -> Tensor:
    """Return the outputs of the layer of that path; what comes after it gets the first of them.

    Where the module takes many rows in parts, they are those of the parts.
    """
    found: list[Tensor] = []

    def keep(layer: nn.Module, args: object, outputs: Tensor) -> Tensor:
        found.append(outputs)
        return outputs[..., :1].clone()

    with _ONE_AT_A_TIME:  # threads would see each other's outputs
        handle = module.get_submodule(path).register_forward_hook(keep)
        try:
            run(x)
        finally:
            handle.remove()
    return found[0] if len(found) == 1 else torch.cat(found)


def _is_at(link: str, module: nn.Module) -> bool:
    """Tell whether a link names a layer of a module."""
    return link.startswith(_AT) and link.removeprefix(_AT) in dict(module.named_modules())


def _to_logits(outputs: Tensor, link: str) -> Tensor:
    """Undo the link."""
    if link == "logits":
        return outputs
    limits = torch.finfo(outputs.dtype)
    least = limits.tiny**0.5  # its square, in second derivatives, is above 0
    if link == "log_sigmoid":
        outputs = outputs.clamp(max=-least)
        return outputs - torch.log(-torch.expm1(outputs))
    logs = torch.log(outputs.clamp(min=least))
    return logs if link == "probability" else logs - torch.log1p(-outputs.clamp(max=1 - limits.eps))


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
        return JointNetwork(network, _find_link(network, n_classes, probe), n_classes)
    path, link = _find_output_layer(network, n_outputs, probe)
    _widen(network.get_submodule(path), classes, n_outputs)
    # What makes a vector of one output a row need not do with more.
    ending = f"{_AT}{path}" if outputs.ndim == 1 else link
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
            f"The function given as module was asked for n_outputs={n_joint}, and its network "
            f"{kind(module)} gives outputs of shape {tuple(outputs.shape)} for {len(probe)} rows: it must "
            f"return n_outputs values a row, of shape ({len(probe)}, {n_joint}), also for two classes."
        )
    return JointNetwork(module, _find_link(module, n_joint, probe), n_joint)


def _find_link(module: nn.Module, n_outputs: int, probe: Tensor) -> str:
    """Tell logits and probabilities apart, for a network of several outputs."""
    found = {training: _link_by_values(module, n_outputs, probe, training) for training in (False, True)}
    if found[True] != found[False]:
        raise _other_in_training(module)
    return found[False]


def _other_in_training(module: nn.Module) -> ValueError:
    """Return the error of a network whose outputs depend on its mode."""
    return ValueError(
        f"The network {kind(module)} gives something else in training than in evaluation, such as a softmax "
        "only in evaluation, or dropout after its output layer. Return the same in both, best the output of "
        "the last nn.Linear."
    )


def _link_by_values(module: nn.Module, n_outputs: int, probe: Tensor, training: bool) -> str:
    """Return "logits" or "probability" by what holds for the outputs whatever the weights are."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for disturb in (None, *_DISTURBANCES):
        trial = trial_of(module, training)
        if disturb is not None:
            disturb(trial, generator)
        outputs = run_trial(trial, probe)
        if outputs.shape != (len(probe), n_outputs):
            raise _other_in_training(module)
        parts.append(outputs[outputs.isfinite().all(dim=1)])
    found = torch.cat(parts)
    sums, largest = found.sum(dim=1), found.abs().amax(dim=1)
    # Large outputs have lost digits of what they sum to.
    is_fixed = (sums - sums.median()).abs() <= 1e-3 * largest.clamp(min=1)
    if ((found >= -1e-6) & (found <= 1 + 1e-6)).all():
        if ((sums - 1).abs() <= 1e-4).all():
            return "probability"
        reason = "are between 0 and 1 and do not sum to 1 in a row, as a sigmoid of each gives"
    elif (found.logsumexp(dim=1).abs() <= 1e-2 + 1e-5 * largest).all():
        return "logits"  # log-probabilities
    elif (found <= 0).all():
        reason = "are never above 0, and their exponentials do not sum to 1, as a logsigmoid of each gives"
    elif (found >= 0).all():
        reason = "are never below 0, as percentages are, or losses, or what a ReLU gives"
    elif (largest <= 1).all():
        reason = "are never beyond -1 and 1, as a tanh of each gives"
    elif is_fixed.double().mean() > 0.5:
        reason = f"sum to {float(sums.median()):.3g} in every row, as log-odds of two classes do"
    else:
        return "logits"
    raise ValueError(
        f"The outputs of the network {kind(module)} {reason}. They can be more than one thing, and are not "
        "taken for logits. Return the output of the last nn.Linear, or its softmax; or, if they are scores "
        "whose softmax is the classes' probabilities, append nn.LogSoftmax(dim=1), which says so."
    )


def _find_output_layer(module: nn.Module, n_outputs: int, probe: Tensor) -> tuple[str, str]:
    """Return the path of the layer whose outputs are the network's, and their link."""
    generator = torch.Generator().manual_seed(0)
    trial = trial_of(module)
    with torch.no_grad():
        for parameter in trial.parameters():
            if parameter.is_floating_point():  # what must be positive remains so
                parameter.add_(torch.rand(parameter.shape, generator=generator).to(parameter), alpha=0.1)
    found: list[tuple[str, str, int]] = []
    for path, layer in trial.named_modules():
        if not isinstance(layer, nn.Linear) or layer.out_features != n_outputs:
            continue
        link, n_calls = _link_through(layer, trial.eval(), probe, generator)
        if link is None:
            continue
        if _link_through(layer, trial.train(), probe, generator)[0] != link:
            raise _other_in_training(module)
        found.append((path, link, n_calls))
    if not found:
        raise ValueError(
            f"The output of the network {kind(module)} is not that of one nn.Linear with {n_outputs} "
            "outputs, nor its softmax, log_softmax or, of one output, sigmoid, so that it cannot be given "
            f"outputs for groups. {_ADVICE}"
        )
    if len(found) > 1:
        raise ValueError(
            f"Several layers of the network {kind(module)} explain its output: "
            f"{', '.join(path for path, *_ in found)}. {_ADVICE}"
        )
    ((path, link, n_calls),) = found
    if n_outputs > 1 and link in ("sigmoid", "log_sigmoid"):
        raise ValueError(
            f"The network {kind(module)} gives a {link} of each of {n_outputs} outputs, which are no "
            "probabilities of classes one of which is true. Leave it out, or replace it by a softmax."
        )
    _check_replaceable(module, path, n_calls)
    return path, link


def _link_through(
    layer: nn.Module, trial: nn.Module, probe: Tensor, generator: torch.Generator
) -> tuple[str | None, int]:
    """Return the link from random numbers in place of a layer's outputs to the network's, and its calls."""
    drawn: list[Tensor] = []

    def replace(layer: nn.Module, inputs: object, output: Tensor) -> Tensor:
        drawn.append(2 * torch.randn(output.shape, generator=generator).to(output))
        return drawn[-1].clone()

    handle = layer.register_forward_hook(replace)
    outputs = run_trial(trial, probe).reshape(len(probe), -1)
    handle.remove()
    links = (_explain(outputs, scores) for scores in drawn)
    return next((link for link in links if link is not None), None), len(drawn)


def _explain(outputs: Tensor, scores: Tensor) -> str | None:
    """Return the link by which scores of any shape gave outputs (n_samples, n_outputs), or None."""
    if scores.numel() != outputs.numel():
        return None
    scores = scores.reshape(outputs.shape)
    made = [
        ("logits", scores),
        ("sigmoid", torch.sigmoid(scores)),
        ("log_sigmoid", nn.functional.logsigmoid(scores)),
    ]
    if outputs.shape[1] > 1:
        made += [
            ("probability", torch.softmax(scores, dim=1)),
            ("logits", torch.log_softmax(scores, dim=1)),
        ]
    matches = (link for link, expected in made if torch.allclose(outputs, expected, rtol=1e-4, atol=1e-5))
    return next(matches, None)


def _check_replaceable(module: nn.Module, path: str, n_calls: int) -> None:
    """Raise if a layer with other weights would change more than the network's outputs."""
    layer = module.get_submodule(path)
    what = f"The output layer {path or '(the network itself)'} of the network {kind(module)}"
    if n_calls > 1:
        raise ValueError(f"{what} is called {n_calls} times in a forward pass. Call it once. {_ADVICE}")
    if layer._parameters.get("weight") is None:
        raise ValueError(
            f"{what} computes its weight from other parameters, as weight_norm, spectral_norm and prune of "
            "torch.nn.utils have it. Remove this from the output layer."
        )
    own = [parameter for parameter in layer._parameters.values() if parameter is not None]
    names = [
        name
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if any(parameter is mine for mine in own)
    ]
    if len(names) > len(own):
        raise ValueError(
            f"{what} shares its weights: they are {', '.join(names)}. Give the output layer weights of its "
            "own, and register it once."
        )


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
    logits = _to_logits(outputs.reshape(len(outputs), -1), link)
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
            f"any number of outputs. {_ADVICE}"
        ) from error
    if logits.shape != (len(probe), joint.n_joint):
        raise ValueError(
            f"{what} gives outputs of shape {tuple(logits.shape)} for {len(probe)} rows. What comes after "
            f"the output layer must not select, sum or transpose outputs. {_ADVICE}"
        )
    found = torch.zeros_like(expected)
    found.index_add_(1, torch.tensor(classes, device=found.device), torch.softmax(logits, dim=1))
    if not torch.allclose(found, expected, rtol=0, atol=_TOLERANCE):
        raise ValueError(
            f"{what} gives class probabilities that differ by {float((found - expected).abs().max()):.2g} "
            f"from those of the network as it was given. {_ADVICE}"
        )
