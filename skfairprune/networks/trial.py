"""Trials: copies of a network of the user's that are run on some rows, and the errors of what cannot be."""

import copy

import torch
from torch import Tensor, nn

__all__ = [
    "copied",
    "flip_signs",
    "forward_quietly",
    "kind",
    "magnify",
    "run_as_given",
    "run_trial",
    "trial_of",
]


def kind(module: nn.Module) -> str:
    """Name a network for people."""
    return type(module).__name__


def copied(module: nn.Module) -> nn.Module:
    """Return a copy.

    Raises
    ------
    ValueError
        If it cannot be copied.
    """
    try:
        return copy.deepcopy(module)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(
            f"The network {kind(module)} cannot be copied: {type(error).__name__}: {error}. Use parameters, "
            "buffers and plain attributes that copy.deepcopy can copy."
        ) from error


def trial_of(module: nn.Module, training: bool = False) -> nn.Module:
    """Return a copy to run, in evaluation or in training."""
    return copied(module).train(training)


@torch.no_grad()
def forward_quietly(trial: nn.Module, rows: Tensor) -> Tensor:
    """Run a trial without a trace in torch's random numbers."""
    with torch.random.fork_rng(devices=[rows.device] if rows.is_cuda else []):
        outputs = trial(rows)
    return outputs.detach() if isinstance(outputs, Tensor) else outputs


def run_trial(trial: nn.Module, probe: Tensor) -> Tensor:
    """Return the outputs of a trial, of shape (n_samples,) or (n_samples, n_outputs).

    Raises
    ------
    ValueError
        If it fails on the rows or changes them, or its outputs are no floats of these shapes and their type.
    """
    rows = probe.clone()
    fed = f"rows of {probe.dtype} and shape {tuple(probe.shape)}"
    try:
        outputs = forward_quietly(trial, rows)
    except Exception as error:  # whatever the user's code raises
        raise ValueError(
            f"The network {kind(trial)} fails on {fed}: {type(error).__name__}: {error}. Give one that "
            "takes tensors of the rows' numbers, of shape (n_samples, n_features)."
        ) from error
    if not isinstance(outputs, Tensor):
        raise ValueError(
            f"The network {kind(trial)} returned a {type(outputs).__name__} and not a tensor. Wrap it in a "
            "module that returns only the class outputs, of shape (n_samples, n_outputs)."
        )
    if outputs.ndim not in (1, 2) or len(outputs) != len(probe) or not outputs.is_floating_point():
        raise ValueError(
            f"The network {kind(trial)} returned {outputs.dtype} of shape {tuple(outputs.shape)} for {fed}. "
            "It must return floats of shape (n_samples, n_outputs), or (n_samples,) for a single output."
        )
    if outputs.dtype != probe.dtype:
        raise ValueError(
            f"The network {kind(trial)} returned {outputs.dtype} for {fed}. Let its forward pass return the "
            "type of its rows: without torch.autocast, or with .to(x.dtype) at its end."
        )
    if not torch.allclose(rows, probe, rtol=0, atol=0, equal_nan=True):
        raise ValueError(
            f"The network {kind(trial)} changes its input in place, and with it the training rows. Leave "
            "out inplace=True in its first layer, or start with x = x.clone()."
        )
    return outputs


def run_as_given(module: nn.Module, probe: Tensor) -> Tensor:
    """Return the outputs of a copy of the network as it is, as :func:`run_trial`.

    Raises
    ------
    ValueError
        As there, and if its outputs are not finite.
    """
    outputs = run_trial(trial_of(module), probe)
    finite = outputs.reshape(len(probe), -1).isfinite().all(dim=1)
    if not finite.all():
        raise ValueError(
            f"The network {kind(module)} gives infinite or NaN outputs for {int((~finite).sum())} of "
            f"{len(probe)} rows. Scale the columns, and look for NaN in the network's weights."
        )
    return outputs


@torch.no_grad()
def flip_signs(trial: nn.Module, generator: torch.Generator, noise: float = 0.1) -> None:
    """Flip the signs of half of the weights, and disturb them, since some may be 0."""
    for parameter in trial.parameters():
        if parameter.is_floating_point():
            signs = torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
            parameter.mul_(signs.to(parameter.device))
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter), alpha=noise)


@torch.no_grad()
def magnify(trial: nn.Module, generator: torch.Generator) -> None:
    """Multiply every weight by a factor of 2 to 8."""
    for parameter in trial.parameters():
        if parameter.is_floating_point():
            parameter.mul_(2 + 6 * torch.rand(parameter.shape, generator=generator).to(parameter))
