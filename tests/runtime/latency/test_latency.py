"""Latency: the arithmetic on made-up times, and real engines in processes of their own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from runtime_models import MakeBundle, MakeModel
from watched import WatchedStage

from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.runtime.latency.measure import (
    Engine,
    LatencyRow,
    interleave,
    measure,
    settled_window,
    summarize,
)
from mimiq.runtime.latency.worker import Worker
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession


def test_summary_of_known_times() -> None:
    reference = [[0.020] * 50, [0.040] * 50]
    ours = [[0.010] * 50, [0.010] * 40 + [0.030] * 10]
    row = summarize(ours, reference, engine="int8", backend="x", batch=4)
    assert row.p50_ms == pytest.approx(10)
    assert row.p90_ms == pytest.approx(np.percentile([10] * 90 + [30] * 10, 90))
    assert row.p99_ms == pytest.approx(30)
    assert row.throughput == pytest.approx(4 * 100 / (90 * 0.010 + 10 * 0.030))
    assert row.speedup == pytest.approx((2 + 4) / 2)
    assert row.speedup_quartiles == pytest.approx((2.5, 3.5))
    assert row.runs == 100
    assert row.stable
    assert LatencyRow.from_json(json.loads(json.dumps(row.to_json()))) == row


def test_a_slow_drift_is_seen() -> None:
    assert settled_window([[1.0], [1.01], [1.0], [1.01]])
    assert not settled_window([[1.0], [1.0], [1.1], [1.1]])


def test_turns_alternate_and_a_common_slowdown_leaves_the_ratio() -> None:
    """Two made-up engines on a made-up host that grows slower all the time."""
    calls: list[str] = []
    host = 1.0

    def engine(name: str, milliseconds: float) -> object:
        def run(batch: int, runs: int) -> list[float]:
            nonlocal host
            calls.append(name)
            host *= 1.02
            return [host * milliseconds * batch / 1000] * runs

        return run

    runners = {"fp32": engine("fp32", 200), "int8": engine("int8", 100)}
    rounds = interleave(runners, 2, budget_s=0)  # type: ignore[arg-type]
    turns = calls[-12:]  # after the warm-up
    assert turns == ["fp32", "int8", "int8", "fp32"] * 3
    row = summarize(rounds["int8"], rounds["fp32"], engine="int8", backend="x", batch=2)
    assert row.speedup == pytest.approx(2, rel=0.03)
    assert not row.stable


def test_engines_in_processes_of_their_own(make_model: MakeModel) -> None:
    """The second does about forty times the work of the first."""
    small = make_model("small.onnx", hidden=1)
    large = make_model("large.onnx", hidden=40)
    rows = measure(
        {"small": Engine(small, "ort", threads=1), "large": Engine(large, "ort", threads=1)},
        batches=(1, 16),
        budget_s=0.5,
    )
    assert [(row.batch, row.engine) for row in rows] == [
        (1, "small"),
        (1, "large"),
        (16, "small"),
        (16, "large"),
    ]
    for row in rows:
        assert row.backend == "onnxruntime-cpu"
        assert 0 < row.p50_ms <= row.p90_ms <= row.p99_ms
        assert row.throughput > 0
        assert row.runs >= 6
        low, high = row.speedup_quartiles
        assert low <= row.speedup <= high
        assert row.speedup == 1 if row.engine == "small" else row.speedup < 0.7


def test_bundles_and_open_sessions(make_bundle: MakeBundle, make_model: MakeModel) -> None:
    bundle, seen = make_bundle(), WatchedStage()
    with OnnxRuntimeSession(make_model("other.onnx"), spinning=False) as session:
        rows = measure(
            {"bundle": Engine(bundle.path, "ort"), "open": session},
            batches=(2,),
            budget_s=0.2,
            stage=seen,
        )
    assert [row.engine for row in rows] == ["bundle", "open"]
    assert seen.updates == [(0, "batch 2", 1), (1, None, None)]


def test_errors_cross_the_process_boundary(tmp_path: Path, make_model: MakeModel) -> None:
    with pytest.raises(BadInput, match="no bundle at") as caught:
        measure({"absent": Engine(tmp_path / "absent")})
    assert caught.value.next_step
    fixed = make_model(batch=2)
    with pytest.raises(BadInput, match="batches of 2 images, not 3"):
        measure({"fixed": Engine(fixed, "ort")}, batches=(3,), budget_s=0.1)


def test_a_peer_brings_a_process_of_its_own(make_model: MakeModel) -> None:
    program = """
from mimiq.runtime.latency.worker import serve
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession

def open_peer(engine):
    session = OnnxRuntimeSession(engine.path, threads=engine.threads)
    session.backend = "peer of " + engine.backend
    return session

serve(open_peer)
"""
    engine = Engine(make_model(), "theirs", 1, (sys.executable, "-c", program))
    with Worker("peer", engine) as worker:
        assert worker.backend == "peer of theirs"
        assert len(worker.run(2, 3)) == 3


def test_a_worker_that_dies_is_reported(make_model: MakeModel) -> None:
    with Worker("victim", Engine(make_model(), "ort")) as worker:
        assert len(worker.run(1, 3)) == 3
        os.kill(worker._process.pid, 9)
        with pytest.raises(EnvironmentLacks, match="victim was ended by signal 9"):
            worker.run(1, 3)


@pytest.mark.parametrize("batches", [(), (0,), (1, -1)])
def test_bad_batches(make_model: MakeModel, batches: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="batch sizes"):
        measure({"a": Engine(make_model())}, batches=batches)
    with pytest.raises(BadInput, match="needs an engine"):
        measure({})
