"""What the outputs of a network of the user's are: found by trials with other weights, never guessed."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from skfairprune.networks.trial import flip_signs, kind, magnify, run_trial, trial_of

__all__ = ["ADVICE", "find_link", "find_output_layer"]

# Changes of the weights, by which what always holds for the outputs is told from what holds by chance: larger
# ones (of which those that must be positive remain so), then random signs, with some noise and with much.
_DISTURBANCES: tuple[Callable[[nn.Module, torch.Generator], None], ...] = (
    magnify,
    *[partial(flip_signs, noise=0.1)] * 6,
    *[partial(flip_signs, noise=1.0)] * 4,
)
#: What to do about outputs that are not understood.
ADVICE = (
    "Return the output of the last nn.Linear, or its softmax, log_softmax or, of one output, sigmoid; or "
    "give module as a function (n_features_in, n_outputs) -> nn.Module whose module returns n_outputs logits."
)


def find_link(module: nn.Module, n_outputs: int, probe: Tensor) -> str:
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


def find_output_layer(module: nn.Module, n_outputs: int, probe: Tensor) -> tuple[str, str]:
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
            f"outputs for groups. {ADVICE}"
        )
    if len(found) > 1:
        raise ValueError(
            f"Several layers of the network {kind(module)} explain its output: "
            f"{', '.join(path for path, *_ in found)}. {ADVICE}"
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
        raise ValueError(f"{what} is called {n_calls} times in a forward pass. Call it once. {ADVICE}")
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
