"""Dead nodes, unused initialisers, and casts and pads that change nothing are removed."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common

from mimiq.export.graph import array, nodes_of, replace


class Clean(ir.passes.InPlacePass):
    """Leaves only what contributes to the outputs."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in nodes_of(model, "Cast"):
            source = node.inputs[0]
            if source is None or source.dtype is None or source.is_graph_input():
                continue
            if (
                source.dtype == node.attributes["to"].as_int()
                and not node.outputs[0].is_graph_output()
            ):
                replace(node, source)
                modified = True
        for node in nodes_of(model, "Pad"):
            widths, source = array(node.inputs[1]), node.inputs[0]
            if widths is not None and not widths.any() and source is not None:
                replace(node, source)
                modified = True
        for clean in (
            common.IdentityEliminationPass(),
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedOpsetsPass(),
        ):
            modified |= clean(model).modified
        return ir.passes.PassResult(model, modified)
