"""Rules on attention: when TensorRT fuses it in INT8, and when it silently does not.

Measured: TensorRT-RTX 1.7.1, plans read on a host without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from mimiq.export.graph import QUANTIZE, consumers, nodes_of, producer
from mimiq.export.patterns.attention import Attention
from mimiq.export.patterns.narrowing import narrowed, narrowing
from mimiq.export.patterns.outlier_columns import find_outliers
from mimiq.export.rules.findings import Finding, Subject, is_half, name_of

MAX_SEQUENCE = 512
HEAD_SIZES = (16, 32, 64)

_MOVEMENT = ("Cast", "Transpose", "Reshape", "Squeeze", "Slice", "Gather", "Split", "Clip")


def attention_incomplete(subject: Subject) -> Iterator[Finding]:
    """INT8 attention needs Q/DQ on q, k, v and the softmax output. Measured.

    With any of the four missing, at least one product runs in half; in most combinations the fused
    kernel is lost altogether, which is slower than attention without any Q/DQ.
    """
    for attention in subject.attentions:
        quantized = attention.quantized
        missing = [name for name, node in quantized.items() if node is None]
        if missing and len(missing) < len(quantized):
            yield Finding(
                "attention-incomplete",
                name_of(attention.softmax),
                "falls back",
                f"Attention is quantised except for {', '.join(missing)}.",
                "Quantise q, k, v and the softmax output, or none of them.",
            )


def attention_too_large(subject: Subject) -> Iterator[Finding]:
    """INT8 attention fuses up to 512 tokens and for heads of 16, 32, 64. Measured, documented.

    Measured at 17–485 tokens (fused) and 530, 577, 1370 (not), heads 16, 32, 64 (fused) and
    24, 40, 48, 72, 80, 96, 128 (not).
    """
    for attention in subject.attentions:
        if not all(attention.quantized.values()):
            continue
        tokens, size = attention.sequence, attention.head_size
        reasons = []
        if tokens is not None and tokens > MAX_SEQUENCE:
            reasons.append(f"{tokens} tokens (at most {MAX_SEQUENCE})")
        if size is not None and size not in HEAD_SIZES:
            reasons.append(f"heads of {size} (only {', '.join(map(str, HEAD_SIZES))})")
        if reasons:
            yield Finding(
                "attention-too-large",
                name_of(attention.softmax),
                "falls back",
                f"INT8 attention does not fuse for {' and '.join(reasons)}.",
                "Leave attention in floating point, as `int4=True` with `weight_only=True` does.",
            )


def attention_mixed(subject: Subject) -> Iterator[Finding]:
    """Talking heads: a product over the heads stands between each product and the softmax.

    Both products then run in INT8, but apart, through memory.
    """
    for attention in subject.attentions:
        if attention.mixes_heads and all(attention.quantized.values()):
            yield Finding(
                "attention-mixed",
                name_of(attention.softmax),
                "slow",
                "Its heads are mixed with each other around the softmax, and the fused kernel has "
                "no place for that.",
                "Choose a network without talking heads where latency counts.",
            )


def attention_clipped(subject: Subject) -> Iterator[Finding]:
    """A Clip on the softmax output, or on what the heads' output is quantised to. Measured.

    Both products then run in INT8, but apart, through memory. Clips on q, k and v do no harm.
    """
    for attention in subject.attentions:
        if not all(attention.quantized.values()):
            continue
        clip = _clip_of(attention.quantized["probs"]) or _clip_behind(attention)
        if clip is not None:
            yield Finding(
                "attention-clipped",
                name_of(clip),
                "slow",
                "Its Clip keeps the INT8 products of attention out of the fused kernel.",
                "Use 8 bits for attention and its projection where latency counts.",
            )


def attention_read_in_float(subject: Subject) -> Iterator[Finding]:
    """Outlier columns of the projection, which read the heads before they are quantised. Measured.

    Both products then run in INT8, but apart, through memory: the fused kernel writes integers.
    """
    heads = {attention.heads: attention for attention in subject.attentions}
    for outliers in find_outliers(subject.model):
        node = producer(outliers.x)
        while node is not None and node.op_type in _MOVEMENT:
            node = producer(node.inputs[0])
        if node in heads and all(heads[node].quantized.values()):
            yield Finding(
                "attention-read-in-float",
                outliers.name,
                "slow",
                "Its outlier columns keep the INT8 products of attention out of the fused kernel.",
                "Leave this layer without outlier columns where latency counts.",
            )


def attention_operator(subject: Subject) -> Iterator[Finding]:
    """The opset-23 Attention operator parses, and stays half whatever is quantised. Measured."""
    for node in nodes_of(subject.model, "Attention"):
        if any(_source(value, (QUANTIZE, "DequantizeLinear")) for value in node.inputs):
            yield Finding(
                "attention-operator",
                name_of(node),
                "falls back",
                "The Attention operator runs in half precision.",
                "Export attention as MatMul, Softmax, MatMul (opset 21).",
            )


def fused_qkv(subject: Subject) -> Iterator[Finding]:
    """The qkv trap: int8 of a fused qkv product is lost in a half graph. Measured.

    One int8 product for q, k and v, computed in half and followed by slices, runs in half unless
    q and k both carry √scale, or it is fp32 between its Q/DQ, or its output has Q/DQ itself.
    """
    products = {linear.node: linear for linear in subject.linears}
    for attention in subject.attentions:
        sides = {name: _linear_behind(attention.inputs[name]) for name in ("q", "k", "v")}
        nodes = {node for node, _ in sides.values()}
        if len(nodes) != 1 or (shared := nodes.pop()) is None or shared not in products:
            continue
        linear = products[shared]
        if linear.activation is None or linear.weight is None:
            continue
        if not is_half(linear.weight.outputs[0]):
            continue
        scaled_alike = sides["q"][1] and sides["k"][1]
        quantized_whole = _quantized_behind(shared)
        if not scaled_alike and not quantized_whole:
            yield Finding(
                "fused-qkv",
                linear.name,
                "falls back",
                "The fused qkv product loses its INT8 form: the softmax scale is not on q and k.",
                "Multiply both q and k by √scale, or convert with mimiq.export.to_fp16.",
            )


def _clip_of(dequantize: ir.Node | None) -> ir.Node | None:
    quantize = None if dequantize is None else producer(dequantize.inputs[0], QUANTIZE)
    if quantize is None:
        return None
    narrow = narrowing(quantize)
    return narrow.clip if narrow else _source(quantize.inputs[0], ("Clip",))


def _clip_behind(attention: Attention) -> ir.Node | None:
    """The Clip before the quantiser that reads the concatenated heads."""
    value = attention.heads.outputs[0]
    for _ in range(6):
        readers = consumers(value)
        if narrowed(value) is not value:  # a grid of two steps
            return next(node for node in readers if node.op_type == "Clip")
        if len(readers) != 1:
            return None
        if readers[0].op_type == "Clip":
            return readers[0] if consumers(readers[0].outputs[0], QUANTIZE) else None
        if readers[0].op_type not in ("Cast", "Transpose", "Reshape"):
            return None
        value = readers[0].outputs[0]
    return None


def _source(value: ir.Value | None, wanted: tuple[str, ...]) -> ir.Node | None:
    """The first producer of a wanted type, casts looked through."""
    node = producer(value)
    while node is not None and node.op_type == "Cast" and "Cast" not in wanted:
        node = producer(node.inputs[0])
    return node if node is not None and node.op_type in wanted else None


def _linear_behind(value: ir.Value) -> tuple[ir.Node | None, bool]:
    """The product that an attention input comes from, and whether a Mul or Div lies between."""
    scaled = False
    node = producer(value)
    while node is not None and node.op_type not in ("MatMul", "Gemm"):
        if node.op_type in ("Mul", "Div"):
            scaled = True
        elif node.op_type not in (*_MOVEMENT, "Add", QUANTIZE, "DequantizeLinear"):
            return None, scaled
        node = producer(node.inputs[0])
    return node, scaled


def _quantized_behind(node: ir.Node) -> bool:
    """Whether the product's output, bias added, is quantised as a whole."""
    value = node.outputs[0]
    for _ in range(4):
        readers = consumers(value)
        if len(readers) != 1:
            return False
        if readers[0].op_type == QUANTIZE:
            return True
        if readers[0].op_type not in ("Add", "Cast", "Reshape"):
            return False
        value = readers[0].outputs[0]
    return False
