"""Saved estimators: one safetensors file with JSON in its header, no pickle, so that reading runs nothing.

The header's metadata hold the format's version, the estimator as JSON (:mod:`skfairprune.deployment.codec`),
and a checksum over the JSON and all tensors, which tells damage; it does not tell who wrote the file.
"""

import hashlib
import json
import os
import secrets
import warnings
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.utils._metadata_requests import SIMPLE_METHODS
from sklearn.utils.metadata_routing import MetadataRequest
from torch import Tensor

from skfairprune._parameters import parameter_defaults
from skfairprune.deployment.codec import OwnNetwork, decode, encode
from skfairprune.deployment.rebuild import rebuild
from skfairprune.deployment.target import find_target
from skfairprune.networks.template import name_of

__all__ = ["read_estimator", "write_estimator"]

Estimator = TypeVar("Estimator", bound=BaseEstimator)

_VERSION = 7
# What building values from a file that was made by someone else can raise.
_NOT_AS_WRITTEN = (
    *(ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError),
)
#: What a fitted estimator consists of; the last three only of some.
_FITTED = (
    *("classes_", "n_features_in_", "module_", "dense_module_", "masks_", "dropped_columns_", "sparsity_"),
    *("sparsity_path_", "pruning_report_", "constraint_", "groups_", "bound_", "frontier_", "multipliers_"),
    *("validation_gap_", "event_gaps_", "history_", "n_iter_"),
    *("_own_weights", "_unread", "_frontier", "_aware"),
)
_SOMETIMES = ("feature_names_in_", "_events", "_rows")
#: What format 2 added, for networks of the user's own; None in a file of format 1.
_SINCE_2 = ("_example", "_example_joint", "_dense_shapes")
#: What the formats 5 and 7 added; None in a file of a format before.
_LATER = ("group_rates_", "_group_names")
#: What to set a parameter to that is an object of its own; the fitted network does not depend on it any more.
_REPLACEMENTS = {"sparsity_schedule": "'cubic'", "constraint": "None", "random_state": "None"}


def write_estimator(path: str | os.PathLike[str], estimator: BaseEstimator) -> None:
    """Write a fitted estimator.

    Parameters
    ----------
    path : str or path
        The file; one that is there is replaced once the new one is whole.
    estimator : BaseEstimator
        A fitted FairPrunedClassifier.

    Raises
    ------
    ValueError
        If a parameter or an attribute has no form as data, no fit takes the parameters, or `module` asks for
        a built-in network and one of one's own is fitted, or the other way round.
    FileNotFoundError, IsADirectoryError
        If the path is none of a file.
    """
    target = find_target(path)
    estimator._validate_params()
    tensors: dict[str, Tensor] = {}
    params = {name: getattr(estimator, name) for name in parameter_defaults(type(estimator))}
    fitted = {name: value for name, value in vars(estimator).items() if name not in params}
    requests = _requests(fitted.pop("_metadata_request", None))
    content: dict[str, Any] = {"params": {}, "fitted": {}, "requests": requests}
    own = params.pop("module")
    if (own is None) != (fitted["_example"] is None):
        fitted_one, remedy = (
            ("a network of your own", "...") if own is None else ("the built-in network", None)
        )
        raise ValueError(
            f"What is fitted is {fitted_one}, and module was set to another since: call "
            f"clf.set_params(module={remedy}) with what it was in fit, and save again."
        )
    content["own"] = None if own is None else name_of(own)
    for name, value in params.items():
        try:
            content["params"][name] = encode(value, f"params.{name}", tensors)
        except TypeError as error:
            remedy = _REPLACEMENTS.get(name)
            raise ValueError(
                f"The parameter {name}={value!r} is an object that a file without code cannot hold. "
                + (f"Call clf.set_params({name}={remedy}) first, what is fitted stays; or " if remedy else "")
                + "use joblib.dump, whose files run code when they are loaded."
            ) from error
    if unknown := sorted(set(fitted) - {*_FITTED, *_SOMETIMES, *_SINCE_2, *_LATER}):
        raise ValueError(f"save does not know the attributes {unknown}; delete them first.")
    for name, value in fitted.items():
        try:
            content["fitted"][name] = encode(value, name, tensors)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{error}, which a file without code cannot hold. It holds numbers, and labels "
                "of classes and groups that are numbers, strings, booleans or tuples of these: turn others "
                "into strings before fit, or use joblib.dump."
            ) from error
    text = json.dumps(content, allow_nan=False)
    metadata = {"skfairprune": str(_VERSION), "estimator": text, "sha256": _checksum(text, tensors)}
    _write(target, save_tensors(tensors, metadata))
    if own is not None:
        _try_reading(target, estimator, own)


def _write(target: Path, content: bytes) -> None:
    """Write a file by way of one of a name that no other has, so that it is never there half written."""
    part = target.with_name(f"{target.name}.{secrets.token_hex(8)}.part")
    try:
        part.write_bytes(content)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _try_reading(path: Path, estimator: BaseEstimator, own: Any) -> None:
    """Warn of a network of the user's own that the module as it is now cannot be made again with."""
    try:
        read_estimator(path, type(estimator), own)
    except Exception as error:  # of the user's own code, too
        warnings.warn(
            f"load cannot read this file with the module as it is now: {error} If the module was changed "
            "after fit, give load one as it was then. Parameters and buffers are saved, and all else must "
            "come with the module: make what training changes a persistent buffer, or use joblib.dump.",
            UserWarning,
            stacklevel=4,
        )


def read_estimator(path: str | os.PathLike[str], kind: type[Estimator], module: Any) -> Estimator:
    """Read a fitted estimator; nothing of the file is run.

    Parameters
    ----------
    path : str or path
        The file.
    kind : type
        The estimator's class.
    module : nn.Module, callable, NeuralNet or None
        The dense network that the estimator was fitted with, where it was not the built-in one.

    Returns
    -------
    BaseEstimator
        As it was written, all tensors on the CPU.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    ValueError
        If the file is none of this kind, is damaged, or was written by a newer version; or if `module` is
        needed and not given, or another than that of the file.
    """
    content, tensors = _read(path)
    own = content.get("own") if isinstance(content, dict) else None
    if (own is None) != (module is None):
        told = f"was fitted with module={own}" if own else "holds the built-in network"
        remedy = "give the same module to load, whose code no file holds" if own else "load it without module"
        raise ValueError(f"{path} {told}: {remedy}.")
    try:
        params, fitted = (
            {name: decode(value, tensors) for name, value in content[part].items()}
            for part in ("params", "fitted")
        )
        estimator = _make(kind, params | {"module": module})
        with config_context(enable_metadata_routing=True):
            for method, requests in content["requests"].items():
                getattr(estimator, f"set_{method}_request")(**requests)
    except _NOT_AS_WRITTEN as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__}: {error}") from error
    missing, unknown = set(_FITTED) - set(fitted), set(fitted) - {*_FITTED, *_SOMETIMES, *_SINCE_2, *_LATER}
    if missing or unknown:
        what = f"lacks {sorted(missing)}" if missing else f"holds {sorted(unknown)}, which no estimator has"
        raise ValueError(f"{path} is damaged: it {what}.")
    if isinstance(fitted.get("_rows"), dict):  # of the formats before 3, with words for rules of two kinds
        if True not in fitted["_rows"]:
            raise ValueError(f"{path} is damaged: it does not say which rows its figures are of.")
        fitted["_rows"] = fitted["_rows"][True]
    if module is not None and (missing := {*_SINCE_2} - set(fitted)):
        raise ValueError(f"{path} is damaged: it lacks {sorted(missing)}.")
    n_features = fitted["n_features_in_"]
    try:
        for name in ("module_", "dense_module_"):
            if isinstance(fitted[name], OwnNetwork):
                fitted[name] = rebuild(fitted[name], module, n_features, fitted["_dense_shapes"], path)
        vars(estimator).update(dict.fromkeys((*_SINCE_2, *_LATER)) | fitted)
        if module is not None:
            _check_outputs(estimator, path)
    except ValueError:
        raise
    except _NOT_AS_WRITTEN as error:
        raise ValueError(
            f"{path} is damaged, or was fitted with another module: {type(error).__name__}: {error}"
        ) from error
    try:
        estimator._validate_params()
        whole = len(fitted["classes_"]) == len(fitted["module_"].output_weights)
        if module is None:
            whole &= n_features == fitted["module_"].network.encoding.n_columns
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not whole:
        raise ValueError(f"{path} is damaged: its network has other classes or columns than it states.")
    return estimator


def _make(kind: type[Estimator], params: dict[str, Any]) -> Estimator:
    """Make an unfitted estimator; what a narrower constructor does not take is set behind it."""
    left = set(parameter_defaults(kind)) - set(kind._get_param_names())
    estimator = kind(**{name: value for name, value in params.items() if name not in left})
    vars(estimator).update({name: value for name, value in params.items() if name in left})
    return estimator


def _check_outputs(estimator: Any, path: str | os.PathLike[str]) -> None:
    """Refuse a template whose layers have the right shapes and do something else."""
    with torch.no_grad():
        found = estimator.module_.joint_proba(estimator.example_rows()).numpy()
    if not np.allclose(found, estimator._example_joint, atol=1e-5):
        raise ValueError(
            f"{path}: with this module the network gives other outputs than when it was saved. Give "
            "the module that the estimator was fitted with: the same activations, norms and constants."
        )


def _read(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Tensor]]:
    """Return the JSON and the tensors of a file that is what it says."""
    if Path(path).is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the path of a file in it.")
    if not Path(path).exists():
        raise FileNotFoundError(f"There is no file {path}; give the path of one that save wrote.")
    data = Path(path).read_bytes()
    kind = "a file that FairPrunedClassifier.save wrote"
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        raise ValueError(f"{path} is not {kind}, or it is damaged: {error}.") from error
    # The tensors were read, so the header is whole.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata = header.get("__metadata__") or {}
    version = metadata.get("skfairprune", "")
    if not (version.isdecimal() and 0 < len(version) < 10 and int(version)):
        raise ValueError(f"{path} holds tensors, but is not {kind}.")
    if int(version) > _VERSION:
        raise ValueError(
            f"{path} is of format {version}, and this version of skfairprune reads up to {_VERSION}. "
            "Update skfairprune."
        )
    text = metadata.get("estimator", "")
    if metadata.get("sha256") != _checksum(text, tensors):
        raise ValueError(f"{path} is damaged: its content does not have the checksum it was written with.")
    try:
        return json.loads(text), tensors
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def _requests(routing: MetadataRequest | None) -> dict[str, dict[str, Any]]:
    """Return the metadata that methods were set to request, by method."""
    if routing is None:
        return {}
    found = {method: getattr(routing, method).requests for method in SIMPLE_METHODS}
    return {method: dict(requests) for method, requests in found.items() if requests}


def _checksum(text: str, tensors: dict[str, Tensor]) -> str:
    """Return a digest of the JSON and of every tensor with its name, type and shape."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        data = tensors[name]
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}".encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
