"""Reading and editing onnx-ir graphs: the few helpers that passes, rules and summaries share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes import common

from mimiq import files
from mimiq.errors import MISREAD, BadInput, MimiqError, UnsupportedModel
from mimiq.files import exhausted

DOMAIN = "mimiq"  # of the one custom operator, which no lowered graph holds any more
FAKE_QUANTIZE = "FakeQuantize"

RUNTIMES = "mimiq.runtimes"  # metadata: which of them a file is for

QUANTIZE = "QuantizeLinear"
DEQUANTIZE = "DequantizeLinear"

HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT

Array = npt.NDArray[Any]


def load(model: str | Path | ir.Model) -> ir.Model:
    """The model at a path, with types inferred where the file has none.

    A model already in memory passes through.

    Raises:
        BadInput: when the file is absent or no ONNX model.
        EnvironmentLacks: there is no memory for it, or too many files are open.
    """
    if isinstance(model, ir.Model):
        return model
    path = Path(model)
    if not path.is_file():
        raise BadInput(f"ONNX file {path} does not exist.", "Check the path.")
    try:
        loaded = ir.load(path)
    except Exception as error:  # the protobuf runtimes differ in what they raise
        raise exhausted(error, f"{path} cannot be read") or BadInput(
            f"{path} is not a readable ONNX model: {error}", "Export it again."
        ) from error
    if not loaded.opset_imports:  # an empty file is a message without fields
        raise BadInput(f"{path} holds no ONNX model.", "Export it again.")
    if any(value.dtype is None for node in loaded.graph for value in node.outputs):
        common.ShapeInferencePass(check_type=False, strict_mode=False)(loaded)
    return loaded


@contextmanager
def reading(model: str | Path | ir.Model) -> Iterator[ir.Model]:
    """:func:`load`, and whatever a file's malformed graph makes its readers raise is one error.

    They take nodes to have the inputs of their operators and constants to have their data, and a
    file from elsewhere may hold anything.

    Raises:
        BadInput: as :func:`load`, or the graph in the file is malformed.
        EnvironmentLacks: as :func:`load`.
    """
    if isinstance(model, ir.Model):
        yield model
        return
    try:
        loaded = load(model)
        loaded.graph.sort()  # refuses a cycle, in which what follows producers would not end
        yield loaded
    except MimiqError:
        raise
    except (OSError, RuntimeError, *MISREAD) as error:
        raise exhausted(error, f"{model} cannot be read") or BadInput(
            f"{model} is not a readable ONNX model: its graph is malformed "
            f"({type(error).__name__}: {error}).",
            "Export it again.",
        ) from error


def save_for(runtimes: str, model: ir.Model, path: str | Path) -> Path:
    """:func:`save`, and the file's metadata say which runtimes the form is for.

    Others may refuse it, or compute it wrongly: ONNX Runtime 1.31 and 1.32 the half-precision form.
    """
    model.metadata_props[RUNTIMES] = runtimes
    return save(model, path)


def save(model: ir.Model, path: str | Path) -> Path:
    """Write the model through a temporary file beside ``path``.

    Raises:
        BadInput: when it cannot be written, or exceeds the 2 GB of one protobuf file.
        EnvironmentLacks: when the disk is full.
    """
    path = Path(path)
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value)
    if size >= 2**31 - 2**20:
        raise BadInput(
            f"{path.name} would be {size / 2**30:.1f} GiB, and one ONNX file holds less than 2.",
            "Quantise the weights (`int8=True` or `int4=True`), or choose a smaller model.",
        )
    with files.writing(path), files.replacing(path) as temporary:
        ir.save(model, temporary)
    return path


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor behind an initialiser or a Constant node; None for anything computed."""
    if value is None:
        return None
    return ir.convenience.get_const_tensor(value)


def array(value: ir.Value | None) -> Array | None:
    """As :func:`constant`, as a numpy array."""
    tensor = constant(value)
    return None if tensor is None else np.asarray(tensor.numpy())


def producer(value: ir.Value | None, op_type: str | None = None) -> ir.Node | None:
    """The node that computes ``value``, if there is one and it is an ``op_type``."""
    node = None if value is None else value.producer()
    if node is None or (op_type is not None and node.op_type != op_type):
        return None
    return node


def operand(node: ir.Node, index: int) -> ir.Value:
    """An input that the operator cannot do without.

    Raises:
        UnsupportedModel: when it is absent.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise UnsupportedModel(
            f"Node {node.name} ({node.op_type}) lacks input {index}.", "Export the model again."
        )
    return value


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph a node is part of."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)  # passes work on the main graph alone
    return graph


def consumers(value: ir.Value, op_type: str | None = None) -> list[ir.Node]:
    """The nodes that read ``value``, in no particular order, each once."""
    nodes = dict.fromkeys(use.node for use in value.uses())
    return [node for node in nodes if op_type is None or node.op_type == op_type]


def only_reader(value: ir.Value, op_type: str | None = None) -> ir.Node | None:
    """The node that alone reads ``value``, if there is one and it is an ``op_type``."""
    readers = consumers(value)
    alone = len(readers) == 1 and (op_type is None or readers[0].op_type == op_type)
    return readers[0] if alone else None


def added_constant(value: ir.Value) -> tuple[ir.Node, ir.Value] | None:
    """The Add that alone reads ``value``, such as a bias's, and the constant that it adds."""
    add = None if value.is_graph_output() else only_reader(value, "Add")
    others = [] if add is None else [other for other in add.inputs if other is not value]
    if add is None or len(others) != 1 or others[0] is None or constant(others[0]) is None:
        return None
    return add, others[0]


def slice_of_one(node: ir.Node) -> tuple[int, int] | None:
    """``(i, axis)`` where the node is a Slice that takes ``i : i + 1`` along ``axis``."""
    numbers = [array(value) for value in node.inputs[1:]]
    if node.op_type != "Slice" or len(numbers) not in (3, 4):
        return None
    if any(number is None or number.size != 1 for number in numbers):
        return None
    start, end, axis, *step = (int(n.reshape(())) for n in numbers if n is not None)
    return (start, axis) if end == start + 1 and step in ([], [1]) else None


def nodes_of(model: ir.Model, *op_types: str) -> list[ir.Node]:
    """A list (safe against edits) of the main graph's nodes of these types, in order."""
    return [node for node in model.graph if not op_types or node.op_type in op_types]


def computes_in_half(model: ir.Model) -> bool:
    """Whether any tensor of the graph is half precision."""
    return any(output.dtype == HALF for node in model.graph for output in node.outputs)


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else int(attribute.as_int())


def shape_of(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """Dimensions of a value, None where symbolic; None when even the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else None for dim in value.shape)


def unique_name(graph: ir.Graph, name: str) -> str:
    """``name``, or ``name_1``, ``name_2`` …: free among the initialisers."""
    free, index = name, 0
    while free in graph.initializers:
        index += 1
        free = f"{name}_{index}"
    return free


def add_initializer(graph: ir.Graph, name: str, data: Array | ir.TensorProtocol) -> ir.Value:
    """A new initialiser under ``name``, or under the next free name after it."""
    tensor = ir.tensor(data)
    name = unique_name(graph, name)
    value = ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
    )
    graph.initializers.add(value)
    return value


def take_place(value: ir.Value, old: ir.Value) -> None:
    """Give an initialiser the name of another that nobody reads any more, and drop that one."""
    graph = old.graph
    if old.uses() or not old.is_initializer() or graph is None or old.name is None:
        return
    name = old.name
    del graph.initializers[name]
    ir.convenience.rename_values(value, name)


def emit(
    before: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    dtype: ir.DataType,
    shape: ir.Shape | None,
    origin: ir.Node | None = None,
    domain: str = "",
) -> ir.Value:
    """Insert a one-output node before another, and return its output.

    Args:
        origin: the node it replaces, whose module scope it inherits; ``before`` if not given.
    """
    node = ir.node(op_type, inputs, dict(attributes or {}), domain=domain)
    node.metadata_props.update((origin or before).metadata_props)
    node.outputs[0].type = ir.TensorType(dtype)
    node.outputs[0].shape = shape
    graph_of(before).insert_before(before, node)
    return node.outputs[0]


def cast_to(value: ir.Value, wanted: ir.DataType, name: str) -> ir.Node:
    """A Cast of ``value``, which the caller inserts."""
    node = ir.node("Cast", [value], {"to": ir.AttrInt64("to", wanted.value)})
    node.name = name
    output = node.outputs[0]
    output.name, output.type, output.shape = name, ir.TensorType(wanted), value.shape
    return node


def name_node(value: ir.Value, name: str) -> None:
    """Name the node that computes ``value``, and ``value`` unless it is a graph output."""
    node = value.producer()
    assert node is not None
    node.name = name
    if not value.is_graph_output():
        value.name = name


def replace(node: ir.Node, output: ir.Value) -> None:
    """Let ``output`` take the place of the node's only output, and remove the node."""
    old = node.outputs[0]
    if old.is_graph_output():
        output.name = old.name
    old.replace_all_uses_with(output, replace_graph_outputs=True)
    graph_of(node).remove(node, safe=True)


def drop_if_unused(node: ir.Node) -> None:
    """Remove a node whose output nobody reads any more."""
    if not any(value.uses() or value.is_graph_output() for value in node.outputs):
        graph_of(node).remove(node, safe=True)
