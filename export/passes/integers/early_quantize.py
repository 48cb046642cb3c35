"""Activations are quantised as soon as they are known, and moved about as bytes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mimiq.export.graph import (
    QUANTIZE,
    add_initializer,
    array,
    consumers,
    graph_of,
    nodes_of,
    operand,
    producer,
)
from mimiq.export.passes.conditions import require_none
from mimiq.export.passes.integers.unsigned_activations import signed_activations

MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")


class QuantizeEarly(ir.passes.InPlacePass):
    """Quantize(Move(x)) → Move(Quantize(x)), and Quantize(x · c; s) → Quantize(x; s / c).

    The first is exact. The second spares a product, and may send a value that lies on the border
    between two integers to the other one. What is quantised to int8, the second operand of a
    product, is quantised right at it: there ONNX Runtime makes it unsigned for hosts whose
    uint8 × int8 kernel saturates.
    """

    def requires(self, model: ir.Model) -> None:
        require_none(signed_activations(model), "Run UnsignedActivations first.")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in nodes_of(model, QUANTIZE):
            while fold_scaling(node) or (node.outputs[0].dtype != ir.DataType.INT8 and _swap(node)):
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def _swap(quantize: ir.Node) -> bool:
    move = producer(quantize.inputs[0])
    if move is None or move.op_type not in MOVES or not reads_alone(quantize, move):
        return False
    x, moved, integers = operand(move, 0), move.outputs[0], quantize.outputs[0]
    graph = graph_of(move)
    quantize.replace_input_with(0, x)
    integers.replace_all_uses_with(moved)
    move.replace_input_with(0, integers)
    moved.type, integers.shape = integers.type, x.shape
    graph.remove(quantize)
    graph.insert_before(move, quantize)
    return True


def fold_scaling(quantize: ir.Node) -> bool:
    scale, reader = array(quantize.inputs[1]), quantize
    scaling = producer(reader.inputs[0])
    while scaling is not None and scaling.op_type in MOVES and reads_alone(reader, scaling):
        reader = scaling
        scaling = producer(reader.inputs[0])
    if scaling is None or scaling.op_type != "Mul" or not reads_alone(reader, scaling):
        return False
    if scale is None or scale.size != 1:
        return False
    for x, other in (scaling.inputs, scaling.inputs[::-1]):
        factor = array(other)
        if x is None or factor is None or factor.size != 1 or array(x) is not None:
            continue
        number = float(factor.reshape(()))
        if not np.isfinite(number) or number <= 0:
            return False
        graph = graph_of(quantize)
        finer = np.asarray(np.float32(scale.reshape(()) / number))
        name = quantize.inputs[1].name if quantize.inputs[1] is not None else "scale"
        quantize.replace_input_with(1, add_initializer(graph, f"{name}/folded", finer))
        reader.replace_input_with(0, x)
        graph.remove(scaling, safe=True)
        return True
    return False


def reads_alone(quantize: ir.Node, node: ir.Node) -> bool:
    output = node.outputs[0]
    return consumers(output) == [quantize] and not output.is_graph_output()
