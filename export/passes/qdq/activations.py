"""Fake-quantised activations become a Clip where needed, QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from mimiq.config.grid import Grid
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
from mimiq.export.limits import GELU_MIN
from mimiq.export.passes.conditions import (
    ensure_none,
    fake_quantized_weights,
    fake_quantizers,
    require_none,
)

# What an operator's output can be, whatever its input.
_RANGES = {"Softmax": (0.0, 1.0), "Gelu": (GELU_MIN, math.inf), "Relu": (0.0, math.inf)}


class LowerActivations(ir.passes.InPlacePass):
    """FakeQuantize(x) → [Clip] → QuantizeLinear → DequantizeLinear, int8 with zero point 0.

    QuantizeLinear saturates at [-128, 127]. A narrower grid [qmin, qmax] is a Clip of x to
    [qmin·s, qmax·s] before it, on the sides where x could leave the grid: a softmax needs none
    below 0, nor above 1 when 1/s rounds to at most qmax. A grid of two steps has a Q/DQ of its own
    for the coarse one, see :mod:`mimiq.export.patterns.narrowing`.
    """

    def requires(self, model: ir.Model) -> None:
        require_none(fake_quantized_weights(model), "Run LowerWeights first.")

    def ensures(self, model: ir.Model) -> None:
        ensure_none(fake_quantizers(model), "what is quantised has Q/DQ")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        lowered = nodes_of(model, FAKE_QUANTIZE)
        for node in lowered:
            _lower(node)
        return ir.passes.PassResult(model, modified=bool(lowered))


def _lower(node: ir.Node) -> None:
    x, scale_value = operand(node, 0), operand(node, 1)
    scale = array(scale_value)
    name = scale_value.name or "scale"
    grid = _grid(node)
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
    if not -128 <= grid.bottom <= grid.qmin <= 0 <= grid.qmax <= grid.top <= 127:
        raise UnsupportedModel(
            f"The activation behind {name} is quantised to [{grid.bottom}, {grid.top}], which is "
            "no window of INT8 around 0.",
            "Use at most 8 bits and zero point 0.",
        )
    step = np.float32(scale.reshape(()))
    if grid.has_two_steps:
        x = _two_steps(node, x, name, step, grid)
    else:
        x = _clip(node, x, name, *_clip_bounds(x, step, grid.qmin, grid.qmax))
    replace(node, _quantize(node, x, name, step))


def _grid(node: ir.Node) -> Grid:
    return Grid(
        int_attribute(node, "qmin", -128),
        int_attribute(node, "qmax", 127),
        int_attribute(node, "ratio", 1),
        int_attribute(node, "coarse", 0),
        int_attribute(node, "below", 0),
    )


def _two_steps(node: ir.Node, x: ir.Value, name: str, step: np.float32, grid: Grid) -> ir.Value:
    """``x`` cut to the fine part of the grid, plus what lies outside it in coarse steps."""
    fine = _clip(node, x, name, *_ends(grid.qmin, grid.qmax, step))
    wide = np.float32(grid.ratio) * step
    outside = _emit(node, "Sub", [x, fine])
    outside = _clip(node, outside, f"{name}_coarse", *_ends(-grid.below, grid.coarse, wide))
    return _emit(node, "Add", [fine, _quantize(node, outside, f"{name}_coarse", wide)])


def _ends(low: int, high: int, step: np.float32) -> tuple[np.ndarray, np.ndarray]:
    """The values of two integers, as fp32 scalars."""
    least, greatest = (np.asarray(np.float32(end) * step, np.float32) for end in (low, high))
    return least, greatest


def _clip(
    node: ir.Node, x: ir.Value, name: str, low: np.ndarray | None, high: np.ndarray | None
) -> ir.Value:
    if low is None and high is None:
        return x
    bounds = [
        None if bound is None else add_initializer(graph_of(node), f"{name}_{side}", bound)
        for side, bound in (("min", low), ("max", high))
    ]
    return _emit(node, "Clip", [x, *bounds])


def _quantize(node: ir.Node, x: ir.Value, name: str, step: np.float32) -> ir.Value:
    """DequantizeLinear(QuantizeLinear(x)) to int8 with zero point 0."""
    scale = add_initializer(graph_of(node), name, np.asarray(step))
    zero = add_initializer(graph_of(node), f"{name}_zero_point", np.asarray(0, np.int8))
    integers = _emit(node, QUANTIZE, [x, scale, zero], ir.DataType.INT8)
    return _emit(node, DEQUANTIZE, [integers, scale, zero])


def _emit(
    node: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value | None],
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> ir.Value:
    return emit(node, op_type, inputs, dtype=dtype, shape=node.outputs[0].shape)


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
