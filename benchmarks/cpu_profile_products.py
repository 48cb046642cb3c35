"""The products of a graph as :mod:`cpu_profile` takes them out of it: as they are, and bare."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PRODUCTS = ("MatMulIntegerToFloat", "QLinearMatMul", "MatMulNBits", "MatMul", "FusedMatMul", "Gemm")
LINEARS, ATTENTION = "products with weights", "products of attention"
SQUARE, SQUARE_SIDE = "square", 1024
_ELEMENTS = {"float": TensorProto.FLOAT, "uint8": TensorProto.UINT8, "int8": TensorProto.INT8}

Operand = tuple[int, tuple[int, ...]]  # type of elements, shape


@dataclass(frozen=True)
class Product:
    """A product as the network runs it, and how often in this shape."""

    node: onnx.NodeProto
    group: str
    operands: tuple[Operand, Operand]
    count: int

    @property
    def macs(self) -> int:
        """Multiplications of one of them."""
        (_, first), (_, second) = self.operands
        if self.node.op_type == "MatMulNBits":
            sizes = {a.name: a.i for a in self.node.attribute}
            return math.prod(first) * sizes["N"]
        transposed = any(a.name == "transB" and a.i for a in self.node.attribute)
        return math.prod(first) * second[-2 if transposed else -1]

    @property
    def columns(self) -> int:
        return self.macs // math.prod(self.operands[0][1])


def with_weights(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The products with weights, by name."""
    stored = {tensor.name for tensor in graph.initializer}
    return {
        node.name: node
        for node in graph.node
        if node.op_type in PRODUCTS and node.input[_second(node)] in stored
    }


def _second(node: onnx.NodeProto) -> int:
    return 3 if node.op_type == "QLinearMatMul" else 1


def products(graph: onnx.GraphProto, said: Mapping[str, Any]) -> list[Product]:
    """One of each kind, shape and place."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    weighted = with_weights(graph)
    found: dict[Any, Product] = {}
    for node in graph.node:
        if node.op_type not in PRODUCTS:
            continue
        shapes = [next(iter(entry.items())) for entry in said[node.name]["input_type_shape"]]
        group = LINEARS if node.name in weighted else ATTENTION
        first = (_ELEMENTS[shapes[0][0]], tuple(shapes[0][1]))
        if group == LINEARS:  # of weights that were packed the profiler knows no shape
            weight = stored[node.input[_second(node)]]
            second = (weight.data_type, tuple(weight.dims))
        else:
            kind, shape = shapes[_second(node)]
            second = (_ELEMENTS[kind], tuple(shape))
        key = (node.op_type, group, first, second, len(node.input))
        count = found[key].count + 1 if key in found else 1
        found[key] = Product(node, group, (first, second), count)
    return list(found.values())


def alone(graph: onnx.GraphProto, found: Iterable[Product]) -> bytes:
    """A graph of these very nodes, each of an input of its own."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    nodes, inputs, outputs, constants = [], [], [], {}
    for i, product in enumerate(found):
        node = onnx.NodeProto()
        node.CopyFrom(product.node)
        node.name, node.output[0] = f"{i}", f"{i}/out"
        for place, (kind, shape) in zip((0, _second(node)), product.operands, strict=True):
            if node.input[place] not in stored:
                node.input[place] = f"{i}/in{place}"
                inputs.append(helper.make_tensor_value_info(node.input[place], kind, shape))
        constants |= {name: stored[name] for name in node.input if name in stored}
        result = TensorProto.UINT8 if node.op_type == "QLinearMatMul" else TensorProto.FLOAT
        outputs.append(helper.make_tensor_value_info(node.output[0], result, None))
        nodes.append(node)
    return _model(nodes, inputs, outputs, list(constants.values()))


def bare(found: Iterable[Product]) -> bytes:
    """A graph of ``MatMulInteger`` of their shapes, and of the square one."""
    generator = np.random.default_rng(0)
    nodes, inputs, outputs, constants = [], [], [], []
    shapes = {f"{i}": (p.group, p.operands[0][1], p.columns) for i, p in enumerate(found)}
    shapes[SQUARE] = (LINEARS, (SQUARE_SIDE, SQUARE_SIDE), SQUARE_SIDE)
    for name, (group, first, columns) in shapes.items():
        a, b, out = f"{name}/a", f"{name}/b", f"{name}/out"
        inputs.append(helper.make_tensor_value_info(a, TensorProto.UINT8, first))
        second = (first[-1], columns) if group == LINEARS else (*first[:-2], first[-1], columns)
        if group == LINEARS:
            weights = generator.integers(-127, 128, second, np.int8)
            constants.append(numpy_helper.from_array(weights, b))
        else:
            inputs.append(helper.make_tensor_value_info(b, TensorProto.INT8, second))
        outputs.append(helper.make_tensor_value_info(out, TensorProto.INT32, None))
        nodes.append(helper.make_node("MatMulInteger", [a, b], [out], name=name))
    return _model(nodes, inputs, outputs, constants)


def _model(nodes: Any, inputs: Any, outputs: Any, constants: Any) -> bytes:
    graph = helper.make_graph(nodes, "products", inputs, outputs, constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    content: bytes = helper.make_model(
        graph, opset_imports=opsets, ir_version=10
    ).SerializeToString()
    return content
