"""Latency of several engines side by side: interleaved, pair by pair, in one run.

On one machine a clock, a neighbour or the heat moves every absolute time by more than the
differences of interest. So the engines take turns, burst by burst, in alternating order, and each
burst is compared with the reference's burst of the same round. On a CPU two engines in one process
also disturb each other, for the idle threads of one keep spinning while the other works; so each
engine that is given as a file runs in a process of its own, set up as it would be in production,
and waits on a pipe, its threads asleep, while another has its turn.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mimiq.errors import BadInput
from mimiq.progress import SILENT_STAGE, Stage
from mimiq.runtime.latency.rest import wait_for_rest
from mimiq.runtime.preprocessing import FloatArray
from mimiq.runtime.session import Session

Runner = Callable[[int, int], Sequence[float]]
"""Runs batches of a size so many times: (batch, runs) → seconds of each run."""

_MIN_ROUNDS = 6
_MIN_RUNS = 100  # fewer, and the 99th percentile is the slowest run
_DRIFT = 0.02  # between the halves of a stable window
_BURST_SECONDS = 0.1
_BURST_RUNS = 100
_WARMUP_SECONDS = 0.5


@dataclass(frozen=True)
class Engine:
    """What a measuring process opens.

    Attributes:
        path: a bundle's folder, or an ONNX file.
        backend: see :func:`mimiq.runtime.open_bundle`; an ONNX file runs under ONNX Runtime
            or OpenVINO.
        threads: on the CPU, or None for the runtime's own choice.
        command: what to run as the measuring process; None for ours. A peer's calls
            :func:`mimiq.runtime.latency.worker.serve` with a way to open its engines.
    """

    path: Path
    backend: str = "auto"
    threads: int | None = None
    command: tuple[str, ...] | None = None


@dataclass(frozen=True)
class LatencyRow:
    """One engine at one batch size; end to end, from array in memory to array in memory.

    Attributes:
        engine: the name given to it.
        backend: what ran it, e.g. ``onnxruntime-cpu``.
        batch: images a run.
        p50_ms, p90_ms, p99_ms: percentiles of a run's time in milliseconds. Of fewer than 100
            runs the 99th percentile is close to the slowest.
        throughput: images a second, over all timed runs.
        speedup: the reference's time over this engine's, the median over rounds; above 1 this
            engine is faster. 1 for the reference itself.
        speedup_quartiles: 25th and 75th percentile of the same.
        runs: timed runs.
        stable: whether the time had settled: the two halves of the window differ by less than
            2 % in their median.
    """

    engine: str
    backend: str
    batch: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    throughput: float
    speedup: float
    speedup_quartiles: tuple[float, float]
    runs: int
    stable: bool

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "speedup_quartiles": list(self.speedup_quartiles)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> LatencyRow:
        low, high = data["speedup_quartiles"]
        return LatencyRow(**{**data, "speedup_quartiles": (low, high)})


def measure(
    engines: Mapping[str, Engine | Session],
    batches: Sequence[int] = (1, 8, 32),
    *,
    budget_s: float = 20.0,
    stage: Stage = SILENT_STAGE,
) -> list[LatencyRow]:
    """Measure engines against the first of them.

    Args:
        engines: by name, the reference first. An :class:`Engine` gets a process of its own; an
            open session is measured in this one (open CPU sessions with ``spinning=False`` if
            there are several).
        batches: batch sizes.
        budget_s: seconds to spend on each batch size, warm-up apart; less when all times settle
            early. A slow engine gets six rounds at least.
        stage: told each batch size as it begins.

    Returns:
        One row an engine and batch size, by batch size first.

    Raises:
        BadInput: no engines, a batch size below 1, or an engine cannot be opened or run.
        EnvironmentLacks: a backend is not on this host, or a measuring process died.
    """
    if not engines or not batches or min(batches) < 1:
        raise BadInput(
            "Latency needs an engine and batch sizes of 1 or more.", "For example `batches=1,8,32`."
        )
    with ExitStack() as stack:
        runners: dict[str, Runner] = {}
        backends: dict[str, str] = {}
        for name, engine in engines.items():
            if isinstance(engine, Engine):
                from mimiq.runtime.latency.worker import Worker

                worker = stack.enter_context(Worker(name, engine))
                runners[name], backends[name] = worker.run, worker.backend
            else:
                runners[name], backends[name] = session_runner(engine), engine.backend
        rows: list[LatencyRow] = []
        for done, batch in enumerate(batches):
            stage.update(done, f"batch {batch}", total=len(batches))
            rows += _measure_batch(runners, backends, batch, budget_s)
        stage.update(len(batches))
    return rows


def session_runner(session: Session) -> Runner:
    """Time an open session's ``run`` on random images, end to end."""
    images: dict[int, FloatArray] = {}

    def run(batch: int, runs: int) -> list[float]:
        if batch not in images:
            images.clear()
            generator = np.random.default_rng(batch)
            shape = (batch, *session.input_shape)
            images[batch] = generator.standard_normal(shape, dtype=np.float32)
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            session.run(images[batch])
            seconds.append(time.perf_counter() - start)
        wait_for_rest()
        return seconds

    return run


def interleave(
    runners: Mapping[str, Runner], batch: int, budget_s: float
) -> dict[str, list[list[float]]]:
    """Let the runners take turns until their times settle or the budget is spent.

    Returns:
        Seconds of each timed run, by runner and round; every runner has as many rounds.
    """
    lengths = {name: _warm_up(runner, batch) for name, runner in runners.items()}
    rounds: dict[str, list[list[float]]] = {name: [] for name in runners}
    names = list(runners)
    deadline = time.monotonic() + budget_s
    for number in itertools.count():
        # A B, then B A: a slow drift hits both alike.
        for name in names if number % 2 == 0 else reversed(names):
            # The first run of a burst finds the caches full of the other engine's data; where one
            # run is a burst of its own, that is lost in it.
            settle = 1 if lengths[name] > 1 else 0
            burst = runners[name](batch, settle + lengths[name])[settle:]
            rounds[name].append(list(burst))
        if number + 1 < _MIN_ROUNDS:
            continue
        settled = all(settled_window(r) and _runs(r) >= _MIN_RUNS for r in rounds.values())
        if settled or time.monotonic() > deadline:
            return rounds
    raise AssertionError("unreachable")


def settled_window(rounds: Sequence[Sequence[float]]) -> bool:
    """Whether the medians of the window's halves differ by less than 2 %."""
    half = len(rounds) // 2
    first, second = (
        float(np.median(list(itertools.chain(*part)))) for part in (rounds[:half], rounds[half:])
    )
    return abs(first - second) < _DRIFT * min(first, second)


def summarize(
    rounds: Sequence[Sequence[float]],
    reference: Sequence[Sequence[float]],
    *,
    engine: str,
    backend: str,
    batch: int,
) -> LatencyRow:
    """Percentiles of one engine's runs, and its pairwise speed against the reference's."""
    seconds = np.asarray(list(itertools.chain(*rounds)))
    p50, p90, p99 = (float(1000 * value) for value in np.percentile(seconds, (50, 90, 99)))
    pairs = [
        float(np.median(theirs) / np.median(ours))
        for theirs, ours in zip(reference, rounds, strict=True)
    ]
    low, middle, high = (float(value) for value in np.percentile(pairs, (25, 50, 75)))
    return LatencyRow(
        engine=engine,
        backend=backend,
        batch=batch,
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        throughput=float(batch * len(seconds) / seconds.sum()),
        speedup=middle,
        speedup_quartiles=(low, high),
        runs=len(seconds),
        stable=settled_window(rounds),
    )


def _measure_batch(
    runners: Mapping[str, Runner], backends: Mapping[str, str], batch: int, budget_s: float
) -> Iterator[LatencyRow]:
    rounds = interleave(runners, batch, budget_s)
    reference = rounds[next(iter(runners))]
    for name in runners:
        yield summarize(rounds[name], reference, engine=name, backend=backends[name], batch=batch)


def _warm_up(runner: Runner, batch: int) -> int:
    """Run until caches, clocks and thread pools are warm; returns the runs of one burst."""
    seconds = list(runner(batch, 2))
    while (left := _WARMUP_SECONDS - sum(seconds)) > 0:
        typical = max(float(np.median(seconds)), 1e-9)
        seconds += runner(batch, int(np.clip(np.ceil(left / typical), 1, 10 * len(seconds))))
    typical = max(float(np.median(seconds)), 1e-9)
    return int(np.clip(round(_BURST_SECONDS / typical), 1, _BURST_RUNS))


def _runs(rounds: Sequence[Sequence[float]]) -> int:
    return sum(len(burst) for burst in rounds)
