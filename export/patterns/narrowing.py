"""What stands before a QuantizeLinear to bring values to a grid narrower than INT8.

A grid of one step is a Clip. One of two steps is two Clips: what lies outside the fine part is
rounded to the coarse step by a Q/DQ of its own, and added::

    x ─┬─ Clip ─┬──────────────────────────────────────────── Add ─ QuantizeLinear
       └─────── Sub ─ Clip ─ QuantizeLinear ─ DequantizeLinear ┘
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from mimiq.export.graph import DEQUANTIZE, QUANTIZE, consumers, producer


@dataclass(frozen=True)
class Narrowing:
    """The nodes between a value and the QuantizeLinear that reads it.

    Attributes:
        clip: reads the value; its input 0 is what is quantised.
        coarse: of a grid of two steps the other nodes, in the order of the graph; else none.
    """

    clip: ir.Node
    coarse: tuple[ir.Node, ...] = ()

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        return (self.clip, *self.coarse)


def narrowing(quantize: ir.Node) -> Narrowing | None:
    """What narrows the grid of ``quantize``; None for a grid as wide as INT8."""
    node = producer(quantize.inputs[0])
    if node is None or node.op_type != "Add":
        return Narrowing(node) if node is not None and node.op_type == "Clip" else None
    clip = producer(node.inputs[0], "Clip")
    chain: list[ir.Node] = [node]
    value = node.inputs[1]
    for op_type in (DEQUANTIZE, QUANTIZE, "Clip", "Sub"):
        before = producer(value, op_type)
        if before is None:
            return None
        chain.append(before)
        value = before.inputs[0]
    if clip is None or clip.inputs[0] is not value:
        return None
    return Narrowing(clip, tuple(reversed(chain)))


def narrowed(value: ir.Value) -> ir.Value:
    """``value``, or where a grid of two steps alone reads it, what that leads to."""
    readers = consumers(value)
    if len(readers) == 2 and {node.op_type for node in readers} == {"Clip", "Sub"}:
        (clip,) = (node for node in readers if node.op_type == "Clip")
        for add in consumers(clip.outputs[0], "Add"):
            found = [narrowing(quantize) for quantize in consumers(add.outputs[0], QUANTIZE)]
            if any(one is not None and one.clip is clip for one in found):
                return add.outputs[0]
    return value
