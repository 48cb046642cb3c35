"""Measuring a bundle on every backend of this host's CPU, and choosing the fastest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from math import prod
from pathlib import Path

import numpy as np

from mimiq.errors import EnvironmentLacks, MimiqError
from mimiq.progress import SILENT_STAGE, Stage
from mimiq.runtime.backend import Backend
from mimiq.runtime.backends import BACKENDS
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.evaluation.held_out import explained_by_rounding, relative_error
from mimiq.runtime.host import describe_software, instruction_sets, usable_cores
from mimiq.runtime.latency.measure import Engine, LatencyRow, measure
from mimiq.runtime.latency.tuned import Host, Measured
from mimiq.runtime.onnxruntime.backend import ORT
from mimiq.runtime.preprocessing import FloatArray

_TIE = 0.98  # of the fastest: what is as fast
_IMAGES = 4
_NUDGE = np.float32(1e-6)
UNQUANTIZED = ", not quantised"


def on_this_cpu() -> list[Backend]:
    """The backends that run here on the CPU, ONNX Runtime first."""
    found = [b for b in reversed(BACKENDS) if b.label.endswith("-cpu") and b.why_not() is None]
    if not found:
        raise EnvironmentLacks("No backend runs on this CPU.", "See what is missing with doctor.")
    return found


def tune(
    bundle: Bundle,
    batches: Sequence[int],
    *,
    threads: int | None = None,
    unquantized: Path | None = None,
    budget_s: float = 20.0,
    stage: Stage = SILENT_STAGE,
) -> Measured:
    """Measure all backends of this CPU in turns, and choose the fastest that answers alike.

    Args:
        bundle: what to measure.
        batches: batch sizes.
        threads: of each; None for as many as this process may use.
        unquantized: the network without quantisation as ONNX, which each backend is given as well,
            to be run in whatever precision the backend finds fastest.
        budget_s: seconds for each batch size.
        stage: told each batch size as it begins.

    Raises:
        BadInput, EnvironmentLacks: as :func:`mimiq.runtime.latency.measure.measure`.
    """
    count = threads or usable_cores()
    backends = on_this_cpu()
    stage.update(text="comparing answers")
    unfit = left_out(bundle, backends, count)
    alike = [backend for backend in backends if backend.name not in unfit]
    if not alike:
        raise EnvironmentLacks("No backend runs this bundle on this CPU.", " ".join(unfit.values()))
    engines: dict[str, Engine] = {}
    if unquantized is not None:
        for backend in alike:
            engines[backend.name + UNQUANTIZED] = Engine(unquantized, backend.name, count)
    engines |= {backend.name: Engine(bundle.path, backend.name, count) for backend in alike}
    rows = measure(engines, batches, budget_s=budget_s, stage=stage)
    best = choose(rows, [backend.name for backend in alike])
    titles = {backend.name: backend.title for backend in backends}
    return Measured(
        host=Host.here(),
        threads=count,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        software=describe_software(),
        best=best,
        rows=tuple(rows),
        notes=(*unfit.values(), *sentences(rows, best, titles)),
    )


def left_out(bundle: Bundle, backends: Sequence[Backend], threads: int) -> dict[str, str]:
    """By name, a sentence on each backend that does not start, or answers otherwise.

    Two roundings of one network differ by about twice what one of them loses; that is in the
    bundle's report. Where there is none, all answers are taken.
    """
    shape = (_IMAGES, *bundle.preprocessing.input_shape)
    images: FloatArray = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    found: dict[str, str] = {}
    answers: dict[str, FloatArray] = {}
    own = 0.0
    for backend in backends:
        try:
            with backend.open(bundle, threads=threads) as session:
                answers[backend.name] = session.run(images)
                if backend == ORT:
                    nudged = session.run(images * (1 + _NUDGE))
                    own = relative_error(nudged, answers[backend.name])
        except MimiqError as error:
            found[backend.name] = f"{backend.title} is left out: {error.problem}"
    report, wanted = bundle.report, answers.get(ORT.name)
    if report is None or report.held_out is None or wanted is None:
        return found
    bound = explained_by_rounding(report.held_out.logit_error, own)
    for backend in backends:
        difference = relative_error(answers.get(backend.name, wanted), wanted)
        if difference > bound:
            found[backend.name] = (
                f"{backend.title} is left out: its logits differ from ONNX Runtime's by "
                f"{difference:.2%} of their variance, where rounding explains {bound:.2%}."
            )
    return found


def choose(rows: Sequence[LatencyRow], names: Sequence[str]) -> str:
    """The fastest by the geometric mean over batch sizes; of those as fast, the first named."""
    means = {
        name: prod(row.speedup for row in rows if row.engine == name)
        ** (1 / max(1, sum(row.engine == name for row in rows)))
        for name in names
    }
    return next(name for name in names if means[name] >= _TIE * max(means.values()))


def sentences(rows: Sequence[LatencyRow], best: str, titles: Mapping[str, str]) -> list[str]:
    """What is fastest, by how much, and where the network without quantisation is as fast.

    Args:
        rows: of all engines; those without quantisation have :data:`UNQUANTIZED` in their names.
        best: the backend that was chosen.
        titles: of the backends, by their names.
    """
    speed = {(row.engine, row.batch): row.speedup for row in rows}
    batches = list(dict.fromkeys(row.batch for row in rows))
    found = []
    for other in titles:
        if other != best and (other, batches[0]) in speed:
            ratios = [speed[best, batch] / speed[other, batch] for batch in batches]
            found.append(
                f"{titles[best]} is {_listed(f'{ratio:.2f}' for ratio in ratios)} times as fast as "
                f"{titles[other]} at batch {_listed(map(str, batches))}."
            )
    for name in titles:
        plain = name + UNQUANTIZED
        level = [b for b in batches if speed.get((plain, b), 0.0) >= _TIE * speed[best, b]]
        if level:
            kind = "in bfloat16 " if name == "openvino" and _multiplies_bfloat16() else ""
            found.append(
                f"At batch {_listed(map(str, level))} the network without quantisation is as fast "
                f"{kind}on {titles[name]}: there quantisation gains size and memory, and speed on "
                "hosts whose CPU has less."
            )
    return found


def _multiplies_bfloat16() -> bool:
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(instruction_sets()))


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
