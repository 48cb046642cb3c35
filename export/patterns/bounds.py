"""How large a tensor can grow whatever the image is, as far as the graph alone tells.

A LayerNorm's output is bounded by its own weights, what comes out of a QuantizeLinear by its range;
what Linears, activations and attention make of these is bounded in turn.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mimiq.export.graph import DEQUANTIZE, QUANTIZE, Array, array, producer, shape_of
from mimiq.export.limits import GELU_MIN
from mimiq.export.patterns.stored import weight_values

_MOVEMENT = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "Gather", "Flatten")
_GREATEST = {ir.DataType.INT8: 128.0}
_DEPTH = 40  # far more nodes than lie between a Linear's input and the LayerNorm before it


def largest(value: ir.Value | None, depth: int = _DEPTH) -> Array | None:
    """The greatest magnitude of ``value``: fp64, one a channel of its last axis, or a scalar.

    None where nothing in the graph bounds it.
    """
    constant = array(value)
    if constant is not None:
        found: Array = np.abs(constant.astype(np.float64))
        return found if found.ndim <= 1 else found.max(axis=tuple(range(found.ndim - 1)))
    node = producer(value)
    if node is None or depth == 0:
        return None
    if node.op_type == DEQUANTIZE:
        return _quantized(node, depth)
    if node.op_type == "LayerNormalization":
        return _normalized(node)
    if node.op_type == "Softmax":
        return np.asarray(1.0)
    first = largest(node.inputs[0], depth - 1)
    if first is None:
        return None
    if node.op_type in ("Cast", "Identity", "Relu"):
        return first
    if node.op_type == "Gelu":
        return np.maximum(first, -GELU_MIN)
    if node.op_type in _MOVEMENT:
        return np.asarray(first.max())
    if node.op_type == "Clip":
        return _clipped(node, first)
    if node.op_type == "MatMul":
        return _product(node, first, depth)
    if node.op_type in ("Add", "Sub", "Mul"):
        second = largest(node.inputs[1], depth - 1)
        if second is None:
            return None
        return first * second if node.op_type == "Mul" else first + second
    return None


def _quantized(node: ir.Node, depth: int) -> Array | None:
    """Of an activation behind its Q/DQ: the end of the integers, or what was quantised."""
    quantizer, scale = producer(node.inputs[0], QUANTIZE), array(node.inputs[1])
    integers = node.inputs[0]
    if quantizer is None or scale is None or scale.size != 1 or integers is None:
        return None
    greatest = _GREATEST.get(integers.dtype or ir.DataType.UNDEFINED)
    if greatest is None:
        return None
    step = float(scale.reshape(()))
    before = largest(quantizer.inputs[0], depth - 1)
    end = np.asarray(greatest * step)
    return end if before is None else np.minimum(before + step / 2, end)


def _normalized(node: ir.Node) -> Array | None:
    """(x - mean) / deviation of C numbers is at most √C, which one number may reach alone."""
    shape, scale = shape_of(node.inputs[0]), array(node.inputs[1])
    shift = array(node.inputs[2]) if len(node.inputs) > 2 else None
    channels = None if shape is None else shape[-1]
    if scale is None or channels is None or scale.shape != (channels,):
        return None
    bound: Array = np.sqrt(channels) * np.abs(scale.astype(np.float64))
    return bound if shift is None else bound + np.abs(shift.astype(np.float64))


def _clipped(node: ir.Node, bound: Array) -> Array:
    ends = [array(value) for value in node.inputs[1:3]]
    if len(ends) < 2 or any(end is None for end in ends):
        return bound
    return np.minimum(bound, max(float(np.abs(end).max()) for end in ends if end is not None))


def _product(node: ir.Node, left: Array, depth: int) -> Array | None:
    weight = weight_values(node.inputs[1])
    if weight is not None:
        if weight.ndim != 2:
            return None
        rows: Array = np.broadcast_to(left, weight.shape[:1])
        return rows @ np.abs(weight.astype(np.float64))
    values, excess = largest(node.inputs[1], depth - 1), _excess(node.inputs[0])
    return None if values is None or excess is None else values * (1.0 + excess)


def _excess(probabilities: ir.Value | None) -> float | None:
    """By how much a row of probabilities may sum to more than 1; None where they are none.

    Quantised, each of T may be half a step more than it was.
    """
    value, step = probabilities, 0.0
    while (node := producer(value)) is not None and node.op_type != "Softmax":
        if node.op_type == DEQUANTIZE:
            scale = array(node.inputs[1])
            step = float(scale.reshape(-1)[0]) if scale is not None else np.inf
        elif node.op_type not in ("Cast", "Identity", "Clip", QUANTIZE):
            return None
        value = node.inputs[0]
    shape = shape_of(value)
    if node is None or shape is None or not isinstance(shape[-1], int):
        return None
    return 0.5 * step * shape[-1]
