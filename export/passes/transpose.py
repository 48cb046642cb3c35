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
    emit,
    int_attribute,
    nodes_of,
    producer,
    replace,
)


class FoldWeightTransposes(ir.passes.InPlacePass):
    """Transpose(W) and Transpose(FakeQuantize(W)) become constants stored transposed.

    torch keeps a Linear's weight as [N, K] (out, in) and transposes it in the graph; MatMul wants
    [K, N], and so do the kernels that take quantised weights. The quantiser's axis moves along.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in nodes_of(model, "Transpose"):
            modified |= _fold(node)
        return ir.passes.PassResult(model, modified=modified)


def _fold(node: ir.Node) -> bool:
    source = node.inputs[0]
    assert source is not None and node.graph is not None
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    quantizer = producer(source, FAKE_QUANTIZE)
    weight = source if quantizer is None else quantizer.inputs[0]
    data = array(weight)
    if data is None or weight is None:
        return False
    perm = node.attributes["perm"].as_ints() if "perm" in node.attributes else range(data.ndim)[::-1]
    perm = [int(axis) for axis in perm]
    folded = add_initializer(
        graph, weight.name or "weight", np.ascontiguousarray(np.transpose(data, perm))
    )
    if quantizer is None:
        replace(node, folded)
        return True

    axis = int_attribute(quantizer, "axis", -1)
    block_size = int_attribute(quantizer, "block_size", 0)
    scale = quantizer.inputs[1]
    if block_size:
        scales = array(scale)
        if scales is None or scales.ndim != data.ndim or scale is None:
            raise UnsupportedModel(
                f"The block scales of {weight.name} are no constant of the weight's rank.",
                "Freeze the quantisers (mimiq.fake_quant.freeze) before export.",
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
    return True
