"""The estimator's parameters: checks that no single interval states, and what their values stand for."""

from collections.abc import Callable
from inspect import signature
from numbers import Integral, Real
from typing import Any

import torch
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import InvalidParameterError
from skorch import NeuralNet

from skfairprune.networks.template import name_of
from skfairprune.pruning.weight_criteria import WEIGHT_CRITERIA
from skfairprune.training.schedules import REMOVALS, GateSchedule

__all__ = [
    "GRANULARITIES",
    "check_parameters",
    "gate_schedule",
    "parameter_defaults",
    "resolve_device",
    "resolve_lengths",
]

#: What can be removed.
GRANULARITIES = ("unit", "weight")

_UPDATES = 1000  # of the weights, that max_epochs="auto" makes at least
# What describes the built-in network, and what a skorch net states itself.
_OF_NETWORK = ("hidden_layer_sizes", "activation", "dropout", "n_bins", "prune_inputs")
_OF_TRAINING = ("lr", "weight_decay", "max_epochs", "batch_size")


def _refuse(name: str, need: str, got: Any) -> InvalidParameterError:
    return InvalidParameterError(
        f"The {name!r} parameter of FairPrunedClassifier must {need}. Got {got!r} instead."
    )


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_parameters(params: BaseEstimator) -> None:
    """Refuse parameters that say nothing together, or contradict each other.

    Parameters
    ----------
    params : BaseEstimator
        The FairPrunedClassifier, of which only parameters are read.

    Raises
    ------
    InvalidParameterError
        If there are such parameters.
    """
    _check_sizes(params.hidden_layer_sizes)
    _check_plan(params)
    _check_module(params)
    _check_granularity(params)


def parameter_defaults(kind: type[BaseEstimator]) -> dict[str, Any]:
    """Return the default of each parameter, also of those that a subclass's constructor does not take.

    Parameters
    ----------
    kind : type
        The FairPrunedClassifier, or a subclass, whose own defaults come before.
    """
    found: dict[str, Any] = {}
    for owner in reversed(kind.__mro__):
        if issubclass(owner, BaseEstimator) and "__init__" in vars(owner):
            of_owner = list(signature(owner).parameters.values())
            found |= {value.name: value.default for value in of_owner if value.kind is not value.VAR_KEYWORD}
    return found


def _check_sizes(sizes: Any) -> None:
    """Refuse hidden layer sizes that are not positive integers."""
    if not len(sizes) or not all(_is_integer(size) and int(size) >= 1 for size in sizes):
        raise _refuse("hidden_layer_sizes", "hold at least one integer, each at least 1", sizes)


def _check_plan(params: BaseEstimator) -> None:
    """Refuse phases, constraints and criteria that do not go together."""
    criterion, order, constrain = params.criterion, params.order, params.constrain
    constraint = params.constraint
    degradation = isinstance(constraint, str) and constraint == "degradation_parity"
    if degradation and order == "fair_then_prune":
        raise InvalidParameterError(
            "constraint='degradation_parity' compares with the dense network, which order='fair_then_prune' "
            "would have to train under it. Choose another order."
        )
    if criterion == "snip" and (degradation or params.distill == "dense"):
        needs = "constraint='degradation_parity'" if degradation else "distill='dense'"
        raise InvalidParameterError(
            f"criterion='snip' prunes before any training, and {needs} needs a trained dense network. "
            "Choose another criterion."
        )
    if order != "joint" and constrain != "both":
        raise InvalidParameterError(
            f"constrain={constrain!r} says which levels of the joint order carry the constraint; with "
            f"order={order!r} one phase does. Leave constrain='both'."
        )
    if order == "fair_then_prune" and criterion == "snip":
        raise InvalidParameterError(
            "criterion='snip' prunes before any training, so there is no fair dense network to prune: "
            "order='fair_then_prune' needs another criterion."
        )
    if constrain == "gates" and criterion != "bilevel":
        raise InvalidParameterError(
            f"constrain='gates' is for criterion='bilevel'; criterion={criterion!r} has no gates to train."
        )
    if params.prune_inputs and criterion in ("magnitude", "fpgm", "lottery"):
        raise InvalidParameterError(
            f"criterion={criterion!r} scores a unit by its incoming weights, and an input has none: with "
            "prune_inputs=True choose another criterion."
        )
    if params.attribute_aware and (constraint is None or not params.decision_rule):
        lacks = "constraint=None" if constraint is None else "decision_rule=False"
        raise InvalidParameterError(
            f"attribute_aware=True fits decision rules that are told the group, and with {lacks} there are "
            "none. Set a constraint and decision_rule=True, or leave attribute_aware=False."
        )


def _check_module(params: BaseEstimator) -> None:
    """Refuse parameters that a network, or a net, which is brought along states itself."""
    module = params.module
    if module is None:
        return
    if isinstance(module, NeuralNet) and getattr(module, "initialized_", False):
        raise InvalidParameterError(
            "module is a skorch net that is fitted, or initialized. Give sklearn.clone(net) to train from "
            "new weights, or net.module_ to train from those that it has."
        )
    default = parameter_defaults(type(params))
    stated = _OF_NETWORK + (_OF_TRAINING if isinstance(module, NeuralNet) else ())
    for name in stated:
        value = getattr(params, name)
        if (tuple(value) if isinstance(value, list) else value) != default[name]:
            owner = "the net states its own" if name in _OF_TRAINING else "it is of the built-in network"
            raise InvalidParameterError(
                f"{name}={getattr(params, name)!r} has no meaning with module={name_of(module)}: "
                f"{owner}. Leave {name} at its default."
            )


def _check_granularity(params: BaseEstimator) -> None:
    """Refuse parameters that say nothing for the parts that are removed."""
    granularity, weight_pattern, criterion = params.granularity, params.weight_pattern, params.criterion
    if weight_pattern is not None:
        whole = len(weight_pattern) == 2 and all(_is_integer(part) for part in weight_pattern)
        if not (whole and 1 <= weight_pattern[0] < weight_pattern[1]):
            raise _refuse("weight_pattern", "hold two integers (n, m), 1 <= n < m", weight_pattern)
        if granularity == "unit":
            raise InvalidParameterError(
                f"weight_pattern={weight_pattern!r} says which single weights stay: it needs "
                "granularity='weight'."
            )
    if granularity == "unit":
        return
    known = ["bilevel", "lottery", *WEIGHT_CRITERIA]
    if criterion not in known:
        raise InvalidParameterError(
            f"criterion={criterion!r} is a rule for whole units; with granularity='weight' choose one of "
            f"{known}."
        )
    if params.hypergradient == "closed_form":
        raise InvalidParameterError(
            "hypergradient='closed_form' is for gates on whole inputs; with granularity='weight' choose "
            "'first_order' or 'implicit'."
        )
    if params.sparsity_measure == "units" or params.prune_inputs:
        name = "prune_inputs=True" if params.prune_inputs else "sparsity_measure='units'"
        raise InvalidParameterError(f"{name} is for whole units; with granularity='weight' none leaves.")


def gate_schedule(removal: str | Callable[[float], float], temperatures: Any) -> GateSchedule:
    """Return the schedule of the bilevel phase, refusing temperatures that rise, and nonsense."""
    numbers = all(isinstance(value, Real) and not isinstance(value, bool) for value in temperatures)
    if not (numbers and len(temperatures) == 2 and 0 < temperatures[1] <= temperatures[0] < float("inf")):
        raise _refuse(
            "gate_temperature", "hold the first and the last temperature, first >= last > 0", temperatures
        )
    schedule = GateSchedule(REMOVALS[removal] if isinstance(removal, str) else removal, tuple(temperatures))
    schedule(1.0)  # a callable that returns nonsense is refused before the training
    return schedule


def resolve_device(name: Any) -> torch.device:
    """Return the device of that name.

    Raises
    ------
    ValueError
        If it is not there, or has no double precision.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device, dtype=torch.float64)  # rates and Gram matrices are summed in it
        if device.type == "meta":
            raise RuntimeError("its tensors have no numbers")
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device={name!r} is not available here ({reason}); use 'auto', 'cpu' or an available GPU "
            "such as 'cuda:0'."
        ) from error
    return device


def resolve_lengths(
    n_train: int, tiny: bool, batch_size: int | str, max_epochs: int | str
) -> tuple[int, int]:
    """Return the batch size and the number of epochs."""
    if batch_size == "auto":
        batch_size = n_train if tiny else min(max(n_train // 64, 32), 512)
    if max_epochs == "auto":
        max_epochs = min(max(20, _UPDATES * int(batch_size) // n_train), 200)
    return int(batch_size), int(max_epochs)
