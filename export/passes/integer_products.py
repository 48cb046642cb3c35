"""Products of quantised tensors become those that ONNX Runtime's CPU multiplies in integers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mimiq.export.attention import activation_qdq
from mimiq.export.graph import (
    DEQUANTIZE,
    QUANTIZE,
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

CONTRIB = "com.microsoft"
PRODUCT = "MatMulIntegerToFloat"
_OFFSET = np.uint8(128)


class UnsignedActivations(ir.passes.InPlacePass):
    """int8 activations with zero point 0 become uint8 with zero point 128; the same numbers.

    x86 multiplies unsigned by signed bytes (vpmaddubsw, vpdpbusd, AMX). So the first operand of a
    product is made unsigned; the second, if it is an activation as well, stays signed.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        second = {
            dequantize
            for product in nodes_of(model, "MatMul")
            if (dequantize := activation_qdq(operand(product, 1))) is not None
        }
        modified = False
        for quantize in nodes_of(model, QUANTIZE):
            readers = consumers(quantize.outputs[0])
            zero = array(quantize.inputs[2]) if len(quantize.inputs) > 2 else None
            symmetric = zero is not None and zero.dtype == np.int8 and not zero.any()
            plain = all(node.op_type == DEQUANTIZE and len(node.inputs) > 2 for node in readers)
            if symmetric and plain and not second.intersection(readers):
                _offset(quantize, readers)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


class IntegerProducts(ir.passes.InPlacePass):
    """MatMul of a uint8 activation and stored weights, and the bias behind it →
    ``com.microsoft.MatMulIntegerToFloat``.

    ONNX Runtime makes that node itself from Q/DQ, except that it leaves the bias to a pass of its
    own over memory, and with INT4 weights it makes none. INT4 weights stay INT4 in the file, behind
    a Cast to INT8 that ONNX Runtime carries out once, when it loads the graph.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in nodes_of(model, "MatMul"):
            modified |= _lower(node)
        if modified:
            model.opset_imports[CONTRIB] = 1
        return ir.passes.PassResult(model, modified=modified)


class ExplicitZeroPoints(ir.passes.InPlacePass):
    """DequantizeLinear of int8 weights without a zero point gets zeros.

    ONNX Runtime's rewrite for exact sums (``session.x64quantprecision``) makes such weights
    unsigned, and fails where no zero point stands to be moved.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in nodes_of(model, DEQUANTIZE):
            stored, scale = operand(node, 0), array(node.inputs[1])
            if len(node.inputs) > 2 or stored.dtype != ir.DataType.INT8 or scale is None:
                continue
            zeros = np.zeros(scale.shape, np.int8)
            zero = add_initializer(graph_of(node), f"{node.name}/zero_point", zeros)
            node.resize_inputs(3)
            node.replace_input_with(2, zero)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _offset(quantize: ir.Node, readers: list[ir.Node]) -> None:
    zero = operand(quantize, 2)
    moved = add_initializer(graph_of(quantize), f"{zero.name}/uint8", np.asarray(_OFFSET))
    quantize.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    for node in (quantize, *readers):
        node.replace_input_with(2, moved)


def _lower(product: ir.Node) -> bool:
    first, weight = producer(product.inputs[0], DEQUANTIZE), producer(product.inputs[1], DEQUANTIZE)
    if first is None or weight is None or operand(first, 0).dtype != ir.DataType.UINT8:
        return False
    stored, scale = operand(weight, 0), array(weight.inputs[1])
    if array(stored) is None or scale is None or int_attribute(weight, "block_size", 0):
        return False
    shape = stored.shape
    if stored.dtype not in (ir.DataType.INT8, ir.DataType.INT4) or shape is None or len(shape) != 2:
        return False
    columns = shape[1]
    if scale.size != 1 and (scale.shape != (columns,) or int_attribute(weight, "axis", 1) != 1):
        return False
    graph = graph_of(product)
    integers = stored
    if stored.dtype == ir.DataType.INT4:
        to = {"to": ir.AttrInt64("to", ir.DataType.INT8.value)}
        integers = emit(product, "Cast", [stored], to, dtype=ir.DataType.INT8, shape=stored.shape)
        _name(integers, f"{stored.name}/int8")
    zero = add_initializer(graph, f"{product.name}/zero_point", np.asarray(0, np.int8))
    last, bias = _bias(product, columns)
    inputs = [operand(first, 0), integers, operand(first, 1), operand(weight, 1)]
    inputs += [operand(first, 2), zero, *([] if bias is None else [bias])]
    output = emit(
        last,
        PRODUCT,
        inputs,
        dtype=ir.DataType.FLOAT,
        shape=last.outputs[0].shape,
        origin=product,
        domain=CONTRIB,
    )
    _name(output, product.name or PRODUCT)
    replace(last, output)
    if last is not product:
        drop_if_unused(product)
    for node in (first, weight):
        drop_if_unused(node)
    return True


def _bias(product: ir.Node, columns: object) -> tuple[ir.Node, ir.Value | None]:
    """The Add of a constant per column that alone reads a product, and that constant."""
    readers = consumers(product.outputs[0])
    if len(readers) == 1 and readers[0].op_type == "Add":
        for value in readers[0].inputs:
            data = array(value)
            if data is not None and data.shape == (columns,) and data.dtype == np.float32:
                return readers[0], value
    return product, None


def _name(value: ir.Value, name: str) -> None:
    node = value.producer()
    assert node is not None
    node.name = name
    if not value.is_graph_output():
        value.name = name
