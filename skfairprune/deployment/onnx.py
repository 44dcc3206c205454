"""The ONNX export: labels and probabilities of a fitted network, for any ONNX runtime."""

import copy
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from skfairprune.deployment.target import find_target
from skfairprune.deployment.torch_network import export_advice
from skfairprune.modules import DecisionNetwork, PiecewiseLinearEncoding

__all__ = ["load_extra", "onnx_labels", "onnx_model", "save_onnx"]

_TOLERANCE = 1e-5  # between the probabilities of the export and of the network
_MOST_INT8 = (
    0.1  # the mean difference of the probabilities by int8 weights, beyond which nothing is left of it
)
_CHECKED_BATCHES = (1, 9)


def load_extra(*names: str) -> list[Any]:
    """Import modules of the extra ``onnx``.

    Parameters
    ----------
    *names : str
        Import paths.

    Returns
    -------
    list of module

    Raises
    ------
    ImportError
        If one is not installed.
    """
    try:
        return [import_module(name) for name in names]
    except ImportError as error:
        raise ImportError(
            f"The ONNX export needs {error.name}, which is not installed: pip install skfairprune[onnx]"
        ) from error


class _ColumnwiseEncoding(nn.Module):
    """The encoding with columns first: onnxruntime copies whole columns, where it would copy single numbers.

    Measured on Adult at 90 % sparsity and batches of 1,024, the network is four times as fast by it. It
    multiplies by 1 / width, which takes half the time of a division and moves a value by one rounding; where
    a width is so small that this is not finite in the network's dtype, all are divided.
    """

    def __init__(self, encoding: PiecewiseLinearEncoding) -> None:
        super().__init__()
        self.register_buffer("columns", encoding.columns)
        self.register_buffer("left", encoding.left[:, None])
        self.register_buffer("width", encoding.width[:, None])
        self.register_buffer("per_width", 1 / encoding.width[:, None])
        self.divides = not bool(self.get_buffer("per_width").isfinite().all())

    def forward(self, x: Tensor) -> Tensor:
        """Encode rows of shape (n_samples, n_columns) into (n_samples, n_outputs), in [0, 1]."""
        steps = x.T.index_select(0, self.get_buffer("columns")).sub(self.get_buffer("left"))
        if self.divides:
            steps = steps.div(self.get_buffer("width"))
        else:
            steps = steps.mul(self.get_buffer("per_width"))
        return steps.clamp(0, 1).T


class _Decisions(nn.Module):
    """The position of the decision and the probabilities, the rule in double precision as in `predict`."""

    def __init__(self, network: DecisionNetwork) -> None:
        super().__init__()
        self.network = copy.deepcopy(network.network)
        for path, module in network.network.named_modules():
            if isinstance(module, PiecewiseLinearEncoding):
                self.network.set_submodule(path, _ColumnwiseEncoding(module))
        self.register_buffer("weights", network.output_weights.double())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        joint = torch.softmax(self.network(x).double(), dim=1)
        proba = nn.functional.linear(joint, self.get_buffer("weights"))
        return proba.argmax(dim=1), proba.to(x.dtype)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's notes about itself from the user; problems still raise."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def onnx_labels(classes: NDArray) -> list[int] | list[str]:
    """Return class labels as ONNX knows them, as scikit-learn's converters do.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
        The labels.

    Returns
    -------
    list of int or list of str
        Integers for integers, booleans and whole floats; strings for strings.

    Raises
    ------
    ValueError
        If the labels are something else.
    """
    labels = classes.tolist()
    if all(isinstance(label, str) for label in labels):
        return labels
    whole = all(isinstance(label, int | float) and float(label).is_integer() for label in labels)
    if whole and max(map(abs, labels)) < 2**63:
        return [int(label) for label in labels]
    raise ValueError(
        f"Labels of an ONNX model are whole numbers or strings, and the classes are {labels}. Encode y as "
        "one of these before fit."
    )


def onnx_model(network: DecisionNetwork, example: Tensor, classes: NDArray) -> Any:
    """Export a fitted network as an ONNX model.

    Parameters
    ----------
    network : DecisionNetwork
        The network; what it has inside can be any module that ``torch.export`` can trace.
    example : Tensor of shape (n_samples, n_features)
        Some rows such as the network knows, at least two, in its dtype.
    classes : ndarray of shape (n_classes,)
        The labels, in the order of the network's outputs.

    Returns
    -------
    onnx.ModelProto
        Input ``X`` of shape (N, n_features), in the network's dtype; outputs ``label`` of shape (N,), int64
        or string, and ``probabilities`` of shape (N, n_classes). N is free.

    Raises
    ------
    ImportError
        If the extra ``onnx`` is not installed.
    ValueError
        If the labels or the network cannot be had in ONNX.
    """
    onnx, _ = load_extra("onnx", "onnxscript")
    labels = onnx_labels(classes)
    named = labels != list(range(len(labels)))  # else a label is its own position
    decisions = _Decisions(network).eval()
    rows = example[:2]
    try:
        with _silence():
            # A named Dim can freeze the batch in silence; this one is an error then.
            shapes = ({0: torch.export.Dim.DYNAMIC},)
            traced = torch.export.export(decisions, (rows,), dynamic_shapes=shapes)
            _drop_idle_squeezes(traced)
            program = torch.onnx.export(
                traced,
                (),
                dynamo=True,
                input_names=["X"],
                output_names=["position" if named else "label", "probabilities"],
                verbose=False,
            )
    except Exception as error:  # of the exporter, or of the user's own forward pass
        raise ValueError(
            "The network cannot be exported to ONNX for any number of rows. "
            f"{export_advice(error.__cause__ or error)} It failed by: {error.__cause__ or error}"
        ) from error
    assert program is not None
    model = program.model_proto
    graph = model.graph
    kind = onnx.TensorProto.STRING if isinstance(labels[0], str) else onnx.TensorProto.INT64
    if named:
        graph.initializer.append(onnx.helper.make_tensor("classes", kind, [len(labels)], labels))
        graph.node.append(onnx.helper.make_node("Gather", ["classes", "position"], ["label"], name="label"))
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("label", kind, ["N"]))
    for value in (graph.input[0], graph.output[1]):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    # The exporter's notes: names that no longer hold, and traces with the paths of this machine.
    del graph.value_info[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    model.producer_name = "skfairprune"
    onnx.checker.check_model(model)
    return model


def _drop_idle_squeezes(program: torch.export.ExportedProgram) -> None:
    """Remove squeezes of dimensions that are not 1: PyTorch ignores them, and an ONNX runtime does not."""
    squeezes = (torch.ops.aten.squeeze.dim, torch.ops.aten.squeeze.dims)
    for node in list(program.graph.nodes):
        if node.op == "call_function" and node.target in squeezes:
            given = node.args[0]
            if node.meta["val"].ndim == given.meta["val"].ndim:
                node.replace_all_uses_with(given)
                program.graph.erase_node(node)
    program.graph_module.recompile()


def save_onnx(
    network: DecisionNetwork,
    example: Tensor,
    classes: NDArray,
    path: str | os.PathLike[str],
    quantize: bool = False,
) -> None:
    """Write a fitted network as an ONNX file, after running it under onnxruntime.

    Parameters
    ----------
    network, example, classes
        As for :func:`onnx_model`.
    path : str or path
        The file to write.
    quantize : bool, default=False
        Whether the weights of the linear layers are int8, with dynamic quantisation of what enters them.

    Raises
    ------
    ImportError
        If the extra ``onnx`` is not installed.
    FileNotFoundError, IsADirectoryError
        If the path is none of a file.
    ValueError
        As :func:`onnx_model`; if `quantize` is no boolean, or a float64 network is to be quantised; or if
        onnxruntime cannot run the model or gives other probabilities, by int8 far others.
    """
    target = find_target(path)
    if not isinstance(quantize, bool | np.bool_):
        raise ValueError(f"quantize must be True or False; got {quantize!r}.")
    load_extra("onnx", "onnxscript", "onnxruntime")
    if quantize and network.output_weights.dtype != torch.float32:
        raise ValueError(
            "quantize=True needs a network in float32, and this one is in float64. Fit with dtype='float32'."
        )
    model = onnx_model(network, example, classes)
    content = _quantized(model) if quantize else model.SerializeToString()
    _check(content, network, example, quantize)
    target.write_bytes(content)


def _quantized(model: Any) -> bytes:
    """Return the model with int8 weights in the network's layers; the rule stays in double precision."""
    (quantization,) = load_extra("onnxruntime.quantization")
    with TemporaryDirectory() as folder, _silence():
        path = Path(folder) / "quantized.onnx"
        quantization.quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul", "Conv"],
            per_channel=True,
            # Of 7 bits: sums of products of 8 bits saturate on processors without VNNI.
            reduce_range=True,
        )
        return path.read_bytes()


def _check(content: bytes, network: DecisionNetwork, example: Tensor, quantized: bool) -> None:
    """Run the model on some rows beside the network."""
    (onnxruntime,) = load_extra("onnxruntime")
    for n_rows in _CHECKED_BATCHES:
        rows = example[torch.arange(n_rows) % len(example)]
        try:
            session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
            _, proba = session.run(["label", "probabilities"], {"X": rows.numpy()})
        except Exception as error:  # onnxruntime's classes of errors share no other base
            raise ValueError(f"onnxruntime cannot run the exported network: {error}") from error
        with torch.inference_mode():
            expected = network(rows).numpy()
        # NaN is not within any tolerance.
        far = proba.shape != expected.shape or not np.abs(proba - expected).max() <= _TOLERANCE
        if far and not quantized:
            raise ValueError(
                "The exported network gives other probabilities under onnxruntime than in PyTorch, on "
                f"{n_rows} rows: {proba.tolist()} and {expected.tolist()}."
            )
    if quantized and not np.abs(proba - expected).mean() <= _MOST_INT8:
        raise ValueError(
            f"With int8 weights the probabilities of {n_rows} rows differ by "
            f"{np.abs(proba - expected).mean():.2f} on average: this network does not bear quantize=True. "
            "Export it without, or train it on scaled columns."
        )
