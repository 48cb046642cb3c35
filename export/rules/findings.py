"""What a rule says of a node, and the facts about a graph that rules look at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import onnx_ir as ir

from mimiq.export.graph import DEQUANTIZE, QUANTIZE, nodes_of
from mimiq.export.patterns.attention import Attention, find_attentions
from mimiq.export.patterns.linears import Linear, find_linears

Target = Literal["ort", "rtx", "trt"]
Severity = Literal["refused", "falls back", "overflows", "slow"]


@dataclass(frozen=True)
class Finding:
    """One node that breaks one rule of one target.

    Attributes:
        rule: the rule's name.
        node: the node at fault.
        severity: ``refused``: the target's parser or builder rejects the graph, or would read it
            as other numbers. ``falls back``: it silently runs in floating point. ``overflows``: its
            sums may leave the range of half precision. ``slow``: it is right, but costs time that
            another form would not.
        problem: what is wrong.
        next_step: what to do about it.
    """

    rule: str
    node: str
    severity: Severity
    problem: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.node}: {self.problem} [{self.severity}; rule {self.rule}]"


@dataclass(frozen=True)
class Subject:
    """A graph under examination for one target.

    Attributes:
        model: the graph.
        target: ``ort``, ``rtx`` or ``trt``.
        compute_capabilities: GPUs to build for, such as ``"8.6"``; empty where unknown.
    """

    model: ir.Model
    target: Target
    compute_capabilities: tuple[str, ...] = ()

    @cached_property
    def linears(self) -> list[Linear]:
        return find_linears(self.model)

    @cached_property
    def attentions(self) -> list[Attention]:
        return find_attentions(self.model)

    @cached_property
    def quantizes(self) -> list[ir.Node]:
        return nodes_of(self.model, QUANTIZE)

    @cached_property
    def dequantizes(self) -> list[ir.Node]:
        return nodes_of(self.model, DEQUANTIZE)

    @cached_property
    def capabilities(self) -> tuple[tuple[int, int], ...]:
        """Compute capabilities as numbers: ``"8.6"`` is (8, 6)."""
        parts = [text.split(".") for text in self.compute_capabilities]
        return tuple((int(major), int(minor)) for major, minor in parts)


# A rule yields a finding for every node that breaks it.
Rule = Callable[[Subject], Iterable[Finding]]


def name_of(node: ir.Node) -> str:
    """The node's name, or its type where it has none."""
    return node.name or f"an unnamed {node.op_type}"


def is_half(value: ir.Value | None) -> bool:
    return value is not None and value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
