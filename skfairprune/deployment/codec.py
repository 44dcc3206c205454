"""Values as JSON and tensors: what a saved estimator is made of, and nothing that could run.

Plain JSON values stand for themselves. Everything else is an object of one entry, a tag and what it takes to
build the value; numbers in bulk are tensors beside the JSON, named by their place.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from skfairprune._reporting import ValidationGap
from skfairprune._rules import AwareRules
from skfairprune.decision import DecisionRule
from skfairprune.frontier import FrontierRule, RuleFrontier
from skfairprune.gaps import CellRates, Gap
from skfairprune.modules import ACTIVATIONS, DecisionNetwork, PiecewiseLinearEncoding, TabularNetwork
from skfairprune.networks.joint import JointNetwork
from skfairprune.rulefit import RuleFit

__all__ = ["OwnNetwork", "decode", "encode"]


class OwnNetwork(NamedTuple):
    """What a file holds of a network that is not the built-in one: no code, so that a template must be given.

    Attributes
    ----------
    link, n_joint
        As in :class:`skfairprune.networks.joint.JointNetwork`.
    state : dict of Tensor
        The state of the :class:`~skfairprune.modules.DecisionNetwork` around it.
    """

    link: str
    n_joint: int
    state: dict[str, Tensor]


# The only classes that a file can name. Building one stores its fields and does nothing else.
_RECORDS: dict[str, type] = {
    record.__name__: record
    for record in (
        *(Gap, CellRates, ValidationGap, DecisionRule, RuleFit, FrontierRule, RuleFrontier, AwareRules),
    )
}
_RETIRED = {("FrontierRule", "strayed")}  # fields that files of the formats before 3 have
_MOST_BYTES = 10**7  # of a column of strings that all are shorter than its type
_KINDS = "biufU"  # of numpy's types: booleans, integers, floats, strings


def encode(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Turn a value into JSON.

    Parameters
    ----------
    value : object
        The value.
    place : str
        Where it stands, for the names of tensors and for errors.
    tensors : dict of Tensor
        Takes the numbers in bulk.

    Returns
    -------
    object
        What :mod:`json` can write.

    Raises
    ------
    TypeError
        If the value is of a type that has no such form.
    """

    def each(values: Any) -> list[Any]:
        return [encode(item, f"{place}.{number}", tensors) for number, item in enumerate(values)]

    def tensor(data: Tensor) -> str:
        assert place not in tensors
        # A copy: a file must not hold two names of one memory.
        tensors[place] = data.detach().cpu().clone(memory_format=torch.contiguous_format)
        return place

    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, np.generic) and value.dtype.kind in _KINDS:
        return {"scalar": [value.dtype.str, encode(value.item(), place, tensors)]}
    if _RECORDS.get(type(value).__name__) is type(value):
        parts = value._asdict() if hasattr(value, "_asdict") else vars(value)
        content = {name: encode(part, f"{place}.{name}", tensors) for name, part in parts.items()}
        return {"record": [type(value).__name__, content]}
    if type(value) is list:
        return each(value)
    if type(value) is tuple:
        return {"tuple": each(value)}
    if type(value) is dict:
        return {"dict": [each(value.keys()), encode(list(value.values()), f"{place}.values", tensors)]}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"array": tensor(torch.from_numpy(np.array(value, order="C")))}
    if isinstance(value, np.ndarray) and value.dtype.kind in "OU" and value.ndim == 1:
        return {"column": [value.dtype.str, each(value.tolist())]}
    if isinstance(value, pd.RangeIndex):
        return {"range": [value.start, value.stop, value.step, encode(value.name, place, tensors)]}
    if isinstance(value, pd.Series | pd.Index) and not isinstance(value, pd.MultiIndex):
        return _encode_pandas(value, place, tensors)
    if isinstance(value, pd.DataFrame):
        axes = [encode(axis, f"{place}.{name}", tensors) for axis, name in zip(value.axes, "ic", strict=True)]
        return {"frame": [*axes, each(value.iloc[:, number] for number in range(value.shape[1]))]}
    if isinstance(value, DecisionNetwork):
        return _encode_network(value, place, tensors)
    raise TypeError(f"{place} is {value!r}, of type {type(value).__name__}")


def _encode_pandas(value: pd.Series | pd.Index, place: str, tensors: dict[str, Tensor]) -> Any:
    """Turn a column or an index into JSON."""
    values = value.to_numpy()
    if values.dtype.kind not in "biuf" and str(value.dtype) not in ("str", "object"):
        raise TypeError(f"{place} is a column of type {value.dtype}")
    tag = "index" if isinstance(value, pd.Index) else "series"
    name = encode(value.name, f"{place}.name", tensors) if tag == "index" else None
    return {tag: [encode(values, place, tensors), str(value.dtype), name]}


def _encode_network(network: DecisionNetwork, place: str, tensors: dict[str, Tensor]) -> Any:
    """Turn a network into what it is built from, and its tensors."""
    inner = network.network
    if isinstance(inner, JointNetwork):
        for name, data in network.state_dict().items():
            if not isinstance(data, Tensor) or name.endswith("_extra_state"):
                raise TypeError(f"{place}.{name} is {data!r:.50}, what a module's get_extra_state returns")
            tensors[f"{place}.{name}"] = data.cpu().clone(memory_format=torch.contiguous_format)
        return {"own_network": {"link": inner.link, "n_joint": inner.n_joint, "tensors": place}}
    if not isinstance(inner, TabularNetwork):
        raise TypeError(f"{place} is a network of type {type(inner).__name__}, not the built-in one")
    linear = [layer for layer in inner.layers if isinstance(layer, nn.Linear)]
    dropout = [layer.p for layer in inner.layers if isinstance(layer, nn.Dropout)]
    names = [name for name, made in ACTIVATIONS.items() if type(inner.layers[1]) is made]
    for name, data in network.state_dict().items():
        tensors[f"{place}.{name}"] = data.cpu().clone(memory_format=torch.contiguous_format)
    content = {
        "n_columns": inner.encoding.n_columns,
        "hidden_layer_sizes": [layer.out_features for layer in linear[:-1]],
        "n_outputs": linear[-1].out_features,
        "activation": names[0],
        "dropout": dropout[0] if dropout else 0.0,
        "tensors": place,
    }
    return {"network": content}


def decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Build a value from JSON, the inverse of :func:`encode`.

    Parameters
    ----------
    value : object
        What :mod:`json` read.
    tensors : dict of Tensor
        The tensors beside it.

    Raises
    ------
    KeyError, TypeError, ValueError, RuntimeError
        If it is not what :func:`encode` writes.
    """
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    return _DECODERS[tag](content, tensors)


def _decode_scalar(content: Any, tensors: dict[str, Tensor]) -> Any:
    name, item = content
    return _numpy_type(name).type(decode(item, tensors))


def _decode_record(content: Any, tensors: dict[str, Tensor]) -> Any:
    name, parts = content
    kept = {key: part for key, part in parts.items() if (name, key) not in _RETIRED}
    return _RECORDS[name](**{key: decode(part, tensors) for key, part in kept.items()})


def _decode_dict(content: Any, tensors: dict[str, Tensor]) -> dict[Any, Any]:
    keys, values = decode(content, tensors)
    return dict(zip(keys, values, strict=True))


def _decode_column(content: Any, tensors: dict[str, Tensor]) -> np.ndarray:
    name, items = content
    column = np.fromiter((decode(item, tensors) for item in items), dtype=object, count=len(items))
    if name == "|O":
        return column
    dtype = _numpy_type(name)
    # A file of a stranger could ask for any amount of memory by a width that no item has.
    longest = max((len(str(item)) for item in column), default=0)
    if dtype.itemsize > 4 * longest and dtype.itemsize * len(column) > _MOST_BYTES:
        raise ValueError(f"{name!r} is not the type of these labels")
    return column.astype(dtype)


def _decode_pandas(make: Callable[..., Any], content: Any, tensors: dict[str, Tensor]) -> Any:
    values, dtype, name = content
    values = decode(values, tensors)
    dtype = dtype if dtype in ("str", "object") else values.dtype
    return make(values, dtype=dtype, name=decode(name, tensors))


def _decode_frame(content: Any, tensors: dict[str, Tensor]) -> pd.DataFrame:
    index, columns, series = decode(content, tensors)
    frame = pd.DataFrame(dict(enumerate(column.array for column in series)), index=index)
    return frame.set_axis(columns, axis=1)


def _decode_network(content: Any, tensors: dict[str, Tensor]) -> DecisionNetwork:
    state = _state(content, tensors)
    n_bins = len(state["network.encoding.columns"])
    # Knots of the right number; the true ones are among the tensors.
    knots = [np.arange(n_bins + 1.0), *[np.zeros(1)] * (int(content["n_columns"]) - 1)]
    sizes = [int(size) for size in content["hidden_layer_sizes"]]
    with torch.device("meta"):
        inner = TabularNetwork(
            PiecewiseLinearEncoding(knots),
            sizes,
            int(content["n_outputs"]),
            content["activation"],
            float(content["dropout"]),
        )
        network = DecisionNetwork(inner, *(state[name] for name in ("output_weights", "bounds", "rules")))
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def _decode_own_network(content: Any, tensors: dict[str, Tensor]) -> OwnNetwork:
    return OwnNetwork(content["link"], int(content["n_joint"]), _state(content, tensors))


def _state(content: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a network by their names in it."""
    prefix = f"{content['tensors']}."
    return {name.removeprefix(prefix): data for name, data in tensors.items() if name.startswith(prefix)}


def _numpy_type(name: str) -> np.dtype:
    dtype = np.dtype(name)
    if dtype.kind not in _KINDS:
        raise ValueError(f"{name!r} is not a type of labels")
    return dtype


_DECODERS: dict[str, Callable[[Any, dict[str, Tensor]], Any]] = {
    "float": lambda content, tensors: float(content),
    "device": lambda content, tensors: torch.device(content),
    "scalar": _decode_scalar,
    "record": _decode_record,
    "tuple": lambda content, tensors: tuple(decode(content, tensors)),
    "dict": _decode_dict,
    "array": lambda content, tensors: tensors[content].numpy(),
    "column": _decode_column,
    "range": lambda content, tensors: pd.RangeIndex(*content[:3], name=decode(content[3], tensors)),
    "series": lambda content, tensors: _decode_pandas(pd.Series, content, tensors),
    "index": lambda content, tensors: _decode_pandas(pd.Index, content, tensors),
    "frame": _decode_frame,
    "network": _decode_network,
    "own_network": _decode_own_network,
}
