"""The Linears of ``model.cpu.onnx``, the form in which a CPU multiplies integers."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from mimiq.export.graph import nodes_of, producer
from mimiq.export.passes.integers.integer_products import PRODUCT


@dataclass(frozen=True)
class IntegerProduct:
    """A product of integers with a stored weight.

    Attributes:
        node: the product.
        stored: the initialiser that holds its weight, INT4 or INT8.
    """

    node: ir.Node
    stored: ir.Value

    @property
    def label(self) -> str:
        """``MatMulIntegerToFloat int4 per channel × int8``, as of any other Linear."""
        scale = self.node.inputs[3]
        data = None if scale is None else scale.const_value
        granularity = "per tensor" if data is not None and data.size == 1 else "per channel"
        weight, activation = (
            "int8" if value is None or value.dtype is None else value.dtype.name.lower()
            for value in (self.stored, self.node.inputs[0])
        )
        return f"{self.node.op_type} {weight} {granularity} × {activation}"


def find_integer_products(model: ir.Model) -> list[IntegerProduct]:
    """Those of the main graph, in order; none in any other form."""
    found = ((node, _stored(node.inputs[1])) for node in nodes_of(model, PRODUCT))
    return [IntegerProduct(node, stored) for node, stored in found if stored is not None]


def _stored(value: ir.Value | None) -> ir.Value | None:
    """The initialiser behind a weight, which is widened from INT4 where it is stored so."""
    widening = producer(value, "Cast")
    value = value if widening is None else widening.inputs[0]
    return value if value is not None and value.is_initializer() else None
