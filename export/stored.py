"""The numbers that stored integers stand for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mimiq.export.graph import DEQUANTIZE, Array, array, int_attribute, producer


def dequantized(node: ir.Node) -> Array | None:
    """What a symmetric DequantizeLinear makes of constant integers, fp32; None of anything else."""
    integers, scale = array(node.inputs[0]), array(node.inputs[1])
    if integers is None or scale is None:
        return None
    values: Array = integers.astype(np.float32) * _spread(node, scale.astype(np.float32), integers)
    return values.astype(np.float32)


def weight_values(value: ir.Value | None) -> Array | None:
    """A weight as fp32, stored so or dequantised, behind casts or not; None of what is computed."""
    while (node := producer(value)) is not None and node.op_type in ("Cast", "Identity"):
        value = node.inputs[0]
    if node is not None:
        return dequantized(node) if node.op_type == DEQUANTIZE else None
    data = array(value)
    return None if data is None else data.astype(np.float32)


def _spread(node: ir.Node, scale: Array, integers: Array) -> Array:
    """The scale in a shape that broadcasts against its integers."""
    if scale.size == 1:
        return scale.reshape(())
    axis = int_attribute(node, "axis", 1) % integers.ndim
    block = int_attribute(node, "block_size", 0)
    if block:
        return np.repeat(scale, block, axis=axis)
    return scale.reshape([-1 if dim == axis else 1 for dim in range(integers.ndim)])
