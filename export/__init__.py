"""From a quantised network to graphs a target takes: Q/DQ ONNX, target rules, engines.

The names below are loaded when first used: an inference host imports this package for its engines,
and has neither torch nor onnx.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimiq.lazy import lazily, make_callable

if TYPE_CHECKING:
    from mimiq.export.cpu_form import to_cpu
    from mimiq.export.forms import to_fp16, to_int8_carrier
    from mimiq.export.network import export
    from mimiq.export.openvino_form import to_openvino
    from mimiq.export.rules import Finding, check, require
    from mimiq.export.summary import summarize
    from mimiq.export.torch_onnx import export_onnx

__all__ = [
    "Finding",
    "check",
    "export",
    "export_onnx",
    "require",
    "summarize",
    "to_cpu",
    "to_fp16",
    "to_int8_carrier",
    "to_openvino",
]

_HOMES = {
    "Finding": "rules",
    "check": "rules",
    "export": "network",
    "export_onnx": "torch_onnx",
    "require": "rules",
    "summarize": "summary",
    "to_cpu": "cpu_form",
    "to_fp16": "forms",
    "to_int8_carrier": "forms",
    "to_openvino": "openvino_form",
}

__getattr__ = lazily(__name__, _HOMES)
make_callable(__name__)
