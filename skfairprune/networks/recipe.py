"""How a network is trained, and what of that a skorch net states."""

from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    InputShapeSetter,
    LoadInitState,
    LRScheduler,
    ParamMapper,
    PassthroughScoring,
    ProgressBar,
    TrainEndCheckpoint,
)
from skorch.callbacks.scoring import ScoringBase
from skorch.dataset import Dataset
from torch import nn
from torch.utils.data import DataLoader

from skfairprune.networks.template import name_of

__all__ = ["Recipe", "take_over"]

# Losses that are the log loss of the network's outputs, which is what is minimised here.
_LOG_LOSSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.BCEWithLogitsLoss, nn.BCELoss)
# What skorch's classifiers measure, and a fit does not.
_NOT_MEASURED = ("valid_acc", "train_acc")
# What a subclass of a net may change of skorch's: what is read here, and what a fit has no part in.
_READ = ("get_params", "get_params_for", "set_params", "_get_param_names")
_NO_PART = (
    *("predict", "predict_proba", "forward", "forward_iter", "evaluation_step", "classes_"),
    *("_get_predict_nonlinearity", "check_is_fitted", "trim_for_prediction", "save_params", "load_params"),
    *("get_metadata_routing", "set_fit_request", "set_partial_fit_request", "set_score_request"),
)
# Parameters of a loader that leave the rows and their order as they are.
_MOVES_NO_ROWS = frozenset(
    ("batch_size", "num_workers", "pin_memory", "pin_memory_device", "persistent_workers", "prefetch_factor")
)
# Callbacks that are not taken over, and why.
_REFUSED: tuple[tuple[tuple[type[Callback], ...], str], ...] = (
    (
        (ParamMapper, Checkpoint, TrainEndCheckpoint, LoadInitState),
        "reads or writes parameters or files by name, and a fit has several phases, on networks of other "
        "sizes. Remove it: a parameter of a module with requires_grad=False is not trained, and every phase "
        "returns to its best epoch.",
    ),
    (
        (ScoringBase, PassthroughScoring),
        "scores within an epoch, by scikit-learn or by what a step of the net's own wrote down, and batches "
        "of tensors have neither. Remove it; history_ has the losses of every epoch.",
    ),
    (
        (InputShapeSetter,),
        "makes the module anew when a phase starts. Remove it, and set the module__ parameter for the number "
        "of columns; or give module as a function (n_features_in, n_outputs) -> nn.Module, which is told it.",
    ),
    (
        (ProgressBar,),
        "counts rows of another kind of data set. Remove it, and use the estimator's verbose=1.",
    ),
)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Parameters
    ----------
    lr : float
        The peak learning rate.
    max_epochs : int or "auto"
        The epochs of all phases.
    batch_size : int or "auto"
        The rows of a batch.
    optimizer : type
        The class of the optimizer.
    optimizer_params : dict
        Its parameters but for the rate.
    callbacks : tuple of (str, Callback)
        Called in every phase.
    iterator : callable or None
        Makes batches of a data set; None shuffles the rows.
    iterator_params : dict
        Its parameters but for the data set and the batch size.
    """

    lr: float
    max_epochs: int | str
    batch_size: int | str
    optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW
    optimizer_params: dict[str, Any] = field(default_factory=dict)
    callbacks: tuple[tuple[str, Callback], ...] = ()
    iterator: Callable[..., Any] | None = None
    iterator_params: dict[str, Any] = field(default_factory=dict)


def take_over(net: NeuralNet, device: torch.device) -> Recipe:
    """Return how a skorch net is trained.

    Parameters
    ----------
    net : NeuralNet
        An unfitted net: its optimizer and rate, epochs, batch size, callbacks and training iterator are
        taken over.
    device : torch.device
        Where to train.

    Raises
    ------
    ValueError
        If it states what cannot be kept: a loss that is no log loss, methods of its own, a sampler for
        certain rows, callbacks that score by scikit-learn or name parameters, an optimizer that takes no
        step, or parameters of parts that are not taken over.
    """
    if net.criterion not in _LOG_LOSSES:  # a subclass of one can be any loss
        known = ", ".join(loss.__name__ for loss in _LOG_LOSSES)
        raise ValueError(
            f"The net's criterion is {net.criterion!r}; what is trained here is the log loss, under a "
            f"constraint. Use one of {known}, and class_weight or sample_weight for weights."
        )
    if changed := _changed(type(net)):
        raise ValueError(
            f"The net's class {type(net).__name__} has {changed} of its own, which a fit here does not call: "
            "it minimises the log loss, under a constraint. Use a net that leaves them, such as "
            "skorch.NeuralNetClassifier, and a callback for what is to happen within an epoch."
        )
    if net.dataset is not Dataset or net.compile:
        given = f"dataset is {name_of(net.dataset)}" if net.dataset is not Dataset else "compile is True"
        raise ValueError(
            f"The net's {given}, which has no part in a fit: rows are in memory, and networks of several "
            "sizes are trained. Leave it at its default; a collate_fn of iterator_train can change rows."
        )
    iterator, iterator_params = _iterator(net)
    batch_size = iterator_params.pop("batch_size", net.batch_size)
    if "param_groups" in net.get_params_for("optimizer"):
        raise ValueError(
            "The net's optimizer__param_groups name parameters, which have other names in the phases of a "
            "fit. Remove them; a parameter of a module with requires_grad=False is not trained."
        )
    for name, value in (("max_epochs", net.max_epochs), ("batch_size", batch_size)):
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not whole or (value < 1 and (name, value) != ("batch_size", -1)):
            raise ValueError(f"The net's {name} must be an integer of at least 1; got {value!r}.")
    if net.max_epochs < 3:
        raise ValueError(
            f"The net's max_epochs={net.max_epochs} are fewer than the three phases of a fit: give 3 or more."
        )
    params = net.get_params(deep=False)
    refused = [
        name
        for name in params
        if "__" in name
        and not name.startswith(("module__", "optimizer__", "iterator_train__", "iterator_valid__"))
    ]
    if refused:
        raise ValueError(
            f"The net's parameters {refused} are of parts that are not taken over: these are module, "
            "optimizer, lr, max_epochs, batch_size, callbacks and iterator_train. Remove them; weights go to "
            "class_weight or sample_weight."
        )
    optimizer_params = net.get_params_for("optimizer")
    _try_optimizer(net.optimizer, {"lr": net.lr, **optimizer_params}, sorted(optimizer_params), device)
    return Recipe(
        lr=net.lr,
        max_epochs=net.max_epochs,
        batch_size=batch_size,
        optimizer=net.optimizer,
        optimizer_params=optimizer_params,
        callbacks=_callbacks(net),
        iterator=iterator,
        iterator_params=iterator_params,
    )


def _iterator(net: NeuralNet) -> tuple[Callable[..., Any] | None, dict[str, Any]]:
    """Return what makes batches of a net's training rows, None if shuffled rows do, and its parameters."""
    valid = net.get_params_for("iterator_valid")
    if net.iterator_valid is not DataLoader or not _MOVES_NO_ROWS.issuperset(valid):
        raise ValueError(
            f"The net's iterator_valid is {name_of(net.iterator_valid)} with parameters {sorted(valid)}, and "
            "held-out rows are evaluated as they are, all of them. Leave it at its default; the network's "
            "forward pass can change rows."
        )
    params = net.get_params_for("iterator_train")
    if of_rows := sorted({"sampler", "batch_sampler"} & set(params)):
        raise ValueError(
            f"The net's iterator_train has {of_rows}, made for certain rows, and each phase of a fit has "
            "others. Give iterator_train a class that makes its sampler of the data set that it is given, "
            "whose X and y are the rows and labels of the phase."
        )
    if params.get("num_workers"):
        raise ValueError(
            f"The net's iterator_train has num_workers={params['num_workers']!r}, and rows are in memory, "
            "where one process is faster. Remove it."
        )
    plain = net.iterator_train is DataLoader and params.get("shuffle", True)
    if plain and _MOVES_NO_ROWS.union(("shuffle",)).issuperset(params):
        return None, {name: params[name] for name in ("batch_size",) if name in params}
    return net.iterator_train, params


def _changed(kind: type) -> list[str]:
    """Return the names of what a net's class has in place of skorch's, and a fit would ignore."""

    def is_of_skorch(owner: type) -> bool:
        return owner.__module__.startswith("skorch.")

    def owner_of(name: str) -> type:
        return next(owner for owner in kind.__mro__ if name in vars(owner))

    names = {
        name
        for owner in filter(is_of_skorch, kind.__mro__)
        for name in vars(owner)
        if not name.startswith("__")
    }
    return sorted(name for name in names - {*_READ, *_NO_PART} if not is_of_skorch(owner_of(name)))


def _try_optimizer(
    make: Callable[..., torch.optim.Optimizer], params: dict[str, Any], given: list[str], device: torch.device
) -> None:
    """Refuse an optimizer that cannot be made, or takes no step by dense gradients."""
    parameter = nn.Parameter(torch.zeros(1, device=device))
    parameter.grad = torch.ones_like(parameter)
    try:
        make([parameter], **params).step(lambda: 0.0)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"The net's optimizer {name_of(make)} cannot be made and take a step with lr and the optimizer__ "
            f"parameters {given}: {error}."
        ) from error


def _callbacks(net: NeuralNet) -> tuple[tuple[str, Callback], ...]:
    """Return the net's own callbacks by name."""
    if net.callbacks == "disable" or not net.callbacks:
        return ()
    found = []
    for number, given in enumerate(net.callbacks):
        name, callback = given if isinstance(given, tuple) else (f"own_{number}", given)
        callback = callback() if isinstance(callback, type) else callback
        if not isinstance(callback, Callback):
            raise ValueError(
                f"The net's callbacks hold {callback!r}, which is no skorch Callback. Remove it."
            )
        follows = isinstance(callback, EarlyStopping) or (
            isinstance(callback, LRScheduler)
            and getattr(callback.policy, "__name__", callback.policy) == "ReduceLROnPlateau"
        )
        if follows and callback.monitor in _NOT_MEASURED:
            raise ValueError(
                f"The net's {type(callback).__name__} monitors {callback.monitor!r}, and the epochs of a fit "
                "have no accuracies. Set its monitor to 'valid_loss' or 'train_loss'."
            )
        for kinds, reason in _REFUSED:
            if isinstance(callback, kinds):
                raise ValueError(f"The net's callback {type(callback).__name__} {reason}")
        found.append((name, callback))
    return tuple(found)
