"""What a graph holds, for ``mimiq inspect`` and reports."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import onnx_ir as ir

from mimiq.export.graph import computes_in_half, reading
from mimiq.export.patterns.attention import find_attentions
from mimiq.export.patterns.integer_form import find_integer_products
from mimiq.export.patterns.joined_projection import not_split
from mimiq.export.patterns.linears import Linear, find_linears
from mimiq.export.patterns.outlier_columns import find_outliers


def summarize(model: str | Path | ir.Model) -> dict[str, Any]:
    """Counts and sizes of one graph, ready for JSON.

    Returns:
        ``layers``: how many Linears and convolutions there are of each kind, such as
        ``{"MatMul int4 per channel × int8": 48}`` (weight type, granularity, activation type).
        ``outlier_columns``: how many columns of which Linear are computed in floating point.
        ``attention``: how many attentions have all, some or none of q, k, v and the softmax output
        quantised. ``not_split``: what keeps the form for CPUs from splitting a joined projection
        of q, k and v, by its name; each is slow there. ``weight_bytes``: bytes of stored weights by
        type, ``scale_bytes`` of their scales, ``initializer_bytes`` of everything stored.
        ``file_bytes``: the file's size, None for a model in memory. ``operators``: how many nodes
        of each type. ``opset``, ``ir_version``, ``producer`` and ``metadata`` as the file has them.

    Raises:
        BadInput: when the file is absent, no ONNX model, or its graph is malformed.
    """
    with reading(model) as graph:
        return _summary(graph, None if isinstance(model, ir.Model) else Path(model))


def _summary(graph: ir.Model, path: Path | None) -> dict[str, Any]:
    linears, products = find_linears(graph), find_integer_products(graph)
    stored = {value: value.const_value for linear in linears if (value := linear.stored)}
    stored |= {product.stored: product.stored.const_value for product in products}
    weights: Counter[str] = Counter()
    for tensor in stored.values():
        if tensor is not None:
            weights[tensor.dtype.name.lower()] += tensor.nbytes
    scales = {value for linear in linears if linear.weight and (value := linear.weight.inputs[1])}
    scales |= {value for linear in linears if (value := linear.ratios)}
    scales |= {value for product in products if (value := product.node.inputs[3])}
    scales |= {product.ratios for product in products if product.ratios}
    initializers = graph.graph.initializers.values()
    return {
        "layers": dict(Counter([*map(describe, linears), *(each.label for each in products)])),
        "outlier_columns": {each.name: len(each.columns) for each in find_outliers(graph)},
        "attention": _attention(graph),
        "not_split": {} if computes_in_half(graph) else not_split(graph),
        "weight_bytes": dict(weights),
        "scale_bytes": sum(value.const_value.nbytes for value in scales if value.const_value),
        "initializer_bytes": sum(v.const_value.nbytes for v in initializers if v.const_value),
        "file_bytes": path.stat().st_size if path else None,
        "operators": dict(Counter(node.op_type for node in graph.graph).most_common()),
        "opset": graph.opset_imports.get(""),
        "ir_version": graph.ir_version,
        "producer": f"{graph.producer_name or ''} {graph.producer_version or ''}".strip(),
        "metadata": dict(graph.metadata_props),
    }


def describe(linear: Linear) -> str:
    """``MatMul int4 per channel × int8``: operator, weight, its granularity, activation."""
    stored = linear.stored
    weight = stored.dtype.name.lower() if stored is not None and stored.dtype else "unknown"
    if linear.weight is not None:
        split = linear.ratios is not None  # one scale before the product, their ratios behind it
        weight = f"{weight} {'per channel, split' if split else linear.granularity}"
    value = (linear.activation or linear.node).inputs[0]
    activation = value.dtype.name.lower() if value is not None and value.dtype else "unknown"
    return f"{linear.node.op_type} {weight} × {activation}"


def _attention(model: ir.Model) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for attention in find_attentions(model):
        quantized = [node is not None for node in attention.quantized.values()]
        state = "quantised" if all(quantized) else "incomplete" if any(quantized) else "float"
        counts[state] += 1
    return dict(counts)
