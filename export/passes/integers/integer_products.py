"""Products of quantised tensors become those that ONNX Runtime's CPU multiplies in integers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
    only_reader,
    operand,
    producer,
    replace,
)
from mimiq.export.passes.conditions import ensure_none, require_none
from mimiq.export.passes.integers.unsigned_activations import signed_activations

CONTRIB = "com.microsoft"
PRODUCT = "MatMulIntegerToFloat"
_INTEGERS = (ir.DataType.INT8, ir.DataType.INT4)


class IntegerProducts(ir.passes.InPlacePass):
    """MatMul of a uint8 activation and stored weights, and the bias behind it →
    ``com.microsoft.MatMulIntegerToFloat``.

    ONNX Runtime makes that node itself from Q/DQ, except that it leaves the bias to a pass of its
    own over memory, and with INT4 weights it makes none. INT4 weights stay INT4 in the file, behind
    a Cast to INT8 that ONNX Runtime carries out once, when it loads the graph.
    """

    def requires(self, model: ir.Model) -> None:
        require_none(signed_activations(model), "Run UnsignedActivations first.")

    def ensures(self, model: ir.Model) -> None:
        ensure_none(float_products(model), "products of integers are computed in integers")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        matches = map(_match, nodes_of(model, "MatMul"))
        found = [product for product in matches if product is not None]
        for product in found:
            _lower(product)
        if found:
            model.opset_imports[CONTRIB] = 1
        return ir.passes.PassResult(model, modified=bool(found))


def float_products(model: ir.Model) -> Iterator[ir.Node]:
    """The MatMuls in floating point that could be computed in integers."""
    for node in nodes_of(model, "MatMul"):
        if _match(node) is not None:
            yield node


@dataclass(frozen=True)
class _Product:
    """A MatMul and the DequantizeLinears of its two operands; the weight is int (in, out)."""

    node: ir.Node
    first: ir.Node
    weight: ir.Node
    columns: object


def _match(product: ir.Node) -> _Product | None:
    first, weight = producer(product.inputs[0], DEQUANTIZE), producer(product.inputs[1], DEQUANTIZE)
    if first is None or weight is None or operand(first, 0).dtype != ir.DataType.UINT8:
        return None
    stored, scale = operand(weight, 0), array(weight.inputs[1])
    if array(stored) is None or scale is None or int_attribute(weight, "block_size", 0):
        return None
    shape = stored.shape
    if stored.dtype not in _INTEGERS or shape is None or len(shape) != 2:
        return None
    columns = shape[1]
    if scale.size != 1 and (scale.shape != (columns,) or int_attribute(weight, "axis", 1) != 1):
        return None
    return _Product(product, first, weight, columns)


def _lower(product: _Product) -> None:
    node, first, weight = product.node, product.first, product.weight
    stored = integers = operand(weight, 0)
    if stored.dtype == ir.DataType.INT4:
        to = {"to": ir.AttrInt64("to", ir.DataType.INT8.value)}
        integers = emit(node, "Cast", [stored], to, dtype=ir.DataType.INT8, shape=stored.shape)
        name_node(integers, f"{stored.name}/int8")
    zero = add_initializer(graph_of(node), f"{node.name}/zero_point", np.asarray(0, np.int8))
    last, bias = _bias(product)
    inputs = [operand(first, 0), integers, operand(first, 1), operand(weight, 1)]
    inputs += [operand(first, 2), zero, *([] if bias is None else [bias])]
    output = emit(
        last,
        PRODUCT,
        inputs,
        dtype=FLOAT,
        shape=last.outputs[0].shape,
        origin=node,
        domain=CONTRIB,
    )
    name_node(output, node.name or PRODUCT)
    replace(last, output)
    if last is not node:
        drop_if_unused(node)
    for operands in (first, weight):
        drop_if_unused(operands)


def _bias(product: _Product) -> tuple[ir.Node, ir.Value | None]:
    """The Add of a constant a column that alone reads the product, and that constant."""
    add = only_reader(product.node.outputs[0], "Add")
    for value in () if add is None else add.inputs:
        data = array(value)
        if data is not None and data.shape == (product.columns,) and data.dtype == np.float32:
            assert add is not None
            return add, value
    return product.node, None
