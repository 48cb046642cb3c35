"""Transposes move from behind a quantiser to before it."""

from __future__ import annotations

import onnx_ir as ir

from mimiq.export.graph import (
    FAKE_QUANTIZE,
    array,
    consumers,
    drop_if_unused,
    emit,
    nodes_of,
    operand,
    producer,
    replace,
)
from mimiq.export.passes.conditions import require_none, weight_transposes


class TransposeBeforeQuantize(ir.passes.InPlacePass):
    """Transpose(FakeQuantize(x)) → FakeQuantize(Transpose(x)) for activations.

    With one scale a tensor the two are equal. The Q/DQ of kᵀ then stands right at its product,
    where a runtime looks for it; ONNX Runtime 1.31 fails to load the other order at full
    optimisation (it puts a second Q/DQ pair behind the Transpose, and gives it no zero point).
    """

    def requires(self, model: ir.Model) -> None:
        require_none(weight_transposes(model), "Run FoldWeightTransposes first.")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in nodes_of(model, "Transpose"):
            modified |= _swap(node)
        return ir.passes.PassResult(model, modified=modified)


def _swap(node: ir.Node) -> bool:
    quantizer = producer(node.inputs[0], FAKE_QUANTIZE)
    if quantizer is None or array(quantizer.inputs[0]) is not None:
        return False  # no quantiser, or a weight
    if len(consumers(quantizer.outputs[0])) != 1:
        return False
    x, scale = operand(quantizer, 0), operand(quantizer, 1)
    out = node.outputs[0]
    dtype = out.dtype or ir.DataType.FLOAT
    moved = emit(
        quantizer,
        "Transpose",
        [x],
        dict(node.attributes),
        dtype=dtype,
        shape=out.shape,
        origin=node,
    )
    quantized = emit(
        quantizer,
        FAKE_QUANTIZE,
        [moved, scale],
        dict(quantizer.attributes),
        dtype=dtype,
        shape=out.shape,
        domain=quantizer.domain,
    )
    replace(node, quantized)
    drop_if_unused(quantizer)
    return True
