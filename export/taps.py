"""Copies of a graph that also give tensors from inside it, to see where two backends part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from mimiq.errors import UnsupportedModel
from mimiq.export.graph import DEQUANTIZE, add_initializer, constant, load, producer, save, shape_of

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
# Inside a block: what means the same in every form of a graph. A Linear's product does not, as
# scales may be split off it; its bias sum does.
_INSIDE = ("LayerNormalization", "Add", "Gelu", "Softmax", "MatMul")


@dataclass(frozen=True)
class Tap:
    """One tensor from inside a graph: columns ``start … stop`` of a tapped graph's output."""

    name: str
    start: int
    stop: int


def block_sums(model: str | Path | ir.Model) -> list[str]:
    """The residual stream: every tensor that a LayerNormalization reads, in order.

    These are the sums behind patch embedding, attention and MLP of each block; whatever goes wrong
    inside a block is in the next of them.
    """
    graph = load(model)
    inputs = (node.inputs[0] for node in graph.graph if node.op_type == "LayerNormalization")
    names = (_uncast(value) for value in inputs if value is not None)
    return list(dict.fromkeys(name for name in names if name))


def between(model: str | Path | ir.Model, first: str | None, last: str) -> list[str]:
    """What is computed after ``first`` up to ``last``, and can be tapped, in order.

    Args:
        first: None for the graph's beginning.
        last: included.
    """
    graph = load(model)
    found: list[str] = []
    inside = first is None
    for node in graph.graph:
        name = node.outputs[0].name or ""
        if inside and (name == last or (node.op_type in _INSIDE and not _is_product(node))):
            found += [name] if _width(node.outputs[0]) else []
        inside = (inside or name == first) and name != last
    return found


def tap(source: str | Path, path: str | Path, names: Iterable[str]) -> list[Tap]:
    """Write a copy of a graph whose output holds, before the logits, tensors from inside.

    Any session can run it: it still has one input and one output, float32 (B, everything in a
    row). Marking tensors as outputs keeps a builder from fusing across them, so that an engine
    built from the copy is near, not equal, to the one built without.

    Args:
        names: of values; those that the graph lacks, or that are not floats of one fixed size an
            image, are left out.

    Returns:
        Where each tensor is, in the order of ``names``, and last the logits.

    Raises:
        UnsupportedModel: the graph has several outputs, or logits of no fixed width.
        BadInput: the file cannot be read, or the copy not be written.
    """
    model = load(source)
    graph = model.graph
    values = {value.name: value for node in graph for value in node.outputs}
    if len(graph.outputs) != 1 or not _width(graph.outputs[0]):
        raise UnsupportedModel(f"{source} gives no logits of a fixed width.", "Export it again.")
    logits = graph.outputs[0]
    wanted = [values[name] for name in names if name in values and values[name] is not logits]
    taps, rows, start = [], [], 0
    for value in (*(value for value in wanted if _width(value)), logits):
        width = _width(value)
        taps.append(Tap(value.name or "", start, start + width))
        rows.append(_row(graph, value, width))
        start += width
    joined = ir.node("Concat", rows, {"axis": ir.AttrInt64("axis", 1)}, name="taps/Concat")
    output = joined.outputs[0]
    output.name, output.type = "taps", ir.TensorType(ir.DataType.FLOAT)
    output.shape = ir.Shape([logits.shape[0] if logits.shape else None, start])
    graph.append(joined)
    graph.outputs[0] = output
    save(model, path)
    return taps


def _row(graph: ir.Graph, value: ir.Value, width: int) -> ir.Value:
    """The value as float32 (B, width)."""
    shape = add_initializer(graph, "taps_shape", np.asarray([-1, width], np.int64))
    steps = [ir.node("Reshape", [value, shape], name=f"taps/{value.name}/Reshape")]
    if value.dtype != ir.DataType.FLOAT:
        to = ir.AttrInt64("to", ir.DataType.FLOAT.value)
        steps.append(ir.node("Cast", steps[0].outputs, {"to": to}, name=f"taps/{value.name}/Cast"))
    for step, dtype in zip(steps, (value.dtype, ir.DataType.FLOAT), strict=False):
        output = step.outputs[0]
        output.name, output.shape = step.name, ir.Shape([None, width])
        output.type = None if dtype is None else ir.TensorType(dtype)
        graph.append(step)
    return steps[-1].outputs[0]


def _width(value: ir.Value) -> int:
    """Numbers an image, where the batch is the first size and all others are fixed; else 0."""
    shape = shape_of(value)
    if value.dtype not in _FLOATS or not shape or len(shape) < 2 or None in shape[1:]:
        return 0
    # A free batch, so that a tensor of which it is not the first size is told apart.
    return 0 if shape[0] is not None else int(np.prod([size or 0 for size in shape[1:]]))


def _is_product(node: ir.Node) -> bool:
    """A MatMul with a stored weight."""
    if node.op_type != "MatMul":
        return False
    source = producer(node.inputs[1])
    stored = source.inputs[0] if source is not None and source.op_type == DEQUANTIZE else None
    return constant(node.inputs[1]) is not None or constant(stored) is not None


def _uncast(value: ir.Value) -> str | None:
    """The name of what a value was before it was cast."""
    source = producer(value, "Cast")
    while source is not None and source.inputs[0] is not None:
        value = source.inputs[0]
        source = producer(value, "Cast")
    return value.name
