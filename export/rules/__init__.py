"""Which rules hold for which target, and how to check a graph against them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from mimiq.errors import BadInput, UnsupportedTarget
from mimiq.export.graph import reading
from mimiq.export.rules import attention, linears, nodes
from mimiq.export.rules.findings import Finding, Rule, Subject, Target

__all__ = ["Finding", "Target", "check", "require"]

_TENSORRT: tuple[Rule, ...] = (
    nodes.integer_operators,
    nodes.zero_points,
    nodes.unsigned_activations,
    nodes.integer_types,
    nodes.fp8_needs_ada,
    nodes.activation_scales,
    linears.weight_scales_along_inputs,
    linears.blocks_with_activations,
    linears.block_sizes,
    nodes.operand_types,
    linears.half_quantized,
    linears.half_accumulation,
    linears.outlier_overflow,
    linears.int4_with_activations,
    attention.attention_incomplete,
    attention.attention_too_large,
    attention.attention_mixed,
    attention.attention_clipped,
    attention.attention_read_in_float,
    attention.attention_operator,
    attention.fused_qkv,
)

RULES: dict[Target, tuple[Rule, ...]] = {
    "ort": (
        nodes.unlowered,
        nodes.qdq_before_movement,
        linears.block_sizes,
        linears.int4_with_activations,
    ),
    "rtx": (*_TENSORRT, linears.int4_in_one_block, nodes.turing),
    "trt": _TENSORRT,
}


def check(
    model: str | Path | ir.Model,
    target: Target,
    *,
    compute_capabilities: Sequence[str] = (),
) -> list[Finding]:
    """Everything in a graph that ``target`` would refuse, run in another precision, or run slowly.

    The graph is judged as it is: give the form that will be built, see
    :func:`mimiq.export.to_fp16`.

    Args:
        target: ``ort`` (ONNX Runtime), ``rtx`` (TensorRT-RTX) or ``trt`` (TensorRT).
        compute_capabilities: GPUs to build for, such as ``("8.6", "8.9")``; empty: not checked.

    Raises:
        BadInput: for an unreadable file, an unknown target or compute capability.
    """
    if target not in RULES:
        raise BadInput(f"Target {target!r} is unknown.", f"Choose one of {', '.join(RULES)}.")
    for text in compute_capabilities:
        major, _, minor = text.partition(".")
        if not (major.isdigit() and minor.isdigit()):
            raise BadInput(f"{text!r} is no compute capability.", "Write for example 8.6.")
    with reading(model) as graph:
        subject = Subject(graph, target, tuple(compute_capabilities))
        return [finding for rule in RULES[target] for finding in rule(subject)]


def require(
    model: str | Path | ir.Model,
    target: Target,
    *,
    compute_capabilities: Sequence[str] = (),
    allow_fallback: bool = False,
) -> list[Finding]:
    """As :func:`check`; anything but ``slow`` is an error.

    Args:
        allow_fallback: accept Linears and attentions that fall back to floating point as well.

    Returns:
        the findings that are accepted.

    Raises:
        UnsupportedTarget: naming the first node and rule, and how many more there are.
    """
    findings = check(model, target, compute_capabilities=compute_capabilities)
    accepted = {"slow", "falls back"} if allow_fallback else {"slow"}
    fatal = [finding for finding in findings if finding.severity not in accepted]
    if fatal:
        first, others = fatal[0], len(fatal) - 1
        more = f" ({others} more like it or worse)" if others else ""
        raise UnsupportedTarget(f"{target}: {first}{more}", first.next_step)
    return findings
