"""The speeds in the serving guide are those that were recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORDED = json.loads((ROOT / "benchmarks/results/cpu_serving.json").read_text("utf-8"))
ENGINES = {
    "`--int8` | OpenVINO": "mimiq w8a8, OpenVINO",
    "`--int4` | OpenVINO": "mimiq w4a8, OpenVINO",
    "`--int8` | ONNX Runtime": "mimiq w8a8",
    "`--int4` | ONNX Runtime": "mimiq w4a8",
    "`--int4 --weight-only` | OpenVINO": "mimiq w4a16-b64, OpenVINO",
    "`--int4 --weight-only` | ONNX Runtime": "mimiq w4a16-b64",
    "NNCF's INT8 | OpenVINO": "OpenVINO NNCF int8",
    "not quantised, bfloat16 | OpenVINO": "OpenVINO, its own choice",
    "ONNX Runtime's own static INT8, the faster form | ONNX Runtime": "ONNX Runtime static u8s8",
}


def speeds(engine: str, threads: int) -> str:
    """Against ONNX Runtime's fp32 at batch 1, 8 and 32, as the README writes them."""
    rows = {r["batch"]: r for r in RECORDED["latency"][str(threads)] if r["engine"] == engine}
    return " / ".join(f"{rows[batch]['speedup']:.1f}" for batch in (1, 8, 32)) + "×"


@pytest.mark.parametrize("written", ENGINES)
def test_speeds_in_the_readme(written: str) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    engine = ENGINES[written]
    assert f"| {written} | {speeds(engine, 1)} | {speeds(engine, 2)} |" in readme


def test_ours_is_never_behind_the_best_rival() -> None:
    """Where the README's table says so: within 2 % at every batch size and thread count."""
    ours = {"mimiq w8a8, OpenVINO", "mimiq w4a8, OpenVINO"}
    for rows in RECORDED["latency"].values():
        for batch in (1, 8, 32):
            found = {row["engine"]: row["speedup"] for row in rows if row["batch"] == batch}
            rivals = [speed for engine, speed in found.items() if "mimiq" not in engine]
            assert all(found[engine] >= 0.98 * max(rivals) for engine in ours)


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
