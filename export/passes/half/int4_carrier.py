"""4-bit weights stored as INT8: the same values for kernels that take no INT4."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mimiq.errors import UnsupportedModel
from mimiq.export.graph import DEQUANTIZE, array, consumers
from mimiq.export.passes.conditions import require_lowered
from mimiq.export.patterns.linears import find_linears


class Int4ToInt8Carrier(ir.passes.InPlacePass):
    """INT4 weights that meet quantised activations become INT8 initialisers of equal value.

    TensorRT-RTX 1.7 takes INT4 weights with int8 activations, but unpacks them to int8 in memory by
    a kernel of its own before every product; the carrier costs twice the bytes and no such kernel.
    ONNX Runtime's CPU multiplies in integers only with INT8 weights. Weight-only layers stay INT4:
    their kernels are made for it.

    Raises:
        UnsupportedModel: for INT4 integers that are not read by DequantizeLinear alone, or that
            have a zero point.
    """

    def requires(self, model: ir.Model) -> None:
        require_lowered(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for linear in find_linears(model):
            stored = linear.stored
            if linear.activation is None or linear.block_size or stored is None:
                continue
            if stored.dtype != ir.DataType.INT4:
                continue
            _widen(stored)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _widen(stored: ir.Value) -> None:
    integers = array(stored)
    readers = consumers(stored)
    if integers is None or any(r.op_type != DEQUANTIZE or len(r.inputs) > 2 for r in readers):
        raise UnsupportedModel(
            f"The INT4 weight {stored.name} is not a symmetric one read by DequantizeLinear alone.",
            "Export the model with mimiq.",
        )
    stored.const_value = ir.tensor(integers.astype(np.int8), name=stored.name)
    stored.type = ir.TensorType(ir.DataType.INT8)
