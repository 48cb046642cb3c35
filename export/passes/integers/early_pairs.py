"""Activations are quantised as soon as they are known, each next to its dequantisation."""

from __future__ import annotations

import onnx_ir as ir

from mimiq.export.graph import (
    DEQUANTIZE,
    QUANTIZE,
    array,
    graph_of,
    nodes_of,
    only_reader,
    operand,
    producer,
)
from mimiq.export.passes.conditions import require_lowered
from mimiq.export.passes.integers.early_quantize import MOVES, fold_scaling, reads_alone


class QuantizeBeforeMoves(ir.passes.InPlacePass):
    """Dequantize(Quantize(Move(x))) → Move(Dequantize(Quantize(x))), and
    Quantize(x · c; s) → Quantize(x; s / c).

    For OpenVINO, which sees a quantised tensor in the two nodes side by side, moves bytes in place
    of the numbers behind them, and lets a Linear write the bytes itself where nothing stands
    between the two (2026.4: q, k and v; before, each was written in bfloat16, moved about and
    quantised by nodes of their own). The first is exact; for the second see
    :class:`~mimiq.export.passes.integers.early_quantize.QuantizeEarly`.
    """

    def requires(self, model: ir.Model) -> None:
        require_lowered(model)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for quantize in nodes_of(model, QUANTIZE):
            dequantize = only_reader(quantize.outputs[0], DEQUANTIZE)
            scale = array(quantize.inputs[1])
            if dequantize is None or scale is None or scale.size != 1:
                continue
            while fold_scaling(quantize) or _swap(quantize, dequantize):
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def _swap(quantize: ir.Node, dequantize: ir.Node) -> bool:
    move = producer(quantize.inputs[0])
    if move is None or move.op_type not in MOVES or not reads_alone(quantize, move):
        return False
    x, moved, numbers = operand(move, 0), move.outputs[0], dequantize.outputs[0]
    if numbers.is_graph_output():
        return False
    numbers.replace_all_uses_with(moved)
    quantize.replace_input_with(0, x)
    move.replace_input_with(0, numbers)
    quantize.outputs[0].shape = numbers.shape = x.shape
    graph = graph_of(move)
    graph.remove([quantize, dequantize])
    graph.insert_before(move, [quantize, dequantize])
    return True
