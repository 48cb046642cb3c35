"""The half-precision form of a graph, for TensorRT's strongly typed networks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mimiq.errors import UnsupportedModel
from mimiq.export.graph import (
    DEQUANTIZE,
    FLOAT,
    HALF,
    QUANTIZE,
    Array,
    add_initializer,
    added_constant,
    array,
    cast_to,
    consumers,
    nodes_of,
)
from mimiq.export.limits import HALF_MAX
from mimiq.export.passes.conditions import ensure_none, require_lowered
from mimiq.export.patterns.linears import find_linears
from mimiq.export.patterns.narrowing import narrowing
from mimiq.export.patterns.outlier_columns import find_outliers

# Operators that mean the same in half precision, those on shapes and integers included.
# fmt: off
_KNOWN = frozenset([
    "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Conv", "DequantizeLinear",
    "Div", "Erf", "Expand", "Flatten", "Gather", "Gelu", "Gemm", "GroupNormalization",
    "Identity", "LayerNormalization", "MatMul", "MaxPool", "Mul", "Pad", "Pow", "QuantizeLinear",
    "Reciprocal", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Shape", "Sigmoid", "Slice",
    "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Swish", "Tanh",
    "Transpose", "Unsqueeze",
])
# fmt: on


class ToHalf(ir.passes.InPlacePass):
    """fp16 throughout, except around integers, where numbers grow large or scales must be exact.

    Every QuantizeLinear of an activation, its Clip and its DequantizeLinear stay fp32 with fp32
    scales; so do the product of a quantised activation with a quantised weight and its bias. Such a
    Linear builds as int8 × int8 → float: in half precision its integer sums, up to K·127², would
    pass 65504 before the scale brings them down. The products inside attention are half, as INT8
    attention fuses only then. Weight-only layers are half with half scales. So are products of
    outlier columns where no image can take them past 65504; others stay fp32.

    The input ``images`` and the output ``logits`` stay float32.

    Raises:
        UnsupportedModel: for an operator unknown here, a subgraph, or a constant that half
            precision cannot hold.
    """

    def requires(self, model: ir.Model) -> None:
        require_lowered(model)

    def ensures(self, model: ir.Model) -> None:
        makers = (v.producer() for v in model.graph.outputs if v.dtype == HALF)
        ensure_none((node for node in makers if node is not None), "outputs stay float32")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        _check(model)
        single = _float_nodes(model)
        converted = _Conversions(model.graph)
        for node in nodes_of(model):
            wanted = FLOAT if node in single else HALF
            for index, value in enumerate(node.inputs):
                if value is not None and value.dtype in (FLOAT, HALF):
                    node.replace_input_with(index, converted.to(value, wanted))
            for output in node.outputs:
                if output.dtype == FLOAT:
                    output.type = ir.TensorType(wanted)
        for index, output in enumerate(model.graph.outputs):
            if output.dtype == HALF:
                name = output.name
                output.name = f"{name}/half"
                cast = converted.to(output, FLOAT)
                cast.name = name
                model.graph.outputs[index] = cast
        return ir.passes.PassResult(model, modified=True)


class _Conversions:
    """Values in the other precision, each made once: a copy of a constant, or a Cast."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def to(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        if value.dtype == wanted:
            return value
        key = (value, wanted)
        if key not in self.made:
            data = array(value)
            self.made[key] = self._cast(*key) if data is None else self._copy(value, data)
        return self.made[key]

    def _copy(self, value: ir.Value, data: Array) -> ir.Value:
        # Half precision has infinities too: max pooling is padded with them.
        largest = float(np.abs(data[np.isfinite(data)]).max(initial=0))
        if largest > HALF_MAX:
            raise UnsupportedModel(
                f"{value.name} holds {largest:g}, which half precision cannot.",
                "Build an fp32 engine for this model.",
            )
        copy = data.astype(np.float16)
        scales = any(reader.op_type == DEQUANTIZE for reader in consumers(value))
        if scales and not copy.all():
            raise UnsupportedModel(
                f"{value.name} holds a weight scale that is 0 in half precision.",
                "Quantise that layer per channel with activations, or build an fp32 engine.",
            )
        return add_initializer(self.graph, value.name or "constant", copy)

    def _cast(self, value: ir.Value, wanted: ir.DataType) -> ir.Value:
        node = cast_to(value, wanted, f"{value.name}/to_{wanted.name.lower()}")
        source = value.producer()
        if source is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(source, node)
        return node.outputs[0]


def _check(model: ir.Model) -> None:
    for node in model.graph:
        integer_cast = node.op_type == "Cast" and node.outputs[0].dtype not in (FLOAT, HALF)
        if node.domain not in ("", "ai.onnx") or not (node.op_type in _KNOWN or integer_cast):
            raise UnsupportedModel(
                f"Node {node.name} is a {node.op_type}, whose half-precision form is not known.",
                "Build an fp32 engine for this model, or export it with mimiq.",
            )
        for value in node.outputs:
            if value.dtype in (HALF, ir.DataType.BFLOAT16, ir.DataType.DOUBLE):
                raise UnsupportedModel(
                    f"{value.name} is {value.dtype.name.lower()} already.",
                    "Convert the fp32 graph.",
                )
            if value.dtype is None:
                raise UnsupportedModel(
                    f"The type of {value.name} is not recorded in the graph.",
                    "Run ONNX shape inference on the model first.",
                )


def _float_nodes(model: ir.Model) -> set[ir.Node]:
    """The nodes that stay fp32."""
    single: set[ir.Node] = set()
    for quantize in nodes_of(model, QUANTIZE):
        narrow = narrowing(quantize)
        single |= {quantize, *consumers(quantize.outputs[0], DEQUANTIZE)}
        if narrow is not None:
            single.update(narrow.nodes)
    for linear in find_linears(model):
        if linear.activation is not None and linear.weight is not None:
            bias = added_constant(linear.node.outputs[0])
            single |= {linear.node, linear.weight, *(() if bias is None else (bias[0],))}
    for outliers in find_outliers(model):
        bound = outliers.largest_sum
        if bound is None or bound > HALF_MAX:
            single |= set(outliers.nodes)
    return single
