"""Int8 products that write half, safely: one scale inside the product, the rest behind it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mimiq.export.graph import (
    FLOAT,
    HALF,
    add_initializer,
    added_constant,
    array,
    cast_to,
    computes_in_half,
)
from mimiq.export.limits import HALF_MAX, HALF_SMALLEST_NORMAL
from mimiq.export.passes.conditions import require_none
from mimiq.export.patterns.linears import Linear, find_linears


class SplitWeightScales(ir.passes.InPlacePass):
    """Per-channel weight scales become one scale of the tensor and a vector of ratios.

    The builder folds a product's scalar scales into the product itself, and applies a vector only
    to what the product wrote: with scales per channel it writes bare integer sums, which half
    cannot hold, so that a half-precision graph keeps those Linears in fp32
    (:class:`mimiq.export.passes.half.to_half.ToHalf`) and each writes four bytes an element. Here
    ``s_c = s · r_c`` with ``s = max s_c`` rounded to half: the product is scaled by ``s`` and the
    activation's scale, is written as half, and is multiplied by ``r_c`` together with the bias, in
    the kernel that adds it anyway. Measured with TensorRT-RTX 1.7 on DeiT-T: the same 115 kernels
    and fusions as with fp32, and engines for compute capability 7.5, which has no fp32 products.

    A Linear stays in fp32 if its largest scale is too small for half, or if any input could take
    its scaled sums past half's largest number (:attr:`Linear.largest_output`); so do INT4 weights
    and everything that is not such a Linear.
    """

    def requires(self, model: ir.Model) -> None:
        if not computes_in_half(model):
            fitting = (linear.node for linear in find_linears(model) if _fits(linear))
            require_none(fitting, "Run ToHalf first.")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for linear in find_linears(model):
            scale = linear.scale
            if not _fits(linear) or scale is None or scale.max() < HALF_SMALLEST_NORMAL:
                continue
            bound = linear.largest_output
            if bound is not None and bound <= HALF_MAX:
                _split(model.graph, linear, scale.astype(np.float32))
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def _fits(linear: Linear) -> bool:
    stored = linear.stored
    return (
        linear.node.op_type == "MatMul"
        and linear.activation is not None
        and linear.granularity == "per channel"
        and stored is not None
        and stored.dtype == ir.DataType.INT8
        and linear.node.outputs[0].dtype == FLOAT
    )


def _split(graph: ir.Graph, linear: Linear, scale: np.ndarray) -> None:
    node, weight = linear.node, linear.weight
    assert weight is not None
    name = weight.inputs[1].name if weight.inputs[1] is not None else linear.name
    largest = np.asarray(scale.max(), np.float16)
    ratios = (scale / largest.astype(np.float32)).astype(np.float16)

    # The integers, now with one scale in half.
    weight.replace_input_with(1, add_initializer(graph, f"{name}_largest", largest))
    weight.attributes.pop("axis", None)
    _set_type(weight.outputs[0], HALF)
    if node.inputs[0] is not None:
        node.replace_input_with(0, _cast(graph, node.inputs[0], HALF, before=node))
    _set_type(node.outputs[0], HALF)

    # What is left of each channel's scale.
    product = node.outputs[0]
    readers = [(use.node, use.idx) for use in product.uses()]
    multiply = ir.node("Mul", [product, add_initializer(graph, f"{name}_ratios", ratios)])
    multiply.name = f"{linear.name}/scale"
    multiply.metadata_props.update(node.metadata_props)
    result = multiply.outputs[0]
    result.name, result.shape = multiply.name, product.shape
    _set_type(result, HALF)
    for reader, index in readers:
        reader.replace_input_with(index, result)
    graph.insert_after(node, multiply)

    bias = added_constant(result)
    if bias is not None:
        add, value = bias
        data = array(value)
        assert data is not None
        copy = add_initializer(graph, f"{value.name}_half", data.astype(np.float16))
        add.replace_input_with(list(add.inputs).index(value), copy)
        result = add.outputs[0]
        _set_type(result, HALF)
    _hand_on(graph, result)


def _hand_on(graph: ir.Graph, result: ir.Value) -> None:
    """Readers wanted fp32: casts to half fall away, others get a cast."""
    others: list[tuple[ir.Node, int]] = []
    for use in list(result.uses()):
        reader = use.node
        if reader.op_type == "Cast" and reader.outputs[0].dtype == HALF:
            if reader.outputs[0].is_graph_output():
                continue
            reader.outputs[0].replace_all_uses_with(result)
            graph.remove(reader, safe=True)
        else:
            others.append((reader, use.idx))
    source = result.producer()
    if (others or result.is_graph_output()) and source is not None:
        # Readers of the half value came from the casts above; those that were fp32 need it back.
        for reader, index in others:
            reader.replace_input_with(index, _cast(graph, result, FLOAT, before=reader))
        if result.is_graph_output():
            _keep_output(graph, result)


def _keep_output(graph: ir.Graph, result: ir.Value) -> None:
    """A graph output stays fp32 under its name."""
    index = list(graph.outputs).index(result)
    name, result.name = result.name, f"{result.name}/half"
    cast = cast_to(result, FLOAT, f"{name}/to_float")
    cast.outputs[0].name = name
    graph.append(cast)
    graph.outputs[index] = cast.outputs[0]


def _cast(graph: ir.Graph, value: ir.Value, wanted: ir.DataType, before: ir.Node) -> ir.Value:
    node = cast_to(value, wanted, f"{before.name}/{value.name}/to_{wanted.name.lower()}")
    graph.insert_before(before, node)
    return node.outputs[0]


def _set_type(value: ir.Value, dtype: ir.DataType) -> None:
    value.type = ir.TensorType(dtype)
