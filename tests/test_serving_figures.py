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


def test_the_table_of_many_clients() -> None:
    """Requests a second and p99 of DeiT-T, as medians over the rounds."""
    path = ROOT / "benchmarks/results/serving_load.json"
    rows = json.loads(path.read_text("utf-8"))["networks"]["deit_t w8a8"]["rows"]
    recorded: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        line = (row["runtime"], row["batching"], str(row["workers"]))
        figures = f"{row['throughput'][1]:.0f} / {row['p99_ms'][1]:.0f}"
        recorded.setdefault(line, []).append(figures)
    section = (ROOT / "docs" / "serving.md").read_text("utf-8").partition("### Many clients")[2]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    written = {tuple(line[:3]): line[3:] for line in cells[: len(recorded)]}
    assert written == recorded
