"""Figures of the nightly tests, kept where they are asked for: MIMIQ_RECORD=1."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def record(name: str, command: str, figures: dict[str, Any]) -> None:
    """Print the figures; with MIMIQ_RECORD=1 also keep them, in ``benchmarks/results``."""
    from mimiq.runtime.host import describe_hardware

    print(f"{name}: {json.dumps(figures)}")
    if os.environ.get("MIMIQ_RECORD", "") in ("", "0"):
        return
    content = {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": describe_hardware(),
        "software": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "onnx", "numpy", "onnxruntime-gpu")},
        },
        "figures": figures,
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (RESULTS / f"robustness_{name}.json").write_text(text, encoding="utf-8")


def resident_bytes(pid: int | None = None) -> int:
    """What a process, by default this one, has in memory. For Linux."""
    pages = int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
