"""Fake-quantised activations become a Clip where needed, QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from mimiq.errors import UnsupportedModel
from mimiq.export.graph import (
    DEQUANTIZE,
    FAKE_QUANTIZE,
    QUANTIZE,
    add_initializer,
    array,
    emit,
    graph_of,
    int_attribute,
    nodes_of,
    operand,
    producer,
    replace,
)

# What an operator's output can be, whatever its input. GELU's minimum is -0.16997.
_RANGES = {"Softmax": (0.0, 1.0), "Gelu": (-0.17, math.inf), "Relu": (0.0, math.inf)}


class LowerActivations(ir.passes.InPlacePass):
    """FakeQuantize(x) → [Clip] → QuantizeLinear → DequantizeLinear, int8 with zero point 0.

    QuantizeLinear saturates at [-128, 127]. A narrower grid [qmin, qmax] is a Clip of x to
    [qmin·s, qmax·s] before it, on the sides where x could leave the grid: a softmax needs none
    below 0, nor above 1 when 1/s rounds to at most qmax.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        lowered = nodes_of(model, FAKE_QUANTIZE)
        for node in lowered:
            _lower(node)
        return ir.passes.PassResult(model, modified=bool(lowered))


def _lower(node: ir.Node) -> None:
    x, scale_value = operand(node, 0), operand(node, 1)
    scale = array(scale_value)
    name = scale_value.name or "scale"
    qmin, qmax = int_attribute(node, "qmin", -128), int_attribute(node, "qmax", 127)
    if scale is None or scale.size != 1 or int_attribute(node, "axis", -1) >= 0:
        raise UnsupportedModel(
            f"The activation scale {name} is not one constant number.",
            "Quantise activations per tensor: no target takes anything else.",
        )
    if not (np.isfinite(scale).all() and scale.min() > 0):
        raise UnsupportedModel(
            f"The activation scale {name} is {scale.reshape(-1)[0]}, not a positive number.",
            "Calibrate again: a tensor without spread cannot be quantised.",
        )
    if not -128 <= qmin <= 0 <= qmax <= 127:
        raise UnsupportedModel(
            f"The activation behind {name} is quantised to [{qmin}, {qmax}], which is no window of "
            "INT8 around 0.",
            "Use at most 8 bits and zero point 0.",
        )
    graph, shape = graph_of(node), node.outputs[0].shape
    step = np.float32(scale.reshape(()))
    low, high = _clip_bounds(x, step, qmin, qmax)
    if low is not None or high is not None:
        bounds = [
            None if bound is None else add_initializer(graph, f"{name}_{side}", bound)
            for side, bound in (("min", low), ("max", high))
        ]
        x = emit(node, "Clip", [x, *bounds], dtype=ir.DataType.FLOAT, shape=shape)
    scales = add_initializer(graph, name, np.asarray(step))
    zero = add_initializer(graph, f"{name}_zero_point", np.asarray(0, np.int8))
    integers = emit(node, QUANTIZE, [x, scales, zero], dtype=ir.DataType.INT8, shape=shape)
    output = emit(node, DEQUANTIZE, [integers, scales, zero], dtype=ir.DataType.FLOAT, shape=shape)
    replace(node, output)


def _clip_bounds(
    x: ir.Value, step: np.float32, qmin: int, qmax: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Bounds that x can exceed and int8 saturation does not enforce, as fp32 scalars."""
    source = producer(x)
    low, high = _RANGES.get(source.op_type if source else "", (-math.inf, math.inf))
    below = qmin > -128 and (math.isinf(low) or np.rint(np.float32(low) / step) < qmin)
    above = qmax < 127 and (math.isinf(high) or np.rint(np.float32(high) / step) > qmax)
    return (
        np.asarray(np.float32(qmin) * step, np.float32) if below else None,
        np.asarray(np.float32(qmax) * step, np.float32) if above else None,
    )
