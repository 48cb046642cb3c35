"""Linears of weight-only networks are multiplied in integers, each row scaled as it comes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mimiq.export.graph import (
    FLOAT,
    QUANTIZE,
    Array,
    add_initializer,
    array,
    drop_if_unused,
    emit,
    graph_of,
    name_node,
    nodes_of,
    operand,
    replace,
)
from mimiq.export.passes.conditions import require_lowered
from mimiq.export.passes.integers.integer_products import CONTRIB, PRODUCT
from mimiq.export.patterns.linears import find_linears
from mimiq.export.patterns.outlier_columns import find_outliers

_TOP = 127
_SMALLEST = np.float32(1e-30)  # what a row of zeros is divided by


class DynamicProducts(ir.passes.InPlacePass):
    """MatMul of a floating-point activation x and INT4 weights W → r · (Q(x / r) · W), where r is
    the largest magnitude in each row of x and Q rounds to uint8.

    ONNX Runtime's kernel for INT4 blocks (``MatMulNBits``, 1.31) multiplies in fp32, and is no
    faster at ``accuracy_level`` 4 where rows are many. A row is one token, so that an answer does
    not depend on what else is in the batch, as it would with ``DynamicQuantizeLinear``. Weights
    stay INT4 in the file, behind nodes that bring blocks of them to INT8 under one scale a
    channel, which ONNX Runtime carries out once, when it loads the graph.

    What this rounds is a sixteenth of what INT4 rounds. So Linears of more bits are left as they
    are, as are graphs with quantised activations, and Linears with outlier columns, whose inputs
    would take the range of all others.
    """

    def requires(self, model: ir.Model) -> None:
        require_lowered(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if nodes_of(model, QUANTIZE):
            return ir.passes.PassResult(model, modified=False)
        found = _matches(model)
        rows: dict[ir.Value, _Rows] = {}
        for product in found:
            _lower(product, rows)
        if found:
            model.opset_imports[CONTRIB] = 1
        return ir.passes.PassResult(model, modified=bool(found))


@dataclass(frozen=True)
class _Product:
    """A MatMul, its weight's DequantizeLinear, scales (K / block or 1, N), and inputs a scale."""

    node: ir.Node
    weight: ir.Node
    scale: Array
    block: int


@dataclass(frozen=True)
class _Rows:
    """An activation in integers, and the largest magnitude of each row."""

    integers: ir.Value
    largest: ir.Value
    step: ir.Value
    zero: ir.Value


def _matches(model: ir.Model) -> list[_Product]:
    apart = {outliers.linear for outliers in find_outliers(model)}
    found = []
    for linear in find_linears(model):
        node, weight, stored, scale = linear.node, linear.weight, linear.stored, linear.scale
        if node.op_type != "MatMul" or node in apart or weight is None:
            continue
        if stored is None or stored.dtype != ir.DataType.INT4 or scale is None:
            continue
        inputs, block = linear.inputs, linear.block_size
        direct = weight.outputs[0] is node.inputs[1] and len(weight.inputs) == 2
        if not direct or inputs is None or (block and inputs % block):
            continue
        if block and scale.ndim == 2 and linear.granularity == f"block {block}":
            found.append(_Product(node, weight, scale, block))
        elif linear.granularity == "per channel":
            found.append(_Product(node, weight, scale.reshape(1, -1), inputs))
    return found


def _lower(product: _Product, rows: dict[ir.Value, _Rows]) -> None:
    node, weight = product.node, product.weight
    graph, x, name = graph_of(node), operand(node, 0), node.name or PRODUCT
    if x not in rows:
        rows[x] = _quantize(node, x, name)
    row = rows[x]
    integers, scale = _channels(product, name)
    zero = add_initializer(graph, f"{name}/zero_point", np.asarray(0, np.int8))
    shape = node.outputs[0].shape
    inputs = [row.integers, integers, row.step, scale, row.zero, zero]
    value = emit(node, PRODUCT, inputs, dtype=FLOAT, shape=shape, domain=CONTRIB)
    name_node(value, name)
    value = emit(node, "Mul", [value, row.largest], dtype=FLOAT, shape=shape)
    name_node(value, f"{name}/rows")
    replace(node, value)
    drop_if_unused(weight)


def _quantize(before: ir.Node, x: ir.Value, name: str) -> _Rows:
    """Nodes that bring each row to [-1, 1] and round it to steps of 1 / 127 about 128."""
    graph = graph_of(before)
    axis = add_initializer(graph, f"{name}/axis", np.asarray([-1], np.int64))
    least = add_initializer(graph, f"{name}/smallest", np.asarray(_SMALLEST))
    step = add_initializer(graph, f"{name}/step", np.asarray(1 / _TOP, np.float32))
    zero = add_initializer(graph, f"{name}/offset", np.asarray(128, np.uint8))
    one = None if x.shape is None else ir.Shape([*x.shape[:-1], 1])

    def add(kind: str, inputs: list[ir.Value], suffix: str, whole: bool = False) -> ir.Value:
        value = emit(before, kind, inputs, dtype=FLOAT, shape=x.shape if whole else one)
        name_node(value, f"{name}/{suffix}")
        return value

    high = add("ReduceMax", [x, axis], "high")
    low = add("Neg", [add("ReduceMin", [x, axis], "low")], "minus_low")
    largest = add("Max", [high, low, least], "largest")
    divided = add("Div", [x, largest], "divided", whole=True)
    integers = emit(before, QUANTIZE, [divided, step, zero], dtype=ir.DataType.UINT8, shape=x.shape)
    name_node(integers, f"{name}/quantized")
    return _Rows(integers, largest, step, zero)


def _channels(product: _Product, name: str) -> tuple[ir.Value, ir.Value]:
    """The weight as int8 (K, N) and its scale (N,)."""
    node, graph = product.node, graph_of(product.node)
    value, scale = operand(product.weight, 0), product.scale
    integers = array(value)
    assert integers is not None
    whole = ir.Shape(integers.shape)
    if len(scale) > 1:
        blocks = ir.Shape([len(scale), product.block, integers.shape[1]])
        largest = np.abs(integers.astype(np.float32)).reshape(blocks.numpy()).max(axis=1)
        channels = np.maximum((largest * scale).max(axis=0) / _TOP, _SMALLEST).astype(np.float32)
        ratios = add_initializer(graph, f"{name}/ratios", (scale / channels)[:, None])
        sizes = [
            add_initializer(graph, f"{name}/{key}", np.asarray(shape.numpy(), np.int64))
            for key, shape in (("blocks", blocks), ("whole", whole))
        ]
        to_float = {"to": ir.AttrInt64("to", FLOAT.value)}
        for kind, others, attributes, shape in (
            ("Cast", [], to_float, whole),
            ("Reshape", sizes[:1], {}, blocks),
            ("Mul", [ratios], {}, blocks),
            ("Round", [], {}, blocks),
            ("Reshape", sizes[1:], {}, whole),
        ):
            value = emit(node, kind, [value, *others], attributes, dtype=FLOAT, shape=shape)
            name_node(value, f"{name}/weight_{kind.lower()}_{len(shape)}d")
    else:
        channels = scale.reshape(-1).astype(np.float32)
    to = {"to": ir.AttrInt64("to", ir.DataType.INT8.value)}
    value = emit(node, "Cast", [value], to, dtype=ir.DataType.INT8, shape=whole)
    name_node(value, f"{name}/weight_int8")
    return value, add_initializer(graph, f"{name}/scale", channels)
