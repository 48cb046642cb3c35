"""4-bit weights that stay 4 bits in the file, and are INT8 for whoever multiplies them."""

from __future__ import annotations

import onnx_ir as ir

from mimiq.export.graph import consumers, emit, name_node
from mimiq.export.passes.conditions import require_lowered
from mimiq.export.patterns.linears import find_linears


class CastInt4(ir.passes.InPlacePass):
    """INT4 weights that meet quantised activations → Cast to INT8 behind them; the same values.

    For OpenVINO, which carries the Cast out once, when it compiles the graph, and then multiplies
    in integers; of INT4 weights it makes bfloat16 or float32 (2026.4). Weight-only layers stay.
    """

    def requires(self, model: ir.Model) -> None:
        require_lowered(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for linear in find_linears(model):
            stored, weight = linear.stored, linear.weight
            if linear.activation is None or linear.block_size or stored is None or weight is None:
                continue
            if stored.dtype == ir.DataType.INT4 and len(weight.inputs) == 2:
                to = {"to": ir.AttrInt64("to", ir.DataType.INT8.value)}
                first = consumers(stored)[0]
                wide = emit(first, "Cast", [stored], to, dtype=ir.DataType.INT8, shape=stored.shape)
                name_node(wide, f"{stored.name}/int8")
                weight.replace_input_with(0, wide)
                modified = True
        return ir.passes.PassResult(model, modified=modified)
