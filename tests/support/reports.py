"""A made-up report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mimiq.runtime.evaluation.comparison import Accuracy, Comparison
from mimiq.runtime.latency.measure import LatencyRow
from mimiq.runtime.report.building import build_report
from mimiq.runtime.report.report import Report, Size

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
