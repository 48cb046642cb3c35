"""One projection to q, k and v becomes three, each of its own columns."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mimiq.export.graph import (
    DEQUANTIZE,
    FLOAT,
    add_initializer,
    array,
    drop_if_unused,
    emit,
    graph_of,
    int_attribute,
    name_node,
    nodes_of,
    operand,
    producer,
    replace,
)
from mimiq.export.passes.conditions import require_lowered
from mimiq.export.patterns.joined_projection import JoinedProjection, match_joined
from mimiq.export.patterns.outlier_columns import find_outliers


class SplitJoinedProjections(ir.passes.InPlacePass):
    """Reshape and Transpose of x·W + b to (3, B, H, T, d), then a Slice for each of q, k and v →
    x·W_q + b_q, x·W_k + b_k, x·W_v + b_v, each reshaped and transposed to (B, H, T, d).

    Equal numbers. A runtime that multiplies in integers need then move no float32 (3, B, H, T, d)
    about: each projection can be quantised where it stands, before it is transposed. What keeps one
    together is told by :func:`mimiq.export.patterns.joined_projection.not_split`.
    """

    def requires(self, model: ir.Model) -> None:
        require_lowered(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        outliers = {found.linear: found for found in find_outliers(model)}
        for node in nodes_of(model, "MatMul"):
            joined = match_joined(node, outliers.get(node))
            if isinstance(joined, JoinedProjection):
                _split(joined)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def _split(joined: JoinedProjection) -> None:
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
        kind = FLOAT
        value = emit(
            squeeze, DEQUANTIZE, [integers, scales], axis, dtype=kind, shape=integers.shape
        )
        name_node(value, f"{weight.name}.{letter}")
        value = emit(squeeze, "MatMul", [x, value], dtype=kind, shape=flat, origin=product)
        name_node(value, f"{product.name}.{letter}")
        value = emit(squeeze, "Add", [value, bias], dtype=kind, shape=flat)
        name_node(value, f"{product.name}.{letter}/bias")
        value = _add_outliers(value, joined, columns, squeeze, f"{product.name}.{letter}")
        value = emit(squeeze, "Reshape", [value, shape], dtype=kind, shape=split)
        name_node(value, f"{product.name}.{letter}/heads")
        value = emit(
            squeeze,
            "Transpose",
            [value],
            {"perm": [0, 2, 1, 3]},
            dtype=kind,
            shape=squeeze.outputs[0].shape,
        )
        name_node(value, f"{product.name}.{letter}/transposed")
        piece = producer(squeeze.inputs[0])
        replace(squeeze, value)
        if piece is not None:
            drop_if_unused(piece)


def _add_outliers(
    value: ir.Value, joined: JoinedProjection, part: slice, before: ir.Node, name: str
) -> ir.Value:
    """``value`` and what the outlier columns add to this part of the joined projection."""
    total: ir.Value | None = None
    kind, shape = FLOAT, value.shape
    for index, term in enumerate(joined.outliers):
        row = array(term.inputs[1])
        assert row is not None
        weight = add_initializer(graph_of(before), f"{name}/outlier_weight", row[part].copy())
        added = emit(before, "Mul", [term.inputs[0], weight], dtype=kind, shape=shape, origin=term)
        name_node(added, f"{name}/outlier_{index}")
        if total is not None:
            added = emit(before, "Add", [total, added], dtype=kind, shape=shape, origin=term)
            name_node(added, f"{name}/outliers_{index}")
        total = added
    if total is None:
        return value
    whole = emit(before, "Add", [value, total], dtype=kind, shape=shape)
    name_node(whole, f"{name}/with_outliers")
    return whole
