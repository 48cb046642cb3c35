"""The Linears of ``model.cpu.onnx``, the form in which a CPU multiplies integers."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from mimiq.export.graph import nodes_of, producer, shape_of
from mimiq.export.passes.integers.integer_products import PRODUCT

# What IntegerProducts and DynamicProducts leave between a stored weight and its product.
_WIDENING = ("Cast", "Reshape", "Mul", "Round")


@dataclass(frozen=True)
class IntegerProduct:
    """A product of integers with a stored weight.

    Attributes:
        node: the product.
        stored: the initialiser that holds its weight, INT4 or INT8.
        ratios: what brings blocks of it to the channels' scales, (K / block, 1, N); None where the
            weight has no blocks.
    """

    node: ir.Node
    stored: ir.Value
    ratios: ir.Value | None

    @property
    def label(self) -> str:
        """``MatMulIntegerToFloat int4 per channel × uint8``, as of any other Linear."""
        scale = self.node.inputs[3]
        data = None if scale is None else scale.const_value
        granularity = "per tensor" if data is not None and data.size == 1 else "per channel"
        ratios, inputs = shape_of(self.ratios), shape_of(self.stored)
        if ratios and inputs and ratios[0] and inputs[0]:
            granularity = f"block {inputs[0] // ratios[0]}"
        weight, activation = (
            "int8" if value is None or value.dtype is None else value.dtype.name.lower()
            for value in (self.stored, self.node.inputs[0])
        )
        return f"{self.node.op_type} {weight} {granularity} × {activation}"


def find_integer_products(model: ir.Model) -> list[IntegerProduct]:
    """Those of the main graph, in order; none in any other form."""
    found = (_find(node) for node in nodes_of(model, PRODUCT))
    return [product for product in found if product is not None]


def _find(node: ir.Node) -> IntegerProduct | None:
    """With the initialiser behind its weight, which is brought to INT8 from narrower integers."""
    value, ratios = node.inputs[1], None
    while (step := producer(value)) is not None and step.op_type in _WIDENING:
        if step.op_type == "Mul":
            ratios = step.inputs[1]
        value = step.inputs[0]
    if value is None or not value.is_initializer():
        return None
    return IntegerProduct(node, value, ratios)
