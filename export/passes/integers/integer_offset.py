"""A constant that is taken from an activation before it is quantised goes into the zero point."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mimiq.export.graph import (
    QUANTIZE,
    add_initializer,
    array,
    consumers,
    graph_of,
    nodes_of,
    operand,
    producer,
)
from mimiq.export.passes.conditions import require_none
from mimiq.export.passes.integers.integer_products import PRODUCT, float_products


class FoldOffsets(ir.passes.InPlacePass):
    """Quantize(x - k·s; s, z) → Quantize(x; s, z - k), for uint8 that integer products alone read.

    The products keep their own zero point z, so they still compute with x - k·s. Spares a pass over
    memory; TensorRT, which takes no zero point, fuses the subtraction instead.
    """

    def requires(self, model: ir.Model) -> None:
        require_none(float_products(model), "Run IntegerProducts first.")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        folded = [_fold(node) for node in nodes_of(model, QUANTIZE)]
        return ir.passes.PassResult(model, modified=any(folded))


def _fold(quantize: ir.Node) -> bool:
    subtraction = producer(quantize.inputs[0], "Sub")
    zero = array(quantize.inputs[2]) if len(quantize.inputs) > 2 else None
    scale = array(quantize.inputs[1])
    if subtraction is None or zero is None or scale is None or scale.size != 1:
        return False
    offset = array(subtraction.inputs[1])
    readers = consumers(quantize.outputs[0])
    if zero.dtype != np.uint8 or offset is None or offset.size != 1:
        return False
    if any(reader.op_type != PRODUCT for reader in readers):
        return False
    steps = float(offset.reshape(()) / scale.reshape(()))
    moved = int(zero.reshape(())) - round(steps)
    if abs(steps - round(steps)) > 1e-3 or not 0 <= moved <= 255:
        return False
    name = quantize.inputs[2].name if quantize.inputs[2] is not None else "zero_point"
    point = add_initializer(graph_of(quantize), f"{name}/moved", np.asarray(moved, np.uint8))
    quantize.replace_input_with(0, operand(subtraction, 0))
    quantize.replace_input_with(2, point)
    if not consumers(subtraction.outputs[0]):
        graph_of(subtraction).remove(subtraction, safe=True)
    return True
