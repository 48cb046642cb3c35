"""Rules on single nodes: which operators, types and scales a target's parser takes.

Each rule's docstring names its source. "Measured" is TensorRT-RTX 1.7.1 building on a host without
a GPU, its plan read; "documented" is NVIDIA's documentation for TensorRT 10 and 11.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from mimiq.export.graph import DEQUANTIZE, QUANTIZE, array, int_attribute, producer
from mimiq.export.rules.findings import Finding, Subject, name_of

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
