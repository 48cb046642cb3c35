"""One projection to q, k and v becomes three, each of its own columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mimiq.export.graph import (
    DEQUANTIZE,
    Array,
    add_initializer,
    array,
    consumers,
    drop_if_unused,
    emit,
    graph_of,
    int_attribute,
    nodes_of,
    operand,
    producer,
    replace,
)
from mimiq.export.outlier_columns import OutlierColumns, find_outliers


class SplitJoinedProjections(ir.passes.InPlacePass):
    """Reshape and Transpose of x·W + b to (3, B, H, T, d), then a Slice for each of q, k and v →
    x·W_q + b_q, x·W_k + b_k, x·W_v + b_v, each reshaped and transposed to (B, H, T, d).

    Equal numbers. A runtime that multiplies in integers need then move no float32 (3, B, H, T, d)
    about: each projection can be quantised where it stands, before it is transposed.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        outliers = {found.linear: found for found in find_outliers(model)}
        for node in nodes_of(model, "MatMul"):
            joined = _match(node, outliers.get(node))
            if joined is not None:
                _split(joined)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


@dataclass(frozen=True)
class _Joined:
    """The nodes of one joined projection; ``parts`` are its Squeezes by their place among three.

    ``outliers`` are what multiplies its outlier columns, if it has any.
    """

    product: ir.Node
    weight: ir.Node
    bias: Array
    bias_name: str
    shape: Array
    parts: dict[int, ir.Node]
    outliers: tuple[ir.Node, ...]


def _match(product: ir.Node, outliers: OutlierColumns | None) -> _Joined | None:
    weight = producer(product.inputs[1], DEQUANTIZE)
    add = _only_reader(product, "Add")
    if weight is None or add is None or array(weight.inputs[0]) is None:
        return None
    bias = next((v for v in add.inputs if array(v) is not None), None)
    last = add if outliers is None else outliers.add
    if outliers is not None and _only_reader(add, "Add") is not last:
        return None
    reshape = _only_reader(last, "Reshape")
    transpose = None if reshape is None else _only_reader(reshape, "Transpose")
    shape = None if reshape is None else array(reshape.inputs[1])
    if bias is None or transpose is None or shape is None:
        return None
    values = array(bias)
    assert values is not None
    order = transpose.attributes.get("perm")
    if (
        shape.size != 5
        or shape[2] != 3
        or order is None
        or list(order.as_ints()) != [2, 0, 3, 1, 4]
    ):
        return None
    if values.ndim != 1 or _has_blocks(weight):
        return None
    parts: dict[int, ir.Node] = {}
    for piece in consumers(transpose.outputs[0]):
        place = _place(piece)
        squeeze = _only_reader(piece, "Squeeze")
        if place is None or squeeze is None or _constants(squeeze.inputs[1:]) != [0]:
            return None
        parts[place] = squeeze
    if sorted(parts) != [0, 1, 2]:
        return None
    products = () if outliers is None else outliers.products
    return _Joined(product, weight, values, bias.name or "bias", shape, parts, products)


def _has_blocks(weight: ir.Node) -> bool:
    scale, stored = array(weight.inputs[1]), array(weight.inputs[0])
    per_channel = scale is not None and stored is not None and scale.shape == stored.shape[1:]
    return not per_channel or bool(int_attribute(weight, "block_size", 0)) or len(weight.inputs) > 2


def _only_reader(node: ir.Node, op_type: str) -> ir.Node | None:
    readers = consumers(node.outputs[0])
    return readers[0] if len(readers) == 1 and readers[0].op_type == op_type else None


def _place(piece: ir.Node) -> int | None:
    """i where the node is ``x[i : i + 1]`` along the first axis."""
    if piece.op_type != "Slice":
        return None
    found = _constants(piece.inputs[1:])
    if found is None or len(found) not in (3, 4):
        return None
    start, end, axis, *step = found
    return start if end == start + 1 and axis == 0 and step in ([], [1]) else None


def _constants(values: Sequence[ir.Value | None]) -> list[int] | None:
    """The one integer in each of these constants, or None if one is something else."""
    found = []
    for value in values:
        data = array(value)
        if data is None or data.size != 1:
            return None
        found.append(int(data.reshape(-1)[0]))
    return found


def _split(joined: _Joined) -> None:
    weight, product = joined.weight, joined.product
    graph, x = graph_of(product), operand(product, 0)
    stored, scale = array(weight.inputs[0]), array(weight.inputs[1])
    assert stored is not None
    assert scale is not None
    batch, tokens, _, heads, size = (int(n) for n in joined.shape)
    width = heads * size
    shape = add_initializer(
        graph, f"{product.name}/shape", np.asarray([batch, tokens, heads, size], np.int64)
    )
    rows = None if product.outputs[0].shape is None else product.outputs[0].shape[:2]
    flat = None if rows is None else ir.Shape([*rows, width])
    split = None if rows is None else ir.Shape([*rows, heads, size])
    name = weight.inputs[0].name if weight.inputs[0] is not None else "weight"
    for place, letter in enumerate("qkv"):
        columns = slice(place * width, (place + 1) * width)
        squeeze = joined.parts[place]
        integers = add_initializer(
            graph, f"{name}.{letter}", np.ascontiguousarray(stored[:, columns])
        )
        scales = add_initializer(graph, f"{name}.{letter}.scale", scale[columns].copy())
        bias = add_initializer(graph, f"{joined.bias_name}.{letter}", joined.bias[columns].copy())
        axis = {"axis": int_attribute(weight, "axis", 1)}
        kind = ir.DataType.FLOAT
        value = emit(
            squeeze, DEQUANTIZE, [integers, scales], axis, dtype=kind, shape=integers.shape
        )
        _name(value, f"{weight.name}.{letter}")
        value = emit(squeeze, "MatMul", [x, value], dtype=kind, shape=flat, origin=product)
        _name(value, f"{product.name}.{letter}")
        value = emit(squeeze, "Add", [value, bias], dtype=kind, shape=flat)
        _name(value, f"{product.name}.{letter}/bias")
        value = _add_outliers(value, joined, columns, squeeze, f"{product.name}.{letter}")
        value = emit(squeeze, "Reshape", [value, shape], dtype=kind, shape=split)
        _name(value, f"{product.name}.{letter}/heads")
        value = emit(
            squeeze,
            "Transpose",
            [value],
            {"perm": [0, 2, 1, 3]},
            dtype=kind,
            shape=squeeze.outputs[0].shape,
        )
        _name(value, f"{product.name}.{letter}/transposed")
        piece = producer(squeeze.inputs[0])
        replace(squeeze, value)
        if piece is not None:
            drop_if_unused(piece)


def _add_outliers(
    value: ir.Value, joined: _Joined, part: slice, before: ir.Node, name: str
) -> ir.Value:
    """``value`` and what the outlier columns add to this part of the joined projection."""
    total: ir.Value | None = None
    kind, shape = ir.DataType.FLOAT, value.shape
    for index, term in enumerate(joined.outliers):
        row = array(term.inputs[1])
        assert row is not None
        weight = add_initializer(graph_of(before), f"{name}/outlier_weight", row[part].copy())
        added = emit(before, "Mul", [term.inputs[0], weight], dtype=kind, shape=shape, origin=term)
        _name(added, f"{name}/outlier_{index}")
        if total is not None:
            added = emit(before, "Add", [total, added], dtype=kind, shape=shape, origin=term)
            _name(added, f"{name}/outliers_{index}")
        total = added
    if total is None:
        return value
    whole = emit(before, "Add", [value, total], dtype=kind, shape=shape)
    _name(whole, f"{name}/with_outliers")
    return whole


def _name(value: ir.Value, name: str) -> None:
    node = value.producer()
    assert node is not None
    node.name = value.name = name
