"""Quantised weights of a convolution in floating point, where only its weight is quantised."""

from __future__ import annotations

import onnx_ir as ir

from mimiq.export.graph import add_initializer, drop_if_unused, graph_of, take_place
from mimiq.export.passes.conditions import require_lowered
from mimiq.export.patterns.linears import find_linears
from mimiq.export.patterns.stored import dequantized


class DequantizeConvWeights(ir.passes.InPlacePass):
    """The patch embedding's INT8 weight becomes the fp32 numbers it stands for.

    Its input is the image itself, in floating point, so that it multiplies in floating point
    whatever its weight is stored as. TensorRT-RTX 1.7 has no kernel for such a pair: one of its own
    widens the stored weight at every inference, before the product. A convolution whose input is
    quantised too stays as it is.
    """

    def requires(self, model: ir.Model) -> None:
        require_lowered(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for linear in find_linears(model):
            weight, stored = linear.weight, linear.stored
            if linear.node.op_type != "Conv" or linear.activation is not None or weight is None:
                continue
            values = dequantized(weight)
            if stored is None or values is None or linear.block_size:
                continue
            floats = add_initializer(graph_of(weight), f"{stored.name}_float", values)
            weight.outputs[0].replace_all_uses_with(floats)
            drop_if_unused(weight)
            take_place(floats, stored)
            modified = True
        return ir.passes.PassResult(model, modified=modified)
