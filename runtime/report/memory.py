"""The page's section on memory: what the graph stores, by type."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree.ElementTree import Element

from mimiq.runtime.report import charts
from mimiq.runtime.report.markup import table

_NAMES = {
    "int4": "weights in INT4, two a byte",
    "int8": "weights in INT8",
    "uint8": "weights in UINT8",
    "float16": "weights in FP16",
    "float": "weights in FP32",
    "scales": "scales",
    "other": "norms, embeddings, biases and constants",
    "graph": "the graph itself",
}


def memory_parts(memory: Mapping[str, int]) -> list[Element]:
    """A bar for each type, and the figures."""
    sizes = sorted(memory.items(), key=lambda item: -item[1])
    whole = sum(memory.values()) or 1
    rows = [
        (_NAMES.get(kind, kind), f"{size:,}", f"{100 * size / whole:.1f} %") for kind, size in sizes
    ]
    shown = [
        charts.Bar(kind, size / 1e6, f"{size / 1e6:.2f}", size / 1e6, size / 1e6)
        for kind, size in sizes
    ]
    chart = charts.figure(
        lambda width: charts.bars(
            shown, None, "Memory by type", axis="megabytes in model.onnx", width=width
        ),
        "What model.onnx stores, by type.",
    )
    return [chart, table(("", "bytes", "share"), rows)]
