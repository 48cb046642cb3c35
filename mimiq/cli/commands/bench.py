"""``bench``: what a bundle's latency is on this host, and whether low precision helped."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimiq.cli import choices, options
from mimiq.cli.commanding import Command
from mimiq.cli.flags import with_flags
from mimiq.cli.output import print_json, show, show_report, table, working
from mimiq.cli.parameters import PATH
from mimiq.errors import BadInput, MimiqError

if TYPE_CHECKING:
    from mimiq.export.tensorrt.proof import Proof
    from mimiq.progress import Stage
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.latency.measure import Engine, LatencyRow
    from mimiq.runtime.tensorrt.session import TensorRTSession

# What is counted when the GPU's own clock measures, as arguments of device_runner.
_COUNTED: dict[str, dict[str, bool]] = {
    "device": {},
    "device and copies": {"copies": True},
    "device, no CUDA graph": {"cuda_graphs": False},
}


@click.command(
    cls=Command,
    short_help="Latency and throughput of a bundle.",
    examples=(
        ("mimiq bench deit_t-w8a8.mimiq --batches 1,8", "latency and throughput here"),
        ("mimiq bench deit_t-w8a8.mimiq --against fp32.onnx", "in turns with another"),
        ("mimiq bench deit_t-w8a8.mimiq --tune", "which backend is the fastest on this CPU"),
    ),
)
@click.argument("bundle", type=PATH)
@options.option(
    "Measurement",
    "--against",
    type=PATH,
    help="A bundle or ONNX file to take turns with: the ratio is formed pair by pair.",
)
@options.batches_option
@options.backend_option
@options.option(
    "Measurement",
    "--threads",
    type=click.IntRange(1, 1024),
    help="On the CPU; by default all that this process may use. Refused where a "
    "TensorRT engine would run.",
)
@options.option(
    "Measurement",
    "--seconds",
    type=click.FloatRange(0, 86_400, min_open=True),
    default=20.0,
    show_default=True,
    help="To spend on each batch size.",
)
@options.option(
    "Measurement",
    "--tune",
    is_flag=True,
    help="Measure every backend of this CPU that is installed, also on the network without "
    "quantisation, and write the fastest beside the bundle: auto takes it from then on.",
)
@options.say_options
def bench(
    bundle: Path,
    against: Path | None,
    batches: tuple[int, ...],
    backend: str,
    threads: int | None,
    seconds: float,
    tune: bool,
    say: choices.Say,
) -> None:
    """Measure BUNDLE's latency and throughput, alone or in turns with another.

    End to end first: from an array in memory to an array in memory. Of TensorRT engines also the
    time on the GPU itself, with and without copies and CUDA graphs, in turns with the same network
    in FP16 or with --against, and whether low precision helped.
    """
    from mimiq.cli.terminal_progress import shown_progress
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.gpus import gpu_state
    from mimiq.runtime.latency.measure import Engine, measure
    from mimiq.runtime.report.report import build_report

    if tune:
        from mimiq.cli.tuning import tune_and_show

        if against is not None or backend != choices.BACKENDS[0]:
            raise BadInput("--tune compares all backends.", "Leave --against and --backend out.")
        tune_and_show(bundle, batches, threads, seconds, say)
        return
    opened = Bundle(bundle)
    engines = {}
    if against is not None:
        if not against.exists():
            raise BadInput(f"--against {against} does not exist.", "Check the path.")
        engines[_name(against, bundle)] = Engine(against, backend, threads)
    engines[_name(bundle, against)] = Engine(bundle, backend, threads)
    with working(), shown_progress(say.quiet).stage("latency") as stage:
        before = gpu_state()
        rows = measure(engines, batches, budget_s=seconds, stage=stage)
        device = measure_device(engines, opened, against, batches, seconds, stage)
        states = {"before": before, "after": gpu_state()}
    report = build_report(
        model=opened.manifest.model,
        precision=opened.precision.to_json(),
        latency=rows,
    )
    lines = [*device.left_out, *_verdict(device)]
    if say.json:
        found = {
            "bundle": str(bundle),
            "against": str(against) if against else None,
            "device": {how: [row.to_json() for row in rows] for how, rows in device.rows.items()},
            "gpu_state": states,
            "verdict": lines,
        }
        print_json(found | report.to_json())
        return
    show_report(report)
    for how, measured in device.rows.items():
        show("", _device_table(how, measured))
    if device.rows:
        show(*(f"GPU {when}: {_words(state)}" for when, state in states.items() if state))
    show(*lines)


@dataclass(frozen=True)
class DeviceTimes:
    """What was measured on the GPU's own clock.

    Attributes:
        rows: by what was counted; empty where no engine is TensorRT's.
        proofs: of the engines that were measured, by their names in the rows; where recorded.
        missing: why there was no FP16 engine to measure beside.
        left_out: what is said of batches outside of an engine's profile.
    """

    rows: dict[str, list[LatencyRow]]
    proofs: Mapping[str, Proof] = field(default_factory=dict)
    missing: str | None = None
    left_out: tuple[str, ...] = ()


def measure_device(
    engines: Mapping[str, Engine],
    bundle: Bundle,
    against: Path | None,
    batches: Sequence[int],
    seconds: float,
    stage: Stage,
) -> DeviceTimes:
    """Time on the GPU by CUDA events, engines taking turns; nothing where none is TensorRT's.

    A bundle alone is measured beside its own network in FP16.
    """
    from mimiq.runtime.latency.worker import open_engine
    from mimiq.runtime.tensorrt.session import TensorRTSession

    with ExitStack() as stack:
        sessions: dict[str, TensorRTSession] = {}
        proofs: dict[str, Proof] = {}
        for name, engine in engines.items():
            session: Any = stack.enter_context(open_engine(engine))
            if isinstance(session, TensorRTSession):
                sessions[name] = session
                proof = _recorded_proof(engine.path, session)
                if proof is not None:
                    proofs[name] = proof
        if not sessions:
            return DeviceTimes({})
        missing = None
        if against is None:
            stage.update(text="building the network in FP16")
            try:
                twin, half = stack.enter_context(half_session(bundle, *sessions.values()))
                sessions, proofs = {"FP16": twin, **sessions}, {"FP16": half, **proofs}
            except MimiqError as error:
                missing = with_flags(f"{error.problem} {error.next_step}")
        low = max(session.tensors.smallest for session in sessions.values())
        high = min(session.tensors.largest for session in sessions.values())
        fitting = [batch for batch in batches if low <= batch <= high]
        rows = device_rows(sessions, fitting, seconds, stage)
        left_out = tuple(
            f"Batch {batch} is outside of the engines' profile, {low} to {high}: end to end it "
            "runs in parts or padded, on the GPU's clock it was left out."
            for batch in batches
            if batch not in fitting
        )
        return DeviceTimes(rows, proofs, missing, left_out)


@contextmanager
def half_session(
    bundle: Bundle, session: TensorRTSession
) -> Iterator[tuple[TensorRTSession, Proof]]:
    """The same network in FP16, built now with the same product and profile."""
    from mimiq.export.tensorrt.twin import build_half_twin
    from mimiq.runtime.tensorrt.session import TensorRTSession

    product = session.product
    smallest, largest = session.tensors.smallest, session.tensors.largest
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "half.plan"
        profile = smallest, min(max(smallest, 8), largest), largest
        proof = build_half_twin(bundle, product, profile, plan)
        with TensorRTSession(plan, product.load(), product, runtime_cache=False) as twin:
            yield twin, proof


def device_rows(
    sessions: Mapping[str, TensorRTSession], batches: Sequence[int], seconds: float, stage: Stage
) -> dict[str, list[LatencyRow]]:
    """Rows by what is counted, each engine's ratio to the first's, pair by pair.

    Raises:
        BadInput: a batch is outside of an engine's profile.
    """
    from mimiq.runtime.latency.measure import interleave, summarize
    from mimiq.runtime.tensorrt.timing import device_runner

    found: dict[str, list[LatencyRow]] = {}
    for how, counted in _COUNTED.items():
        runners = {name: device_runner(s, **counted) for name, s in sessions.items()}
        found[how] = []
        for batch in batches:
            stage.update(text=f"{how} at batch {batch}")
            rounds = interleave(runners, batch, seconds)
            reference = rounds[next(iter(rounds))]
            for name, own in rounds.items():
                backend = sessions[name].backend
                found[how].append(
                    summarize(own, reference, engine=name, backend=backend, batch=batch)
                )
    return found


def _recorded_proof(path: Path, session: TensorRTSession) -> Proof | None:
    """Of the engine that was opened: a bundle may hold several, and not the first may run here."""
    from mimiq.export.tensorrt.engines import recorded_proofs
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.tensorrt.record import ENGINES

    # Read anew, since opening may have built the engine again.
    proofs = recorded_proofs(Bundle(path, verify=False))
    return proofs.get(f"{ENGINES}{session.path.name}")


def _verdict(device: DeviceTimes) -> list[str]:
    """Whether this bundle's engine is faster than the reference, and if not, what may be why."""
    from mimiq.export.tensorrt.verdict import verdict
    from mimiq.runtime.gpus import describe_gpus

    if device.missing is not None:
        return [f"No verdict against FP16: {device.missing}"]
    rows = device.rows.get("device") or []
    names = list(dict.fromkeys(row.engine for row in rows))
    if len(names) < 2:
        return []
    gpu = next((str(gpu["name"]) for gpu in describe_gpus()), "this GPU")
    ours = [row for row in rows if row.engine == names[1]]
    reference, low = (device.proofs.get(name) for name in names[:2])
    return verdict(ours, gpu, low, reference, names[0])


def _words(state: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in state.items())


def _device_table(how: str, rows: Sequence[LatencyRow]) -> Any:
    headings = ["batch", "engine", "p50 ms", "p90 ms", "p99 ms", "images/s"]
    alone = len({row.engine for row in rows}) == 1
    if not alone:
        headings.append("speed")
    cells = [
        (
            row.batch,
            row.engine,
            *(f"{value:.3f}" for value in (row.p50_ms, row.p90_ms, row.p99_ms)),
            f"{row.throughput:.0f}",
            *(() if alone else (f"{row.speedup:.2f}×",)),
        )
        for row in rows
    ]
    return table(headings, cells, f"Latency, {how}")


def _name(path: Path, other: Path | None) -> str:
    """The path's last part, or the whole of it where the other's is the same."""
    clash = other is not None and other.absolute().name == path.absolute().name
    return str(path) if clash else path.absolute().name
