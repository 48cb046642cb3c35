"""Engines on the GPU's own clock, and whether low precision helped them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimiq.errors import MimiqError
from mimiq.export.tensorrt.engines import recorded_proofs
from mimiq.export.tensorrt.proof import Proof
from mimiq.export.tensorrt.verdict import verdict
from mimiq.progress import Stage
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.gpus import describe_gpus
from mimiq.runtime.latency.measure import Engine, LatencyRow, interleave, summarize
from mimiq.runtime.latency.worker import open_engine
from mimiq.runtime.tensorrt.record import ENGINES
from mimiq.runtime.tensorrt.session import TensorRTSession
from mimiq.runtime.tensorrt.timing import device_runner

# What is counted when the GPU's own clock measures, as arguments of device_runner.
_COUNTED: dict[str, dict[str, bool]] = {
    "device": {},
    "device and copies": {"copies": True},
    "device, no CUDA graph": {"cuda_graphs": False},
}


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
                missing = f"{error.problem} {error.next_step}"
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
    from mimiq.export.tensorrt.twin import build_half_twin  # rewrites graphs

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
    # Read anew, since opening may have built the engine again.
    proofs = recorded_proofs(Bundle(path, verify=False))
    return proofs.get(f"{ENGINES}{session.path.name}")


def verdict_on(device: DeviceTimes) -> list[str]:
    """Whether the bundle's engine is faster than the reference, and what may be why if not."""
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
