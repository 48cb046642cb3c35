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
    axis = int_attribute(node, "axis", 1) % integers.ndim
    block_size = int_attribute(node, "block_size", 0)
    spread = spread_scale(scale.astype(np.float32), integers.ndim, axis, block_size)
    values: Array = integers.astype(np.float32) * spread
    return values.astype(np.float32)


def weight_values(value: ir.Value | None) -> Array | None:
    """A weight as fp32, stored so or dequantised, behind casts or not; None of what is computed."""
    while (node := producer(value)) is not None and node.op_type in ("Cast", "Identity"):
        value = node.inputs[0]
    if node is not None:
        return dequantized(node) if node.op_type == DEQUANTIZE else None
    data = array(value)
    return None if data is None else data.astype(np.float32)


def spread_scale(scale: Array, rank: int, axis: int, block_size: int) -> Array:
    """The scale in a shape that broadcasts against its weight, of ``rank`` dimensions.

    Args:
        scale: one number; (C,) along ``axis``; or for blocks the weight's shape with ``axis``
            divided by ``block_size``.
        block_size: 0 where scales are not block-wise.
    """
    if block_size:
        return np.repeat(scale, block_size, axis=axis)
    if scale.size == 1:
        return scale.reshape(())
    return scale.reshape([-1 if dim == axis else 1 for dim in range(rank)])
