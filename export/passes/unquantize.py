"""A quantised graph in floating point again."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mimiq.errors import UnsupportedModel
from mimiq.export.graph import (
    DEQUANTIZE,
    QUANTIZE,
    Array,
    add_initializer,
    array,
    graph_of,
    int_attribute,
    nodes_of,
    operand,
    producer,
    replace,
)
from mimiq.export.narrowing import narrowing


class Unquantize(ir.passes.InPlacePass):
    """Weights become the numbers that their integers stand for; Q/DQ of activations goes.

    What is left computes what the quantised graph does, but for the rounding and clipping of
    activations: the network to hold its speed against.

    Raises:
        UnsupportedModel: for integers that are computed otherwise than by QuantizeLinear.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = nodes_of(model, DEQUANTIZE)
        for node in reversed(found):  # what a coarse step's own Q/DQ belong to comes behind them
            quantizer = producer(node.inputs[0], QUANTIZE)
            if quantizer is not None:
                narrow = narrowing(quantizer)
                replace(node, operand(narrow.clip if narrow else quantizer, 0))
                continue
            integers, scale = array(node.inputs[0]), array(node.inputs[1])
            if integers is None or scale is None:
                raise UnsupportedModel(
                    f"{node.name} reads neither a constant nor a QuantizeLinear.",
                    "Export the model with mimiq.",
                )
            name = f"{operand(node, 0).name}_float"
            values = integers.astype(np.float32) * _spread(node, scale, integers)
            replace(node, add_initializer(graph_of(node), name, values.astype(np.float32)))
        return ir.passes.PassResult(model, modified=bool(found))


def _spread(node: ir.Node, scale: Array, integers: Array) -> Array:
    """The scale in a shape that broadcasts against its integers."""
    if scale.size == 1:
        return scale.reshape(())
    axis = int_attribute(node, "axis", 1) % integers.ndim
    block = int_attribute(node, "block_size", 0)
    if block:
        return np.repeat(scale, block, axis=axis)
    return scale.reshape([-1 if dim == axis else 1 for dim in range(integers.ndim)])
