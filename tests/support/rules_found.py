"""Which rules a graph breaks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
from export_networks import Exported

from mimiq.export import check, to_fp16
from mimiq.export.graph import load

Export = Callable[[str], Exported]


def found(model: Any, target: Any = "rtx", **options: Any) -> dict[tuple[str, str], int]:
    """How many nodes break each rule, with its severity."""
    findings = check(model, target, **options)
    return dict(Counter((finding.rule, finding.severity) for finding in findings))


def half(exported: Export, label: str, folder: Path) -> ir.Model:
    return load(to_fp16(exported(label).path, folder / "half.onnx"))
