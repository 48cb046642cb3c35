"""4-bit weights stored as INT8: the same values for kernels that take no INT4."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mimiq.errors import UnsupportedModel
from mimiq.export.graph import DEQUANTIZE, array, consumers, int_attribute, nodes_of


class Int4ToInt8Carrier(ir.passes.InPlacePass):
    """INT4 initialisers with a scale a channel become INT8 initialisers of equal value.

    TensorRT-RTX 1.7 takes INT4 weights with int8 activations, but unpacks them to int8 in memory by
    a kernel of its own before every product; the carrier costs twice the bytes and no such kernel.
    ONNX Runtime's CPU has integer kernels for INT8 weights alone. Block-wise weights stay INT4:
    their kernels are made for it.

    Raises:
        UnsupportedModel: for INT4 integers that are not read by DequantizeLinear alone.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        done: set[ir.Value] = set()
        for node in nodes_of(model, DEQUANTIZE):
            stored = node.inputs[0]
            if stored is None or stored.dtype != ir.DataType.INT4 or stored in done:
                continue
            integers = array(stored)
            readers = consumers(stored)
            if integers is None or any(
                r.op_type != DEQUANTIZE or len(r.inputs) > 2 for r in readers
            ):
                raise UnsupportedModel(
                    f"Node {node.name} dequantises INT4 that is no plain stored weight.",
                    "Export the model with mimiq.",
                )
            if any(int_attribute(reader, "block_size", 0) for reader in readers):
                continue
            stored.const_value = ir.tensor(integers.astype(np.int8), name=stored.name)
            stored.type = ir.TensorType(ir.DataType.INT8)
            done.add(stored)
        return ir.passes.PassResult(model, modified=bool(done))
