"""Pipelines as ONNX: the converters for skl2onnx, and the inputs that such a model takes."""

import re
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.preprocessing import FunctionTransformer

from skfairprune._labels import show_labels
from skfairprune.datasets._preprocessing import (
    FLAGS,
    _is_number,
    _is_unusable,
    _to_float32,
    _to_float64,
    _to_raw_strings,
    _to_strings,
    _told_apart,
)
from skfairprune.deployment.onnx import load_extra, onnx_model

__all__ = ["onnx_inputs", "onnx_types", "register_onnx_converter"]

_OUTPUTS = ("label", "probabilities")
# What makes the inputs of each type that onnx_types declares.
_MADE = {"tensor(float)": _to_float32, "tensor(string)": _to_raw_strings}
_FUNCTION = "FairPrunedFunctionTransformer"  # skl2onnx's name of the functions in make_preprocessor


def onnx_inputs(X: pd.DataFrame, session: Any = None) -> dict[str, NDArray]:
    """Turn the columns of a DataFrame into the inputs of a pipeline's ONNX model.

    They are what the first steps of :func:`skfairprune.datasets.make_preprocessor` make of them: numbers are
    float32, NaN where missing, and everything else is strings, "missing" where missing, since a string of an
    ONNX model cannot be.

    Parameters
    ----------
    X : DataFrame of shape (n_samples, n_features)
        The columns, with names that are strings.
    session : onnxruntime.InferenceSession, default=None
        The model, which tells the columns that it takes and which of them are numbers; others are left out.
        None reads the dtypes of X, which of single rows can be others than in fit: a number that is None
        makes a column of objects.

    Returns
    -------
    dict of ndarray of shape (n_samples, 1)
        The inputs, by the names that skl2onnx gives them: those of the columns, with an underscore for every
        character that is no letter, digit, underscore or plus, and before a digit at the start.

    Raises
    ------
    ValueError
        If names are no strings, or those of outputs, or two columns have the same in the model, of those that
        are taken; if a column that the model takes is not there, or has no numbers where it takes numbers; or
        if the model has inputs of other types.

    Examples
    --------
    >>> import pandas as pd
    >>> from skfairprune.deployment import onnx_inputs
    >>> inputs = onnx_inputs(pd.DataFrame({"age": [30, 40], "job": ["clerk", None]}))
    >>> inputs["age"].ravel(), inputs["job"].ravel()
    (array([30., 40.], dtype=float32), array(['clerk', 'missing'], dtype=object))
    """
    if session is None:
        return {
            name: (_to_float32 if _is_number(X[column].dtype) else _to_raw_strings)(X[[column]]).to_numpy()
            for name, column in _input_names(X).items()
        }
    types = {taken.name: taken.type for taken in session.get_inputs()}
    columns = _input_names(X[[column for column in X.columns if _input_name(column) in types]])
    if absent := [name for name in types if name not in columns]:
        raise ValueError(
            f"The model takes the inputs {show_labels(absent)}, and X has no such columns. Give X all "
            "columns that the pipeline was fitted on."
        )
    if strange := sorted(set(types.values()) - set(_MADE)):
        raise ValueError(
            f"The model takes inputs of the types {strange}, and one by onnx_types has {[*_MADE]} alone. "
            "Convert the pipeline with initial_types=onnx_types(X)."
        )
    return {name: _MADE[kind](X[[columns[name]]]).to_numpy() for name, kind in types.items()}


def onnx_types(X: pd.DataFrame) -> list[tuple[str, Any]]:
    """Return the ``initial_types`` for ``skl2onnx.to_onnx`` that :func:`onnx_inputs` makes of these columns.

    Parameters
    ----------
    X : DataFrame of shape (n_samples, n_features)
        The columns that the pipeline was fitted on, at least those that it reads, and some rows.

    Returns
    -------
    list of tuple
        The name and the skl2onnx type of each column.

    Raises
    ------
    ImportError
        If the extra ``onnx`` is not installed.
    ValueError
        As :func:`onnx_inputs`; and if columns are dates, durations or complex, or numbers that float32 cannot
        tell apart.
    """
    _input_names(X)
    (types,) = load_extra("skl2onnx.common.data_types")
    leave_out = (
        "before the pipeline is fitted, or leave them out of X here if the pipeline does not read them."
    )
    if strange := [column for column, dtype in X.dtypes.items() if _is_unusable(dtype)]:
        raise ValueError(
            f"An ONNX model takes no dates, durations or complex numbers, such as the columns {strange}: "
            f"turn them into real numbers {leave_out}"
        )
    numbers = X[[column for column in X.columns if _is_number(X[column].dtype)]]
    if lost := numbers.columns[~_told_apart(numbers, np.float32)].tolist():
        raise ValueError(
            f"An ONNX model takes numbers as float32, which cannot tell the values of the columns {lost} "
            f"apart: subtract a constant from them, such as their least value, {leave_out}"
        )
    return [
        (name, (types.FloatTensorType if _is_number(X[name].dtype) else types.StringTensorType)([None, 1]))
        for name in X.columns
    ]


def _input_name(column: Hashable) -> str:
    """Return what skl2onnx makes of the name of a column."""
    return re.sub(r"^(?=[0-9])", "_", re.sub(r"[^\w+]", "_", str(column)))


def _input_names(X: pd.DataFrame) -> dict[str, Hashable]:
    """Return the columns by the names that skl2onnx makes of theirs."""
    found: dict[str, Hashable] = {}
    for column in X.columns:
        if not isinstance(column, str) or not column:
            raise ValueError(
                f"The inputs of an ONNX model have names that are strings; X has the column {column!r}. "
                "Rename its columns, as by X.add_prefix('column_'), before the pipeline is fitted."
            )
        name = _input_name(column)
        if name in _OUTPUTS:
            raise ValueError(
                f"The ONNX model of a classifier has an output {name!r}: rename the column {column!r} before "
                "the pipeline is fitted."
            )
        if name in found:
            raise ValueError(
                f"The columns {found[name]!r} and {column!r} would both be {name!r} in an ONNX model: rename "
                "one before the pipeline is fitted."
            )
        found[name] = column
    return found


def register_onnx_converter() -> None:
    """Make skl2onnx convert FairPrunedClassifier, and the columns of `make_preprocessor` before it.

    The outputs are ``label`` and ``probabilities``, as of scikit-learn's own classifiers. With a
    :class:`~sklearn.preprocessing.FunctionTransformer` of any other function skl2onnx does what it did.

    Raises
    ------
    ImportError
        If the extra ``onnx`` is not installed.
    """
    # Here, since the estimator imports this package for its own export.
    from skfairprune._classifier import FairPrunedClassifier

    skl2onnx, _ = load_extra("skl2onnx", "onnxscript")
    skl2onnx.update_registered_converter(
        FairPrunedClassifier,
        "FairPrunedClassifier",
        _shape_classifier,
        _convert_classifier,
        options={
            "zipmap": [True, False, "columns"],
            "nocl": [True, False],
            "raw_scores": [True, False],
        },
    )
    skl2onnx.update_registered_converter(
        FunctionTransformer,
        _FUNCTION,
        _shape_function,
        _convert_function,
        parser=_parse_function,
    )


def _shape_classifier(operator: Any) -> None:
    """Declare label and probabilities, as of scikit-learn's own classifiers."""
    shapes, types = load_extra("skl2onnx.common.shape_calculator", "skl2onnx.common.data_types")
    if any(isinstance(given.type, types.StringTensorType) for given in operator.inputs):
        raise ValueError(
            "A column of text or booleans comes to the classifier as it is (remainder='passthrough'), and in "
            "an ONNX model it is text there. Encode it, or turn booleans into integers, as by "
            "X.astype({'column': int}), before the pipeline is fitted."
        )
    shapes.calculate_linear_classifier_output_shapes(operator)


def _convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    """Put the network's own export into the graph of the pipeline."""
    onnx, operations, types = load_extra(
        "onnx", "skl2onnx.common._apply_operation", "skl2onnx.common.data_types"
    )
    clf = operator.raw_operator
    clf._require_own_rule()
    options = container.get_options(clf, {"nocl": False, "raw_scores": False})
    labels = np.arange(len(clf.classes_)) if options["nocl"] else clf.classes_
    model = onnx_model(clf.module_, clf.example_rows(), labels)
    for node in model.graph.node:
        while node.input and not node.input[-1]:
            del node.input[-1]
        if "" in node.input:
            raise ValueError(
                f"skl2onnx cannot take a network with {node.op_type}, which leaves out inputs in the middle, "
                "into a pipeline. Export it alone, clf.to_onnx(path), and the steps before it apart."
            )
    kind = model.graph.input[0].type.tensor_type.elem_type
    inside = {"X": scope.get_unique_variable_name("rows"), "label": operator.outputs[0].full_name}
    operations.apply_cast(scope, operator.inputs[0].full_name, inside["X"], container, to=kind)

    def rename(name: str) -> str:
        if name and name not in inside:
            inside[name] = scope.get_unique_variable_name(name)
        return inside.get(name, "")

    for tensor in model.graph.initializer:
        container.initializers.append(tensor)
        container.initializers[-1].name = rename(tensor.name)
    (opset,) = (entry.version for entry in model.opset_import if entry.domain == "")
    container.node_domain_version_pair_sets.add(("", opset))
    for node in model.graph.node:
        renamed = onnx.NodeProto()
        renamed.CopyFrom(node)
        renamed.name = scope.get_unique_operator_name(node.op_type)
        renamed.input[:] = [rename(name) for name in node.input]
        renamed.output[:] = [rename(name) for name in node.output]
        container.nodes.append(renamed)
    output, scores = operator.outputs[1], inside["probabilities"]
    if options["raw_scores"] and len(clf.classes_) == 2:
        # What decision_function says of the second class, and its negative: as of scikit-learn's own.
        difference = scope.get_unique_variable_name("difference")
        container.add_initializer(difference, kind, [2, 2], [1.0, -1.0, -1.0, 1.0])
        scores = scope.get_unique_variable_name("scores")
        name = scope.get_unique_operator_name("MatMul")
        container.add_node("MatMul", [inside["probabilities"], difference], scores, name=name, op_version=13)
    to = types.guess_proto_type(output.type)
    operations.apply_cast(scope, scores, output.full_name, container, to=to)


def _parse_function(scope: Any, model: Any, inputs: list[Any], custom_parsers: Any = None) -> list[Any]:
    """Declare the outputs of a function: of strings, one for each column.

    skl2onnx merges rare categories where the columns are apart, and refuses to where they are one matrix.
    """
    parse, types = load_extra("skl2onnx._parse", "skl2onnx.common.data_types")
    if model.func is _to_float64:
        raise ValueError(
            "The pipeline keeps numbers as float64, since float32 cannot tell the values of a column apart, "
            "and its ONNX model would take float32. Subtract a constant from large numbers, such as their "
            "least value, before the pipeline is fitted."
        )
    if model.func not in (_to_float32, _to_strings):
        return parse._parse_sklearn_simple_model(scope, model, inputs, alias="SklearnFunctionTransformer")
    operator = scope.declare_local_operator(_FUNCTION, model)
    operator.inputs = inputs
    n_columns = model.n_features_in_
    if model.func is _to_float32:
        operator.outputs.append(
            scope.declare_local_variable("numbers", types.FloatTensorType([None, n_columns]))
        )
    for _ in range(n_columns if model.func is _to_strings else 0):
        operator.outputs.append(scope.declare_local_variable("strings", types.StringTensorType([None, 1])))
    return operator.outputs


def _shape_function(operator: Any) -> None:
    """Leave the outputs' types as they were declared."""


def _convert_function(scope: Any, operator: Any, container: Any) -> None:
    """Convert a function: numbers to float32, strings column by column, flags to "1" and "0"."""
    onnx, operations = load_extra("onnx", "skl2onnx.common._apply_operation")
    source, targets = operator.inputs[0].full_name, [output.full_name for output in operator.outputs]
    if operator.raw_operator.func is _to_float32:
        operations.apply_cast(scope, source, targets[0], container, to=onnx.TensorProto.FLOAT)
        return
    for number, target in enumerate(targets):
        index = scope.get_unique_variable_name("column")
        container.add_initializer(index, onnx.TensorProto.INT64, [1], [number])
        given = scope.get_unique_variable_name("given")
        name = scope.get_unique_operator_name("Gather")
        container.add_node("Gather", [source, index], given, name=name, axis=1)
        for flag, text in FLAGS.items():
            there, mapped = (scope.get_unique_variable_name(name) for name in ("there", "mapped"))
            constants = [scope.get_unique_variable_name(name) for name in ("flag", "text")]
            for constant, value in zip(constants, (flag, text), strict=True):
                container.add_initializer(constant, onnx.TensorProto.STRING, [1], [value.encode()])
            container.add_node(
                "Equal",
                [given, constants[0]],
                there,
                op_version=19,
                name=scope.get_unique_operator_name("Equal"),
            )
            container.add_node(
                "Where",
                [there, constants[1], given],
                mapped,
                op_version=16,
                name=scope.get_unique_operator_name("Where"),
            )
            given = mapped
        operations.apply_identity(scope, given, target, container)
