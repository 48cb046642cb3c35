"""Where the Linears and convolutions of a graph are, and in what precision they are stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mimiq.export.graph import (
    DEQUANTIZE,
    Array,
    array,
    constant,
    consumers,
    int_attribute,
    nodes_of,
    producer,
    shape_of,
)
from mimiq.export.patterns.attention import activation_qdq


@dataclass(frozen=True)
class Linear:
    """A MatMul, Gemm or Conv with stored weights.

    Attributes:
        node: the product.
        weight: the DequantizeLinear of its integer weights, or None for floating-point weights.
        activation: the DequantizeLinear(QuantizeLinear(·)) of its input, or None.
        output_axis: the axis of the stored weight that is an output channel.
    """

    node: ir.Node
    weight: ir.Node | None
    activation: ir.Node | None
    output_axis: int

    @property
    def name(self) -> str:
        return self.node.name or ""

    @property
    def stored(self) -> ir.Value | None:
        """The initialiser that holds the weight (integers where quantised)."""
        return _stored(self.node) if self.weight is None else self.weight.inputs[0]

    @property
    def scale(self) -> Array | None:
        return None if self.weight is None else array(self.weight.inputs[1])

    @property
    def block_size(self) -> int:
        """Elements of K a scale; 0 where scales are not block-wise."""
        return 0 if self.weight is None else int_attribute(self.weight, "block_size", 0)

    @property
    def granularity(self) -> str:
        """``float``, ``per tensor``, ``per channel``, ``block N``, or ``along K``."""
        if self.weight is None:
            return "float"
        scale = self.scale
        if scale is not None and scale.size == 1 and not self.block_size:
            return "per tensor"
        stored = shape_of(self.stored)
        rank = 2 if stored is None else len(stored)
        axis = int_attribute(self.weight, "axis", 1) % rank
        if self.block_size:
            return f"block {self.block_size}" if axis != self.output_axis else "along K"
        return "per channel" if axis == self.output_axis else "along K"

    @property
    def ratios(self) -> ir.Value | None:
        """What each channel's scale is of the weight's one scale, multiplied behind the product.

        As :class:`~mimiq.export.passes.half.split_scales.SplitWeightScales` leaves it; else None.
        """
        readers = consumers(self.node.outputs[0], "Mul")
        if self.granularity != "per tensor" or len(readers) != 1:
            return None
        value = readers[0].inputs[1]
        data = array(value)
        return value if data is not None and data.ndim == 1 else None

    @property
    def inputs(self) -> int | None:
        """K: how many products are summed for one output."""
        shape = shape_of(self.stored)
        if shape is None or any(dim is None for dim in shape):
            return None
        size = 1
        for axis, dim in enumerate(shape):
            size *= 1 if axis == self.output_axis or dim is None else dim
        return size

    @property
    def largest_sum(self) -> float | None:
        """The largest sum of integers that any int8 input gives: 128 · max over channels of Σ|w|.

        Exact, as an input may be -128 at every negative weight. None where weights are not stored
        as integers.
        """
        integers = None if self.weight is None else array(self.stored)
        if integers is None:
            return None
        axes = tuple(axis for axis in range(integers.ndim) if axis != self.output_axis)
        return 128.0 * float(np.abs(integers.astype(np.int64)).sum(axis=axes).max())

    @property
    def largest_output(self) -> float | None:
        """As :attr:`largest_sum`, under the activation's scale and the weight's largest."""
        step = None if self.activation is None else array(self.activation.inputs[1])
        if self.largest_sum is None or self.scale is None or step is None:
            return None
        return self.largest_sum * float(step.max()) * float(self.scale.max())


def find_linears(model: ir.Model) -> list[Linear]:
    """Every product with stored weights in the main graph, in order."""
    found = []
    for node in nodes_of(model, "MatMul", "Gemm", "Conv"):
        if _stored(node) is None:
            continue
        weight, transposed = _weight(node)
        x = node.inputs[0]
        activation = None if x is None else activation_qdq(x)
        output_first = node.op_type == "Conv" or (
            node.op_type == "Gemm" and bool(int_attribute(node, "transB", 0))
        )
        output_axis = 0 if output_first != transposed else 1
        found.append(Linear(node, weight, activation, output_axis))
    return found


def _weight(node: ir.Node) -> tuple[ir.Node | None, bool]:
    """The DequantizeLinear behind the second operand, and whether a Transpose stands between."""
    source, transposed = producer(node.inputs[1]), False
    while source is not None and source.op_type in ("Transpose", "Cast", "Identity"):
        transposed ^= source.op_type == "Transpose"
        source = producer(source.inputs[0])
    is_stored = source is not None and source.op_type == DEQUANTIZE
    return (source if is_stored else None), transposed


def _stored(node: ir.Node) -> ir.Value | None:
    """The initialiser behind the second operand, or None where it is computed."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    source = producer(value)
    while source is not None and source.op_type in ("Transpose", "Cast", "Identity", DEQUANTIZE):
        value = source.inputs[0]
        source = producer(value)
    return value if constant(value) is not None else None
