"""What is asked of a network before it is trained: plain modules, and rows that do not know each other."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from skfairprune.networks.trial import (
    flip_signs,
    forward_quietly,
    kind,
    run_as_given,
    run_trial,
    trial_of,
)

__all__ = ["check_behaviour", "check_modules"]

# Where every module keeps its parts and hooks.
_OF_TORCH = frozenset(vars(nn.Module()))
_TOLERANCE = 1e-3  # of the largest output: far above the rounding of float32


def check_modules(network: nn.Module) -> None:
    """Refuse modules whose layers cannot be reached, or have no size yet.

    Parameters
    ----------
    network : nn.Module
        The network.

    Raises
    ------
    ValueError
        If it has a scripted, a compiled or a lazy module, complex buffers, parameters on the same memory,
        layers or parameters in plain lists, or functions that hold its layers.
    """
    tensors = chain(network.named_parameters(), network.named_buffers())
    if lazy := [name for name, tensor in tensors if is_lazy(tensor)]:
        raise ValueError(
            f"The network {kind(network)} has lazy layers without a size, {lazy}. Run it once on some rows, "
            "or give the layers their sizes."
        )
    for path, module in network.named_modules():
        where = f" at {path!r}" if path else ""
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"The network has a scripted or traced module{where}, whose layers cannot be taken apart. "
                "Give the nn.Module that was passed to torch.jit.script or torch.jit.trace."
            )
        if type(module).__name__ == "OptimizedModule":  # its class would take the import of the compiler
            raise ValueError(
                f"The network has a module that torch.compile returned{where}, whose layers cannot be taken "
                "apart. Give the nn.Module that was compiled, which is its _orig_mod; what fit leaves can be "
                "compiled again."
            )
    if strange := [name for name, buffer in network.named_buffers() if buffer.is_complex()]:
        raise ValueError(
            f"The network {kind(network)} has the complex buffers {strange}, which would lose their "
            "imaginary parts with the type of the rows. Keep real and imaginary parts as two buffers."
        )
    _check_storages(network)
    _check_attributes(network)


def _check_storages(network: nn.Module) -> None:
    """Refuse parameters that are two and share their numbers: copies would train them apart."""
    names: dict[tuple[torch.device, int], str] = {}
    for name, parameter in network.named_parameters():
        place = (parameter.device, parameter.data_ptr())
        if parameter.numel() and place in names:
            raise ValueError(
                f"The network {kind(network)} has the parameters {names[place]!r} and {name!r}, which are "
                "two on the same memory, and copies of it would train them apart. Tie them by giving both "
                "layers the same nn.Parameter."
            )
        names[place] = name


def _check_attributes(network: nn.Module) -> None:
    """Refuse what a copy of the network would share with the one that was given."""
    known = set(network.modules())
    for path, module in network.named_modules():
        for name, value in vars(module).items():
            if name in _OF_TORCH:
                continue
            where = f"{path}.{name}".lstrip(".")
            held = value.values() if isinstance(value, dict) else value
            if not isinstance(value, dict | list | tuple):
                held = (value,)
            if any(isinstance(item, nn.Module) and item not in known and _is_trained(item) for item in held):
                raise ValueError(
                    f"The network {kind(network)} keeps layers in {where}, where neither PyTorch nor fit "
                    "finds them. Put them in an nn.ModuleList or nn.ModuleDict."
                )
            # Recurrent layers keep such a list and look after it.
            if not isinstance(module, nn.RNNBase) and any(isinstance(item, nn.Parameter) for item in held):
                raise ValueError(
                    f"The network {kind(network)} keeps parameters in {where}, which would be the old ones "
                    "once units are removed. Read them from their layers in the forward pass, or put them in "
                    "an nn.ParameterList."
                )
            if any(isinstance(item, FunctionType) and _holds_layers(item) for item in held):
                raise ValueError(
                    f"The network {kind(network)} keeps a function in {where} that uses a layer, a parameter "
                    "or a buffer, and would go on using those of your instance: copies do not have functions "
                    "of their own. Make it a method, or a module."
                )


def _is_trained(value: Any) -> bool:
    """Tell whether a value is a parameter that is trained, or a module that has some."""
    if isinstance(value, nn.Module):
        return any(parameter.requires_grad for parameter in value.parameters())
    return isinstance(value, Tensor) and value.requires_grad


def _holds_layers(function: FunctionType) -> bool:
    """Tell whether a function uses what a copy should have of its own: by its closure, or its defaults."""
    held: list[Any] = [*(function.__defaults__ or ())]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # nothing is in it
            held.append(cell.cell_contents)
    for value in held:
        owner = value.__self__ if isinstance(value, MethodType) else value
        if not isinstance(owner, nn.Module):
            if _is_trained(owner):
                return True
            continue
        # Of a module that is not called itself, such as self, what is read of it counts.
        read = [getattr(owner, name, None) for name in function.__code__.co_names if hasattr(owner, name)]
        if isinstance(value, MethodType) or not read:
            read = [owner]
        if any(_is_trained(part) or isinstance(part, Tensor) for part in read):
            return True
    return False


def check_behaviour(network: nn.Module, probe: Tensor) -> None:
    """Run copies of a network, and refuse what cannot be trained or would decide by chance.

    Parameters
    ----------
    network : nn.Module
        The network. It stays as it is.
    probe : Tensor of shape (n_samples, n_features)
        Some rows, at least two.

    Raises
    ------
    ValueError
        If it fails on the rows, or gives no finite outputs of a known shape; if in evaluation a row's outputs
        depend on the other rows; or if the backward pass fails or runs layers again.
    """
    run_as_given(network, probe)
    for trial in _as_given_and_disturbed(network):
        _check_rows_alone(trial, probe)
    _check_backward(network, probe)


def _as_given_and_disturbed(network: nn.Module) -> Iterator[nn.Module]:
    """Yield a copy, and one with other weights, as some may be 0 and hide what follows them."""
    yield trial_of(network)
    disturbed = trial_of(network)
    flip_signs(disturbed, torch.Generator().manual_seed(0))
    yield disturbed


def _check_rows_alone(trial: nn.Module, probe: Tensor) -> None:
    """Refuse a network that gives a row other outputs alone than among others."""
    together = run_trial(trial, probe).reshape(len(probe), -1)
    finite = together[together.isfinite()]
    tolerance = _TOLERANCE * float(finite.abs().max()) if len(finite) else 0.0
    norms = [
        path
        for path, module in trial.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is None
    ]
    cause = (
        f"The batch norms {', '.join(norms)} have no running statistics: leave out track_running_stats=False."
        if norms
        else "Look for a mean, a norm or a softmax over rows (dim=0), for statistics of the batch, for "
        "shapes that only fit some numbers of rows, and for dropout that does not heed self.training."
    )
    for position in sorted({0, len(probe) // 2, len(probe) - 1}):
        try:
            alone = forward_quietly(trial, probe[position : position + 1].clone()).reshape(1, -1)
        except Exception as error:  # of the user's own forward pass
            raise ValueError(
                f"The network {kind(trial)} runs on {len(probe)} rows and fails on one row alone: "
                f"{type(error).__name__}: {error}. In evaluation it must treat every row for itself. {cause}"
            ) from error
        expected = together[position : position + 1]
        if alone.shape != expected.shape or not torch.allclose(
            alone, expected, rtol=0, atol=tolerance, equal_nan=True
        ):
            raise ValueError(
                f"The network {kind(trial)} in evaluation gives a row other outputs alone than among "
                f"{len(probe)} rows: {alone[0].tolist()} and {expected[0].tolist()}. A decision must not "
                f"depend on who else is in the batch. {cause}"
            )


def _check_backward(network: nn.Module, probe: Tensor) -> None:
    """Refuse a network that runs its layers again in the backward pass, when the gates are gone."""
    try:
        again = _run_again(network, probe.clone())
    except Exception as error:  # of the user's own code
        raise ValueError(
            f"The network {kind(network)} cannot be trained, since a pass forward and back in training "
            f"mode fails: {type(error).__name__}: {error}"
        ) from error
    # Reentrant checkpointing of the first layers only shows where the rows need a gradient, too. They need
    # none in training, and some networks, that write to the rows, fail with it.
    with suppress(Exception):
        again += _run_again(network, probe.clone().requires_grad_())
    if again:
        raise ValueError(
            f"The network {kind(network)} runs {', '.join(dict.fromkeys(again))} again in the backward pass, "
            "as torch.utils.checkpoint does to save memory. The gates of units are only there in the forward "
            "pass: switch checkpointing off."
        )


def _run_again(network: nn.Module, rows: Tensor) -> list[str]:
    """Return the paths of the modules that a backward pass runs again."""
    trial = trial_of(network, training=True)
    again: list[str] = []
    with torch.random.fork_rng(devices=[]):
        outputs = trial(rows)
        for path, module in trial.named_modules():
            module.register_forward_pre_hook(lambda _, args, path=path: again.append(path))
        if outputs.requires_grad:
            outputs.sum().backward()
    return again
