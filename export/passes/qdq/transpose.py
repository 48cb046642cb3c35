"""Transposes of constant weights are carried out, before quantisation as after it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mimiq.errors import UnsupportedModel
from mimiq.export.graph import (
    DOMAIN,
    FAKE_QUANTIZE,
    add_initializer,
    array,
    drop_if_unused,
    emit,
    graph_of,
    int_attribute,
    nodes_of,
    operand,
    producer,
    replace,
    take_place,
)
from mimiq.export.passes.conditions import ensure_none, require_none, weight_transposes


class FoldWeightTransposes(ir.passes.InPlacePass):
    """Transpose(W) and Transpose(FakeQuantize(W)) become constants stored transposed.

    torch keeps a Linear's weight as [N, K] (out, in) and transposes it in the graph; MatMul wants
    [K, N], and so do the kernels that take quantised weights. The quantiser's axis moves along.
    """

    def requires(self, model: ir.Model) -> None:
        require_none(nodes_of(model, "Gemm"), "Run GemmToMatMul first.")

    def ensures(self, model: ir.Model) -> None:
        ensure_none(weight_transposes(model), "weights are stored as they are multiplied")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in nodes_of(model, "Transpose"):
            modified |= _fold(node)
        return ir.passes.PassResult(model, modified=modified)


def _fold(node: ir.Node) -> bool:
    source, graph = operand(node, 0), graph_of(node)
    quantizer = producer(source, FAKE_QUANTIZE)
    weight = source if quantizer is None else operand(quantizer, 0)
    data = array(weight)
    if data is None:
        return False
    order = node.attributes.get("perm")
    perm = list(range(data.ndim))[::-1] if order is None else list(order.as_ints())
    folded = add_initializer(
        graph, weight.name or "weight", np.ascontiguousarray(np.transpose(data, perm))
    )
    if quantizer is None:
        replace(node, folded)
        take_place(folded, weight)
        return True

    axis = int_attribute(quantizer, "axis", -1)
    block_size = int_attribute(quantizer, "block_size", 0)
    scale = operand(quantizer, 1)
    if block_size:
        scales = array(scale)
        if scales is None or scales.ndim != data.ndim:
            raise UnsupportedModel(
                f"The block scales of {weight.name} are no constant of the weight's rank.",
                "Freeze the quantisers (mimiq.quantize.layers.freeze) before export.",
            )
        scale = add_initializer(
            graph, scale.name or "scale", np.ascontiguousarray(np.transpose(scales, perm))
        )
    attributes = {
        "qmin": int_attribute(quantizer, "qmin", -128),
        "qmax": int_attribute(quantizer, "qmax", 127),
        "axis": perm.index(axis) if axis >= 0 else -1,
        "block_size": block_size,
    }
    output = emit(
        node,
        FAKE_QUANTIZE,
        [folded, scale],
        attributes,
        dtype=ir.DataType.FLOAT,
        shape=folded.shape,
        origin=quantizer,
        domain=DOMAIN,
    )
    replace(node, output)
    drop_if_unused(quantizer)
    take_place(folded, weight)
    return True
