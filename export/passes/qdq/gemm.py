"""Gemm with constant weights becomes MatMul and Add, so that every Linear has one form."""

from __future__ import annotations

import onnx_ir as ir

from mimiq.errors import UnsupportedModel
from mimiq.export.graph import emit, int_attribute, nodes_of, operand, replace
from mimiq.export.passes.conditions import ensure_none


class GemmToMatMul(ir.passes.InPlacePass):
    """The exporter writes a Linear as Gemm on (B, C) input and as MatMul + Add on (B, T, C).

    Raises:
        UnsupportedModel: a Gemm that is no Linear (scaled, or with a transposed input).
    """

    def ensures(self, model: ir.Model) -> None:
        ensure_none(nodes_of(model, "Gemm"), "every Linear is a MatMul")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        gemms = nodes_of(model, "Gemm")
        for node in gemms:
            _rewrite(node)
        return ir.passes.PassResult(model, modified=bool(gemms))


def _rewrite(node: ir.Node) -> None:
    alpha = node.attributes.get("alpha")
    beta = node.attributes.get("beta")
    scaled = any(a is not None and a.as_float() != 1.0 for a in (alpha, beta))
    if scaled or int_attribute(node, "transA", 0):
        raise UnsupportedModel(
            f"Node {node.name} is a Gemm with alpha, beta or transA, which is no Linear layer.",
            "Report this model: its exported form is not known here.",
        )
    x, weight = operand(node, 0), operand(node, 1)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    out = node.outputs[0]
    dtype = out.dtype or ir.DataType.FLOAT
    if int_attribute(node, "transB", 0):
        shape = None if weight.shape is None else ir.Shape(list(weight.shape)[::-1])
        weight = emit(node, "Transpose", [weight], {"perm": [1, 0]}, dtype=dtype, shape=shape)
    product = emit(node, "MatMul", [x, weight], dtype=dtype, shape=out.shape)
    if bias is not None:
        product = emit(node, "Add", [product, bias], dtype=dtype, shape=out.shape)
    replace(node, product)
