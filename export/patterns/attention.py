"""Where attention is in a graph: two matrix products around a softmax, and their Q/DQ."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from mimiq.export.graph import DEQUANTIZE, QUANTIZE, consumers, nodes_of, operand, producer
from mimiq.export.patterns.narrowing import narrowed

# What may stand between a product and its softmax without making it another computation.
_PASSIVE = ("Cast", "Mul", "Div", "Add", "Identity", "Reshape", "Conv")  # heads mixed by Conv


@dataclass(frozen=True)
class Attention:
    """One attention: ``heads = softmax(scores) · v`` with ``scores = q · kᵀ``."""

    scores: ir.Node
    softmax: ir.Node
    heads: ir.Node

    @property
    def inputs(self) -> dict[str, ir.Value]:
        """The four inputs of the two products by the names q, k, probs, v."""
        return {
            "q": operand(self.scores, 0),
            "k": operand(self.scores, 1),
            "probs": operand(self.heads, 0),
            "v": operand(self.heads, 1),
        }

    @property
    def quantized(self) -> dict[str, ir.Node | None]:
        """The DequantizeLinear right behind each input's QuantizeLinear, or None."""
        return {name: activation_qdq(value) for name, value in self.inputs.items()}

    @property
    def mixes_heads(self) -> bool:
        """Whether heads are mixed with each other before or behind the softmax."""
        before = producer(self.softmax.inputs[0])
        around = [*consumers(self.softmax.outputs[0]), *([] if before is None else [before])]
        return any(node.op_type == "Conv" for node in around)

    @property
    def sequence(self) -> int | None:
        """T, the number of keys."""
        shape = self.scores.outputs[0].shape
        last = None if shape is None else shape[-1]
        return last if isinstance(last, int) else None

    @property
    def head_size(self) -> int | None:
        """d, the width of a head."""
        shape = self.heads.outputs[0].shape
        last = None if shape is None else shape[-1]
        return last if isinstance(last, int) else None


def activation_qdq(value: ir.Value) -> ir.Node | None:
    """The DequantizeLinear(QuantizeLinear(·)) that ``value`` comes from.

    Casts and pure data movement (the transpose of k) may stand in between.
    """
    node = producer(value)
    while node is not None and node.op_type in ("Cast", "Transpose", "Reshape", "Squeeze", "Slice"):
        node = producer(node.inputs[0])
    if node is None or node.op_type != DEQUANTIZE:
        return None
    before = producer(node.inputs[0])
    while before is not None and before.op_type in ("Transpose", "Reshape"):  # of integers
        before = producer(before.inputs[0])
    return node if before is not None and before.op_type == QUANTIZE else None


def find_attentions(model: ir.Model) -> list[Attention]:
    """Every attention of the main graph, in order."""
    found = []
    for softmax in nodes_of(model, "Softmax"):
        scores = _scores(softmax)
        heads = _heads(softmax)
        if scores is not None and heads is not None:
            found.append(Attention(scores, softmax, heads))
    return found


def _scores(softmax: ir.Node) -> ir.Node | None:
    node = producer(softmax.inputs[0])
    while node is not None and node.op_type in _PASSIVE:
        node = producer(node.inputs[0])
    return node if node is not None and node.op_type == "MatMul" else None


def _heads(softmax: ir.Node) -> ir.Node | None:
    value = softmax.outputs[0]
    while True:
        value = narrowed(value)
        readers = consumers(value)
        if len(readers) != 1:
            return None
        node = readers[0]
        if node.op_type == "MatMul":
            return node if node.inputs[0] is value else None
        if node.op_type not in (*_PASSIVE, QUANTIZE, DEQUANTIZE, "Clip"):
            return None
        value = node.outputs[0]
