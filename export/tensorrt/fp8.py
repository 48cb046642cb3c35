"""An int8 Q/DQ graph as FP8 (E4M3), for GPUs from compute capability 8.9 on."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from mimiq.errors import UnsupportedTarget
from mimiq.export.graph import (
    DEQUANTIZE,
    QUANTIZE,
    Array,
    add_initializer,
    array,
    int_attribute,
    nodes_of,
    producer,
)

E4M3 = ml_dtypes.float8_e4m3fn
LARGEST = 448.0  # of E4M3 (OCP 8-bit floating point specification, table 1)


class ToFp8(ir.passes.InPlacePass):
    """Every int8 QuantizeLinear and DequantizeLinear becomes FP8 E4M3 with an adapted scale.

    The largest value that int8 could hold, 127 scales, becomes E4M3's largest, 448 of the new
    scales. Weights are rounded anew from what their int8 form stands for. Convolutions keep int8
    weights, for which no FP8 kernel exists.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        narrow = [node.name for node in nodes_of(model, "Clip") if _feeds_quantizer(node)]
        if narrow:
            raise UnsupportedTarget(
                f"{narrow[0]} limits an activation to fewer than 8 bits, which FP8 cannot express.",
                "Compile with `int8=True` for FP8 targets.",
            )
        modified = False
        for node in nodes_of(model, DEQUANTIZE):
            source = node.inputs[0]
            if source is None or any(use.node.op_type == "Conv" for use in node.outputs[0].uses()):
                continue
            quantizer = producer(source, QUANTIZE)
            kind = source.dtype if quantizer is None else _quantized_type(quantizer)
            if kind == ir.DataType.INT8:
                if quantizer is not None:
                    _convert_activation(quantizer, node)
                else:
                    _convert_weight(node)
                modified = True
            elif kind == ir.DataType.INT4:
                raise UnsupportedTarget(
                    f"{node.name} reads INT4 weights, which no FP8 product takes.",
                    "Compile with `int8=True` for FP8 targets.",
                )
        return ir.passes.PassResult(model, modified=modified)


def _feeds_quantizer(clip: ir.Node) -> bool:
    return any(use.node.op_type == QUANTIZE for use in clip.outputs[0].uses())


def _quantized_type(quantizer: ir.Node) -> ir.DataType | None:
    """What a QuantizeLinear gives, also in a graph without inferred types."""
    if len(quantizer.inputs) > 2 and quantizer.inputs[2] is not None:
        return quantizer.inputs[2].dtype
    return ir.DataType(int_attribute(quantizer, "output_dtype", int(ir.DataType.UINT8)))


def _convert_activation(quantizer: ir.Node, dequantizer: ir.Node) -> None:
    scale = array(quantizer.inputs[1])
    if scale is None:
        raise UnsupportedTarget(
            f"The scale of {quantizer.name} is computed in the graph.", "Export the model again."
        )
    graph = _graph(quantizer)
    name = _name(quantizer.inputs[1], "scale")
    adapted = add_initializer(graph, f"{name}_fp8", (scale * (127 / LARGEST)).astype(scale.dtype))
    zero = add_initializer(graph, f"{name}_fp8_zero_point", np.zeros((), E4M3))
    for node in (quantizer, dequantizer):
        node.attributes.pop("output_dtype", None)
        node.replace_input_with(1, adapted)
        if len(node.inputs) > 2:
            node.replace_input_with(2, zero)
        else:
            node.resize_inputs(3)
            node.replace_input_with(2, zero)
    quantizer.outputs[0].type = ir.TensorType(ir.DataType.FLOAT8E4M3FN)


def _convert_weight(dequantizer: ir.Node) -> None:
    integers, scale = array(dequantizer.inputs[0]), array(dequantizer.inputs[1])
    if integers is None or scale is None:
        raise UnsupportedTarget(
            f"The weight of {dequantizer.name} is not a constant.", "Export the model again."
        )
    axis = int_attribute(dequantizer, "axis", 1) if scale.ndim else -1
    values = integers.astype(np.float32) * _spread(scale, integers.ndim, axis)
    adapted = (scale.astype(np.float32) * (127 / LARGEST)).astype(scale.dtype)
    stored = (values / _spread(adapted, integers.ndim, axis)).clip(-LARGEST, LARGEST).astype(E4M3)
    graph = _graph(dequantizer)
    name = _name(dequantizer.inputs[0], "weight")
    dequantizer.replace_input_with(0, add_initializer(graph, f"{name}_fp8", stored))
    dequantizer.replace_input_with(1, add_initializer(graph, f"{name}_fp8_scale", adapted))
    if len(dequantizer.inputs) > 2 and dequantizer.inputs[2] is not None:
        zero = np.zeros(scale.shape, E4M3)
        zeros = add_initializer(graph, f"{name}_fp8_zero_point", zero)
        dequantizer.replace_input_with(2, zeros)


def _spread(scale: Array, rank: int, axis: int) -> Array:
    """A scale in fp32 and in a shape that broadcasts against its weight."""
    wide: Array = scale.astype(np.float32)
    if wide.size == 1:
        return wide.reshape(())
    return wide.reshape([-1 if dim == axis % rank else 1 for dim in range(rank)])


def _graph(node: ir.Node) -> ir.Graph:
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def _name(value: ir.Value | None, otherwise: str) -> str:
    return (value.name if value is not None else None) or otherwise
