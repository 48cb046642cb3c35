"""Activations become uint8 where they are the first operand of a product."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from mimiq.export.graph import (
    DEQUANTIZE,
    QUANTIZE,
    add_initializer,
    array,
    consumers,
    graph_of,
    nodes_of,
    operand,
)
from mimiq.export.passes.conditions import ensure_none, require_lowered
from mimiq.export.patterns.attention import activation_qdq

_OFFSET = np.uint8(128)


class UnsignedActivations(ir.passes.InPlacePass):
    """int8 activations with zero point 0 become uint8 with zero point 128; the same numbers.

    x86 multiplies unsigned by signed bytes (vpmaddubsw, vpdpbusd, AMX). So the first operand of a
    product is made unsigned; the second, if it is an activation as well, stays signed.
    """

    def requires(self, model: ir.Model) -> None:
        require_lowered(model)

    def ensures(self, model: ir.Model) -> None:
        ensure_none(signed_activations(model), "first operands are unsigned")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = list(signed_activations(model))
        for quantize in found:
            _offset(quantize)
        return ir.passes.PassResult(model, modified=bool(found))


def signed_activations(model: ir.Model) -> Iterator[ir.Node]:
    """The QuantizeLinears to int8 that can be made unsigned."""
    second = {
        dequantize
        for product in nodes_of(model, "MatMul")
        if (dequantize := activation_qdq(operand(product, 1))) is not None
    }
    for quantize in nodes_of(model, QUANTIZE):
        readers = consumers(quantize.outputs[0])
        zero = array(quantize.inputs[2]) if len(quantize.inputs) > 2 else None
        symmetric = zero is not None and zero.dtype == np.int8 and not zero.any()
        plain = all(node.op_type == DEQUANTIZE and len(node.inputs) > 2 for node in readers)
        if symmetric and plain and not second.intersection(readers):
            yield quantize


def _offset(quantize: ir.Node) -> None:
    zero = operand(quantize, 2)
    moved = add_initializer(graph_of(quantize), f"{zero.name}/uint8", np.asarray(_OFFSET))
    quantize.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    for node in (quantize, *consumers(quantize.outputs[0])):
        node.replace_input_with(2, moved)
