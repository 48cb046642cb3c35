"""The speeds in the serving guide are those that were recorded."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GUIDE = " ".join((ROOT / "docs" / "serving.md").read_text("utf-8").split())
RECORDED = json.loads((ROOT / "benchmarks/results/cpu_serving.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("words", "engine"),
    [
        ("where batches are large: W8A8", "OpenVINO on mimiq w8a8"),
        ("`model.cpu.onnx` under ONNX Runtime gave", "mimiq w8a8"),
        ("NNCF's own INT8 gave", "OpenVINO NNCF int8"),
        ("in the bfloat16 that it chooses there,", "OpenVINO, its own choice"),
    ],
)
def test_speeds_on_one_thread(words: str, engine: str) -> None:
    """Against ONNX Runtime's fp32 at batch 1, 8 and 32."""
    rows = {row["batch"]: row for row in RECORDED["latency"]["1"] if row["engine"] == engine}
    speeds = " / ".join(f"{rows[batch]['speedup']:.1f}" for batch in (1, 8, 32))
    (written,) = re.findall(rf"{re.escape(words)} ([\d./ ]+)×", GUIDE)
    assert written == speeds
