"""Fake-quantised constant weights become integer initialisers behind a DequantizeLinear."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from mimiq.errors import UnsupportedModel
from mimiq.export.graph import (
    DEQUANTIZE,
    FAKE_QUANTIZE,
    Array,
    add_initializer,
    array,
    consumers,
    emit,
    graph_of,
    int_attribute,
    nodes_of,
    operand,
    replace,
    take_place,
)
from mimiq.export.passes.conditions import (
    ensure_none,
    fake_quantized_weights,
    require_none,
    weight_transposes,
)
from mimiq.export.patterns.stored import spread_scale


class LowerWeights(ir.passes.InPlacePass):
    """FakeQuantize(W) → DequantizeLinear(integers, scales).

    Grids within [-8, 7] are stored as ONNX INT4 (two a byte) where a MatMul reads them, everything
    else as INT8. The integers are those that ``mimiq::fake_quantize`` rounds to, bit for bit: fp32
    division, ties to even, clamp. The zero point is left out, which ONNX reads as 0.
    """

    def requires(self, model: ir.Model) -> None:
        require_none(weight_transposes(model), "Run FoldWeightTransposes first.")

    def ensures(self, model: ir.Model) -> None:
        ensure_none(fake_quantized_weights(model), "quantised weights are stored as integers")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in nodes_of(model, FAKE_QUANTIZE):
            modified |= _lower(node)
        return ir.passes.PassResult(model, modified=modified)


def quantize_array(
    weight: Array, scale: Array, qmin: int, qmax: int, axis: int, block_size: int
) -> Array:
    """The integers of ``clamp(round(W / s))`` as int8, shape of ``weight``.

    Args:
        weight: fp32, any shape.
        scale: fp32; () per tensor, (C,) along ``axis``, or for blocks the shape of ``weight`` with
            ``axis`` divided by ``block_size``.
    """
    spread = spread_scale(scale.astype(np.float32), weight.ndim, axis, block_size)
    steps = np.rint(weight.astype(np.float32) / spread)
    return np.clip(steps, qmin, qmax).astype(np.int8)


def _lower(node: ir.Node) -> bool:
    source, graph = operand(node, 0), graph_of(node)
    weight, scale = array(source), array(node.inputs[1])
    if weight is None:
        return False  # an activation
    name = source.name or "weight"
    if scale is None:
        raise UnsupportedModel(
            f"The scale of {name} is computed in the graph.",
            "Freeze the quantisers (mimiq.quantize.layers.freeze) before export.",
        )
    qmin, qmax = int_attribute(node, "qmin", -128), int_attribute(node, "qmax", 127)
    axis = int_attribute(node, "axis", -1)
    block_size = int_attribute(node, "block_size", 0)
    if qmin < -128 or qmax > 127:
        raise UnsupportedModel(
            f"{name} is quantised to [{qmin}, {qmax}], which INT8 cannot hold.",
            "Use at most 8 bits for weights.",
        )
    readers = consumers(node.outputs[0])
    int4 = qmin >= -8 and qmax <= 7 and all(reader.op_type == "MatMul" for reader in readers)
    if int4 and axis < 0:
        # No kernel takes INT4 with a single scale; one a channel holds the same values.
        axis = weight.ndim - 1
        scale = np.full(weight.shape[axis], scale.reshape(()), np.float32)

    steps = quantize_array(weight, scale, qmin, qmax, axis, block_size)
    integers = add_initializer(graph, name, steps.astype(ml_dtypes.int4) if int4 else steps)
    scales = add_initializer(graph, f"{name}_scale", scale.astype(np.float32))
    attributes = {} if axis < 0 else {"axis": axis}
    if block_size:
        attributes["block_size"] = block_size
    output = emit(
        node,
        DEQUANTIZE,
        [integers, scales],
        attributes,
        dtype=ir.DataType.FLOAT,
        shape=integers.shape,
    )
    replace(node, output)
    take_place(integers, source)
    return True
