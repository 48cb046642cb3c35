"""Where one projection computes q, k and v together, and whether it can be split in three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from mimiq.export.graph import (
    DEQUANTIZE,
    Array,
    array,
    consumers,
    int_attribute,
    only_reader,
    producer,
    slice_of_one,
)
from mimiq.export.patterns.linears import find_linears
from mimiq.export.patterns.outlier_columns import OutlierColumns, find_outliers

_BETWEEN = 5  # nodes at most between a product and the Reshape that cuts it in three


@dataclass(frozen=True)
class JoinedProjection:
    """The nodes of one joined projection.

    Attributes:
        product: the MatMul.
        weight: the DequantizeLinear of its integers.
        bias: float (3·H·d,), and its name.
        shape: int64 (5,), what the product is reshaped to: (B, T, 3, H, d).
        parts: the Squeezes of q, k and v by their place among the three.
        outliers: what multiplies its outlier columns, if it has any.
    """

    product: ir.Node
    weight: ir.Node
    bias: Array
    bias_name: str
    shape: Array
    parts: dict[int, ir.Node]
    outliers: tuple[ir.Node, ...]


def not_split(model: ir.Model) -> dict[str, str]:
    """What keeps each joined projection in INT8 together: the reason by the product's name."""
    outliers = {found.linear: found for found in find_outliers(model)}
    quantized = (linear.node for linear in find_linears(model) if linear.activation is not None)
    found = {
        product.name or product.op_type: match_joined(product, outliers.get(product))
        for product in quantized
        if _is_joined(product)
    }
    return {name: reason for name, reason in found.items() if isinstance(reason, str)}


def match_joined(product: ir.Node, outliers: OutlierColumns | None) -> JoinedProjection | str:
    """The joined projection that a MatMul is part of, or why it cannot be split as one."""
    weight = producer(product.inputs[1], DEQUANTIZE)
    if weight is None or array(weight.inputs[0]) is None:
        return "its weight is not stored in integers"
    if not _is_per_channel(weight):
        return "its weight does not have one scale a channel and zero point 0"
    add = only_reader(product.outputs[0], "Add")
    bias = None if add is None else next((v for v in add.inputs if array(v) is not None), None)
    values = array(bias)
    if add is None or bias is None or values is None or values.ndim != 1:
        return "no bias is added right behind it"
    last = add if outliers is None else outliers.add
    if outliers is not None and only_reader(add.outputs[0], "Add") is not last:
        return "its outlier columns are not added right behind its bias"
    reshape = only_reader(last.outputs[0], "Reshape")
    shape = None if reshape is None else array(reshape.inputs[1])
    if reshape is None or shape is None or shape.size != 5 or shape[2] != 3:
        return "more than a Reshape to (B, T, 3, H, d) reads it"
    transpose = only_reader(reshape.outputs[0], "Transpose")
    order = None if transpose is None else transpose.attributes.get("perm")
    if transpose is None or order is None or list(order.as_ints()) != [2, 0, 3, 1, 4]:
        return "it is not transposed to (3, B, H, T, d)"
    parts: dict[int, ir.Node] = {}
    for piece in consumers(transpose.outputs[0]):
        taken = slice_of_one(piece)
        squeeze = only_reader(piece.outputs[0], "Squeeze")
        if taken is None or taken[1] != 0 or squeeze is None or not _is_first(squeeze.inputs[1:]):
            return f"{piece.op_type} {piece.name} takes something else from it than q, k or v"
        parts[taken[0]] = squeeze
    if sorted(parts) != [0, 1, 2]:
        return "not all of q, k and v are taken from it"
    products = () if outliers is None else outliers.products
    return JoinedProjection(product, weight, values, bias.name or "bias", shape, parts, products)


def _is_joined(product: ir.Node) -> bool:
    """Whether what it computes is cut in three, whatever lies between."""
    node: ir.Node | None = product
    for _ in range(_BETWEEN):
        if node is None or len(node.outputs) != 1:
            return False
        readers = consumers(node.outputs[0])
        reshape = next((reader for reader in readers if reader.op_type == "Reshape"), None)
        shape = None if reshape is None else array(reshape.inputs[1])
        if shape is not None:
            return shape.size == 5 and int(shape[2]) == 3
        node = next((reader for reader in readers if reader.op_type in ("Add", "Cast")), None)
    return False


def _is_per_channel(weight: ir.Node) -> bool:
    scale, stored = array(weight.inputs[1]), array(weight.inputs[0])
    per_channel = scale is not None and stored is not None and scale.shape == stored.shape[1:]
    return per_channel and not int_attribute(weight, "block_size", 0) and len(weight.inputs) <= 2


def _is_first(axes: Sequence[ir.Value | None]) -> bool:
    """Whether a Squeeze drops axis 0 alone."""
    data = array(axes[0]) if len(axes) == 1 else None
    return data is not None and data.reshape(-1).tolist() == [0]
