"""Rules on Linears: which of a target's kernels multiply their integers, if any.

Each rule's docstring names its source. "Measured" is TensorRT-RTX 1.7.1 building on a host without
a GPU, its plan read; "documented" is NVIDIA's documentation for TensorRT 10 and 11.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from mimiq.export.limits import HALF_MAX
from mimiq.export.patterns.outlier_columns import find_outliers
from mimiq.export.rules.findings import Finding, Subject, is_half

_BLOCKS = {"rtx": (16, 32, 64, 128, 256), "trt": (64, 128)}


def weight_scales_along_inputs(subject: Subject) -> Iterator[Finding]:
    """int8 weights with scales along K build, and silently run as a half product. Measured."""
    for linear in subject.linears:
        if linear.granularity == "along K":
            yield Finding(
                "weight-scales-along-inputs",
                linear.name,
                "falls back",
                "The weight's scales lie along its inputs (K), not its output channels.",
                "Quantise weights per output channel.",
            )


def blocks_with_activations(subject: Subject) -> Iterator[Finding]:
    """Block-wise weights under int8 activations parse, and do not build. Measured (RTX).

    ``CHECK(is_constant())``; no target multiplies them in integers.
    """
    for linear in subject.linears:
        if linear.block_size and linear.activation is not None:
            yield Finding(
                "blocks-with-activations",
                linear.name,
                "refused",
                "Block-wise weights cannot be multiplied with quantised activations.",
                "Use per-channel weights, or `weight_only=True`.",
            )


def block_sizes(subject: Subject) -> Iterator[Finding]:
    """K is a whole number of blocks, of a size the target knows. Measured (RTX), documented."""
    for linear in subject.linears:
        size, inputs = linear.block_size, linear.inputs
        if not size:
            continue
        if inputs is not None and inputs % size:
            yield Finding(
                "block-sizes",
                linear.name,
                "refused",
                f"Blocks of {size} do not divide its {inputs} inputs.",
                "Choose a `block_size` that divides every Linear's inputs.",
            )
        elif (known := _BLOCKS.get(subject.target)) and size not in known:
            yield Finding(
                "block-sizes",
                linear.name,
                "refused",
                f"Blocks of {size} are not supported; {', '.join(map(str, known))} are.",
                "Choose another `block_size`.",
            )


def half_quantized(subject: Subject) -> Iterator[Finding]:
    """A Linear multiplies in integers only when both its operands are quantised. Measured."""
    for linear in subject.linears:
        if linear.activation is not None and linear.weight is None:
            yield Finding(
                "half-quantised",
                linear.name,
                "falls back",
                "Its input is quantised, its weight is not: the product runs in floating point.",
                "Quantise the weight too, or leave the input in floating point.",
            )


def half_accumulation(subject: Subject) -> Iterator[Finding]:
    """Integer sums pass through half before their scale in an fp16 Linear. Read from plans.

    With a scale per channel the plan holds int8 × int8 → half with the scale after it, so a sum
    beyond 65504 is lost; a single scale is part of the product, and its result is what half must
    hold. Inferred from plans, not run on a GPU. The bounds are exact.
    """
    for linear in subject.linears:
        if linear.activation is None or linear.weight is None or linear.block_size:
            continue
        if not is_half(linear.weight.outputs[0]):
            continue
        scaled = linear.granularity == "per tensor"
        bound = linear.largest_output if scaled else linear.largest_sum
        if bound is not None and bound > HALF_MAX:
            yield Finding(
                "half-accumulation",
                linear.name,
                "overflows",
                f"Its integer sums can reach {bound:.0f} {'after' if scaled else 'before'} they "
                f"are scaled, and half holds {HALF_MAX:.0f}.",
                "Convert with mimiq.export.to_fp16, which keeps such Linears in fp32.",
            )


def outlier_overflow(subject: Subject) -> Iterator[Finding]:
    """Products of outlier columns in half, which holds no number beyond 65504.

    The bound takes no regard of signs, and no image need reach it; see
    :mod:`mimiq.export.patterns.bounds`.
    """
    for outliers in find_outliers(subject.model):
        bound = outliers.largest_sum
        if bound is None or bound <= HALF_MAX or not is_half(outliers.products[0].outputs[0]):
            continue
        yield Finding(
            "outlier-overflow",
            outliers.name,
            "overflows",
            f"Its outlier columns can add up to {bound:.0f}, and half holds {HALF_MAX:.0f}.",
            "Convert with mimiq.export.to_fp16, which keeps such columns in fp32.",
        )


def int4_with_activations(subject: Subject) -> Iterator[Finding]:
    """Per-channel INT4 weights under int8 activations: another form is better, or the only one.

    RTX builds an int8 product, and before it a kernel that unpacks the weights to int8 in memory at
    every inference (measured: 49 of them in DeiT). TensorRT documents INT4 as weight-only. ONNX
    Runtime's CPU unpacks them to fp32 and multiplies in fp32 (measured).
    """
    for linear in subject.linears:
        stored = linear.stored
        if linear.activation is None or linear.block_size or stored is None:
            continue
        if stored.dtype != ir.DataType.INT4:
            continue
        problem = {
            "ort": "INT4 weights under int8 activations are unpacked and multiplied in fp32.",
            "rtx": "A kernel of its own unpacks the INT4 weights before every product.",
            "trt": "INT4 weights under int8 activations are not documented to build.",
        }[subject.target]
        yield Finding(
            "int4-with-activations",
            linear.name,
            "refused" if subject.target == "trt" else "slow",
            problem,
            "Store them as int8, the same values: mimiq.export.to_int8_carrier or to_fp16.",
        )


def int4_in_one_block(subject: Subject) -> Iterator[Finding]:
    """INT4 weights alone, with one scale a channel, are unpacked before each product. Measured.

    Whether it is written per channel or as a block of all inputs: RTX multiplies INT4 only where a
    row has two blocks or more.
    """
    for linear in subject.linears:
        stored = linear.stored
        if linear.activation is not None or stored is None or stored.dtype != ir.DataType.INT4:
            continue
        if linear.block_size and linear.block_size != linear.inputs:
            continue
        yield Finding(
            "int4-in-one-block",
            linear.name,
            "slow",
            "A kernel of its own unpacks the INT4 weights before every product.",
            "Use `weight_only=True` without `block_size`, or with a smaller one.",
        )
