"""Reports: complete as data, readable as text, and plain about bad news."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from rich.console import Console

from mimiq.runtime.evaluation.accuracy import Accuracy, Comparison
from mimiq.runtime.evaluation.held_out import Cost, HeldOut
from mimiq.runtime.latency.measure import LatencyRow
from mimiq.runtime.report.report import Report, Size, Tuning, build_report
from mimiq.runtime.report.terminal import render

HARDWARE = {"cpu": "Imaginary 9000", "cores": 2, "instruction_sets": ["avx2"], "gpus": []}
COMPARISON = Comparison(
    accuracy=Accuracy(500, 394, 480),
    reference=Accuracy(500, 397, 482),
    agreeing=490,
    only_model=3,
    only_reference=6,
    max_logit_difference=0.5,
    mean_logit_difference=0.1,
    logit_error=0.0123,
)


def row(engine: str, batch: int, speedup: float, **changes: Any) -> LatencyRow:
    base = LatencyRow(
        engine=engine,
        backend="onnxruntime-cpu",
        batch=batch,
        p50_ms=20 / speedup,
        p90_ms=22 / speedup,
        p99_ms=25 / speedup,
        throughput=50 * batch * speedup,
        speedup=speedup,
        speedup_quartiles=(0.98 * speedup, 1.02 * speedup),
        runs=200,
        stable=True,
    )
    return replace(base, **changes)


def report(**changes: Any) -> Report:
    values: dict[str, Any] = {
        "model": {"name": "deit_t", "num_classes": 1000, "untrained": False},
        "precision": {"label": "w8a8"},
        "size": Size(6_000_000, 23_000_000),
        "dataset": "imagenet-sample",
        "accuracy": COMPARISON,
        "latency": [row("fp32", 1, 1.0), row("w8a8", 1, 1.5)],
        "hardware": HARDWARE,
    }
    return build_report(**{**values, **changes})


def text(data: Report) -> str:
    console = Console(width=140, record=True, quiet=True, force_terminal=False)
    with console.capture() as capture:
        console.quiet = False
        console.print(render(data))
    return capture.get()


def test_a_report_survives_json_and_shows_its_numbers() -> None:
    tuning = Tuning(100, 0.5, 0.25, 50, ((0, 0.5), (50, 0.25)), agreement=0.9, seconds=3.5)
    cost = HeldOut({"synthetic": Cost(48, 47, 0.06, 0.01)})
    whole = replace(report(), tuning=tuning, seconds=60.5, held_out=cost, simulation=COMPARISON)
    data = Report.from_json(json.loads(json.dumps(whole.to_json(), allow_nan=False)))
    assert data == whole
    shown = text(data)
    for number in ("79.40 %", "78.80 %", "-0.60 points", "98.00 %", "3.83× smaller", "1.50×"):
        assert number in shown, shown
    assert "Imaginary 9000" in shown
    assert "500 images" in shown
    assert "faster than w8a8" not in shown


def test_the_interval_is_that_of_the_difference() -> None:
    low, high = COMPARISON.drop_interval
    assert f"[{-high:+.2f}, {-low:+.2f}]" in text(report())
    assert -high < -0.6 < -low


def test_slower_low_precision_is_said_plainly() -> None:
    latency = [row("fp32", 1, 1.0), row("w8a8", 1, 0.8), row("fp32", 8, 1.0), row("w8a8", 8, 1.3)]
    notes = report(latency=latency).notes
    assert any(
        "fp32 is faster than w8a8 on this host" in n and "batch 1 (0.80×)" in n for n in notes
    )
    assert not any("batch 1 (0.80×), 8" in n for n in notes)


def test_an_undecided_ratio_is_not_called_slower() -> None:
    undecided = row("w8a8", 1, 0.99, speedup_quartiles=(0.9, 1.05))
    assert not any(
        "faster" in note for note in report(latency=[row("fp32", 1, 1), undecided]).notes
    )


def test_other_bad_news() -> None:
    data = report(
        model={"name": "deit_t", "untrained": True},
        latency=[row("fp32", 1, 1.0, stable=False, runs=6)],
        fallbacks=["blocks.0.attn runs in fp16: head size 80 has no int8 kernel"],
        notes=["said by the caller"],
    )
    notes = "\n".join(data.notes)
    assert data.notes[0] == "said by the caller"
    assert "random" in notes
    assert "had not settled" in notes
    assert "6 runs" in notes
    shown = text(data)
    assert "UNTRAINED" in shown
    assert "head size 80" in shown


def test_a_report_with_nothing_measured() -> None:
    data = report(accuracy=None, latency=[], size=Size(), dataset=None)
    assert data.notes == ()
    assert "deit_t → w8a8" in text(data)


def test_entries_that_this_version_does_not_know_are_kept() -> None:
    data = report().to_json() | {"energy": {"joules": 3}}
    assert Report.from_json(data).to_json() == data
