"""What a packed graph may hold beyond the network: the normalisation before it, top-k behind it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mimiq.errors import BadInput, missing_extra
from mimiq.files import exhausted
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.runtime.serving.packed import PIXELS, TOP_CLASSES, TOP_LABELS, TOP_PROBABILITIES

if TYPE_CHECKING:
    import onnx

_PREFIX = "mimiq_serving_"  # no exported value begins so


def edit_graph(
    source: Path,
    out: Path,
    *,
    preprocessing: Preprocessing | None = None,
    top_k: int | None = None,
    labels: Sequence[str] | None = None,
) -> None:
    """Write a copy of a classifier that takes pixels, or gives its likeliest classes, or both.

    Args:
        source: graph with one input float32 (B, C, H, W) and one output float32 (B, classes).
        out: file to write.
        preprocessing: the input becomes ``pixels``, uint8 (B, H, W, C), of exactly the
            network's size; they are normalised as ``preprocessing.normalize`` does. Nothing is
            resized or cropped. None leaves the input as it is.
        top_k: adds ``top_probabilities``, float32 (B, k), the softmax over all classes in
            descending order, and ``top_classes``, int64 (B, k). The logits stay an output.
        labels: with ``top_k``, adds ``top_labels``, strings (B, k).

    Raises:
        BadInput: the graph cannot be read, or has not ``top_k`` classes.
        EnvironmentLacks: the extra ``compile`` is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise missing_extra("onnx", "pack") from error
    try:
        model = onnx.load(source)
    except Exception as error:  # protobuf's own errors, by version
        raise exhausted(error, f"{source} cannot be read") or BadInput(
            f"{source} cannot be read: {error}.", "Compile the model again."
        ) from error
    if preprocessing is not None:
        _take_pixels(model.graph, preprocessing)
    if top_k is not None:
        _give_top_k(model.graph, top_k, labels)
    onnx.checker.check_model(model)
    onnx.save(model, out)


def _take_pixels(graph: onnx.GraphProto, preprocessing: Preprocessing) -> None:
    from onnx import TensorProto, helper

    (images,) = graph.input
    batch = images.type.tensor_type.shape.dim[0]
    channels, height, width = preprocessing.input_shape
    # In the order of Preprocessing.normalize, and in float32 as there, so that the results are
    # the same bits.
    constants = {
        "white": np.float32(255),
        "mean": np.asarray(preprocessing.mean, np.float32),
        "std": np.asarray(preprocessing.std, np.float32),
    }
    last = PIXELS
    nodes = [_node("Cast", [last], "floats", to=TensorProto.FLOAT)]
    for operator, constant, result in (
        ("Div", "white", "scaled"),
        ("Sub", "mean", "centred"),
        ("Div", "std", "normalised"),
    ):
        _constant(graph, constant, constants[constant])
        nodes.append(_node(operator, [nodes[-1].output[0], _PREFIX + constant], result))
    nodes.append(
        helper.make_node(
            "Transpose",
            [nodes[-1].output[0]],
            [images.name],
            name=f"{_PREFIX}transpose",
            perm=[0, 3, 1, 2],
        )
    )
    shape = [None, height, width, channels]
    pixels = helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, shape)
    pixels.type.tensor_type.shape.dim[0].CopyFrom(batch)
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    del graph.input[:]
    graph.input.append(pixels)


def _give_top_k(graph: onnx.GraphProto, top_k: int, labels: Sequence[str] | None) -> None:
    from onnx import TensorProto, helper

    (logits,) = graph.output
    batch, classes = logits.type.tensor_type.shape.dim
    if not 1 <= top_k <= classes.dim_value:
        raise BadInput(
            f"`top_k={top_k}` is out of range: the model has {classes.dim_value} classes.",
            f"Choose 1 to {classes.dim_value}.",
        )
    _constant(graph, "k", np.asarray([top_k], np.int64))
    graph.node.append(_node("Softmax", [logits.name], "probabilities", axis=-1))
    graph.node.append(
        helper.make_node(
            "TopK",
            [f"{_PREFIX}probabilities", f"{_PREFIX}k"],
            [TOP_PROBABILITIES, TOP_CLASSES],
            name=f"{_PREFIX}top_k",
            axis=-1,
        )
    )
    outputs = [(TOP_PROBABILITIES, TensorProto.FLOAT), (TOP_CLASSES, TensorProto.INT64)]
    if labels is not None:
        names = np.asarray([label.encode("utf-8") for label in labels], object)
        _constant(graph, "labels", names)
        graph.node.append(
            helper.make_node(
                "Gather",
                [f"{_PREFIX}labels", TOP_CLASSES],
                [TOP_LABELS],
                name=f"{_PREFIX}gather_labels",
            )
        )
        outputs.append((TOP_LABELS, TensorProto.STRING))
    for name, kind in outputs:
        output = helper.make_tensor_value_info(name, kind, [None, top_k])
        output.type.tensor_type.shape.dim[0].CopyFrom(batch)
        graph.output.append(output)


def _constant(graph: onnx.GraphProto, name: str, value: Any) -> None:
    from onnx import TensorProto, helper, numpy_helper

    array = np.asarray(value)
    if array.dtype == np.object_:
        tensor = helper.make_tensor(
            _PREFIX + name, TensorProto.STRING, list(array.shape), list(array)
        )
    else:
        tensor = numpy_helper.from_array(array, _PREFIX + name)
    graph.initializer.append(tensor)


def _node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    from onnx import helper

    return helper.make_node(
        operator, inputs, [_PREFIX + output], name=f"{_PREFIX}{output}_node", **attributes
    )
