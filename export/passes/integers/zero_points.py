"""Zero points of weights are written out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mimiq.export.graph import DEQUANTIZE, add_initializer, array, graph_of, nodes_of, operand
from mimiq.export.passes.conditions import require_lowered


class ExplicitZeroPoints(ir.passes.InPlacePass):
    """DequantizeLinear of int8 weights without a zero point gets zeros.

    ONNX Runtime's rewrite for exact sums (``session.x64quantprecision``) makes such weights
    unsigned, and fails where no zero point stands to be moved.
    """

    def requires(self, model: ir.Model) -> None:
        require_lowered(model)

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
