"""Rules on single Q/DQ nodes and on Linears: what a target's parser takes, and what it runs.

Each rule's docstring names its source. "Measured" is TensorRT-RTX 1.7.1 building on a host without
a GPU, its plan read; "documented" is NVIDIA's documentation for TensorRT 10 and 11.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from mimiq.export.graph import DEQUANTIZE, QUANTIZE, array, int_attribute, producer
from mimiq.export.limits import HALF_MAX
from mimiq.export.patterns.outlier_columns import find_outliers
from mimiq.export.rules.findings import Finding, Subject, is_half, name_of

_FP8 = frozenset({"FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"})
_TENSORRT_INTEGERS = frozenset({"INT8", "INT4", "FLOAT8E4M3FN", "FLOAT4E2M1"})
_TENSORRT_ABSENT = frozenset(
    {
        "MatMulInteger",
        "ConvInteger",
        "QLinearMatMul",
        "QLinearConv",
        "DynamicQuantizeLinear",
        "MatMulNBits",
    }
)
_BLOCKS = {"rtx": (16, 32, 64, 128, 256), "trt": (64, 128)}
_REEXPORT = "Export the model with mimiq, which writes symmetric int8 and int4 Q/DQ."


def integer_operators(subject: Subject) -> Iterator[Finding]:
    """TensorRT has no integer operators and no custom ones; precision is Q/DQ. Measured."""
    for node in subject.model.graph:
        if node.op_type in _TENSORRT_ABSENT or node.domain not in ("", "ai.onnx"):
            operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            yield Finding(
                "integer-operators",
                name_of(node),
                "refused",
                f"{operator} does not exist in TensorRT.",
                _REEXPORT,
            )


def zero_points(subject: Subject) -> Iterator[Finding]:
    """Quantisation is symmetric: ``Non-zero zero point is not supported``. Measured, documented."""
    for node in (*subject.quantizes, *subject.dequantizes):
        if len(node.inputs) < 3 or node.inputs[2] is None:
            continue
        zeros = array(node.inputs[2])
        if zeros is None or np.any(zeros.astype(np.int64)):
            what = "computed in the graph" if zeros is None else "not zero"
            yield Finding(
                "zero-points",
                name_of(node),
                "refused",
                f"The zero point is {what}; TensorRT takes 0 alone.",
                "Quantise symmetrically.",
            )


def unsigned_activations(subject: Subject) -> Iterator[Finding]:
    """uint8 with zero point 0 is read as int8 with a mere warning: other numbers. Measured.

    QuantizeLinear without zero point and ``output_dtype`` is uint8 by ONNX's definition.
    """
    for node in subject.quantizes:
        kind = _quantized_type(node)
        if kind in (ir.DataType.UINT8, ir.DataType.UINT16):
            yield Finding(
                "unsigned-activations",
                name_of(node),
                "refused",
                f"The activation is {kind.name.lower()}, which TensorRT reads as int8.",
                "Quantise to int8.",
            )


def integer_types(subject: Subject) -> Iterator[Finding]:
    """Only int8, int4, fp8 (E4M3) and fp4 are dequantised; no uint4, no int32 bias. Measured."""
    for node in subject.dequantizes:
        value = node.inputs[0]
        kind = value.dtype if value is not None else None
        if kind is None or kind.name in _TENSORRT_INTEGERS or producer(value, QUANTIZE) is not None:
            continue
        bias = ", as ONNX Runtime's quantiser writes biases" if kind.name == "INT32" else ""
        yield Finding(
            "integer-types",
            name_of(node),
            "refused",
            f"DequantizeLinear of {kind.name.lower()}{bias} is not supported.",
            "Leave biases in floating point and weights in int8 or int4.",
        )


def fp8_needs_ada(subject: Subject) -> Iterator[Finding]:
    """FP8 products need compute capability 8.9 or later. Documented."""
    old = [text for text, number in _capabilities(subject) if number < (8, 9)]
    if not old:
        return
    for node in subject.quantizes:
        kind = _quantized_type(node)
        if kind is not None and kind.name in _FP8:
            yield Finding(
                "fp8-needs-ada",
                name_of(node),
                "refused",
                f"FP8 does not run on compute capability {', '.join(old)}.",
                "Use int8, or build for 8.9 and later.",
            )


def activation_scales(subject: Subject) -> Iterator[Finding]:
    """Activations have one scale a tensor, known at build time. Measured, documented."""
    for node in subject.quantizes:
        scale = array(node.inputs[1])
        if scale is not None and scale.size == 1 and bool(np.all(scale > 0)):
            continue
        what = "computed in the graph" if scale is None else "one a channel, or not positive"
        yield Finding(
            "activation-scales",
            name_of(node),
            "refused",
            f"The activation's scale is {what}.",
            "Quantise activations per tensor, with constant positive scales.",
        )


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


def operand_types(subject: Subject) -> Iterator[Finding]:
    """Strong typing: both operands of a product have one type. Measured.

    A half activation with a weight whose scale is float stops the parser:
    ``IMatrixMultiplyLayer must have same input types``.
    """
    for node in subject.model.graph:
        if node.op_type not in ("MatMul", "Gemm", "Conv"):
            continue
        kinds = {value.dtype for value in node.inputs if value is not None and value.dtype}
        if len(kinds) > 1:
            names = " and ".join(sorted(kind.name.lower() for kind in kinds))
            yield Finding(
                "operand-types",
                name_of(node),
                "refused",
                f"Its operands are {names}; the scale of a DequantizeLinear sets its output type.",
                "Convert with mimiq.export.to_fp16.",
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


def turing(subject: Subject) -> Iterator[Finding]:
    """RTX compiles neither fp32 products nor INT4 for compute capability 7.5. Measured.

    ``Cannot compile operation … for Turing (SM75): FP32 GEMM is not supported``, also for an fp32
    product of int8 operands; ``the model contains HW-specific datatypes: int4``.
    """
    if not any(number < (8, 0) for _, number in _capabilities(subject)):
        return
    for node in subject.model.graph:
        first = node.inputs[0] if node.inputs else None
        kind = None if first is None else first.dtype
        float_product = node.op_type in ("MatMul", "Gemm") and kind == ir.DataType.FLOAT
        int4 = node.op_type == DEQUANTIZE and kind == ir.DataType.INT4
        if float_product or int4:
            what = "fp32 product" if float_product else "INT4 weight"
            yield Finding(
                "turing",
                name_of(node),
                "refused",
                f"TensorRT-RTX compiles no {what} for compute capability 7.5.",
                "Build for 8.0 and later.",
            )


def qdq_before_movement(subject: Subject) -> Iterator[Finding]:
    """ONNX Runtime 1.31 fails to load DequantizeLinear(int8, zero point) → Transpose. Measured.

    Its optimiser repeats the Q/DQ pair behind the movement and types the new zero point uint8:
    ``output_dtype INT8 does not match y_zero_point type UINT8``. See its issue 27845 for an older
    form of the same rewrite, which zeroed negative values.
    """
    for node in subject.dequantizes:
        integers = node.inputs[0]
        if producer(integers, QUANTIZE) is None or len(node.inputs) < 3:
            continue
        if integers is None or integers.dtype != ir.DataType.INT8:
            continue
        for use in node.outputs[0].uses():
            if use.node.op_type in _MOVEMENT:
                yield Finding(
                    "qdq-before-movement",
                    name_of(node),
                    "refused",
                    f"A {use.node.op_type} follows, where ONNX Runtime's optimiser fails.",
                    "Quantise after moving the data.",
                )
                break


_MOVEMENT = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Slice", "MaxPool")


def unlowered(subject: Subject) -> Iterator[Finding]:
    """Operators outside ONNX's and ONNX Runtime's own domains have no kernel."""
    for node in subject.model.graph:
        if node.domain not in ("", "ai.onnx", "ai.onnx.ml", "com.microsoft"):
            yield Finding(
                "unlowered",
                name_of(node),
                "refused",
                f"ONNX Runtime has no {node.domain}::{node.op_type}.",
                _REEXPORT,
            )


def _quantized_type(node: ir.Node) -> ir.DataType | None:
    """What a QuantizeLinear writes: its zero point's type, ``output_dtype``, or uint8."""
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        return node.inputs[2].dtype
    return ir.DataType(int_attribute(node, "output_dtype", 0) or ir.DataType.UINT8.value)


def _capabilities(subject: Subject) -> list[tuple[str, tuple[int, int]]]:
    return list(zip(subject.compute_capabilities, subject.capabilities, strict=True))
