"""How fast a bundle on disk is: against full precision, and on which backend of this CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mimiq.errors import EnvironmentLacks
from mimiq.progress import Progress
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import add_files
from mimiq.runtime.host import cuda_driver_present
from mimiq.runtime.latency import tuned
from mimiq.runtime.latency.measure import Engine, LatencyRow, measure
from mimiq.runtime.latency.tune import UNQUANTIZED, on_this_cpu, tune
from mimiq.runtime.latency.tuned import Measured
from mimiq.runtime.onnxruntime.backend import ORT
from mimiq.runtime.report.building import with_latency
from mimiq.runtime.report.report import Report
from mimiq.spec import Job

_SECONDS = 4.0  # for each batch size; a network that needs more gets its six rounds
_FULL = "fp32"


def timed(
    job: Job, bundle: Bundle, graph: Path, reference: Path, progress: Progress
) -> tuple[Bundle, Measured | None]:
    """Measure latency, where it is asked for, and write it into the bundle's report.

    Where several backends run on this CPU, all of them take turns in the same run, and the fastest
    is written down beside the bundle. Of hosts with a GPU the CPU is not what serves.

    Args:
        graph: the bundle's graph for this host, under ONNX Runtime.
        reference: the network without quantisation as ONNX, a rival on each backend.

    Returns:
        The bundle as it then is, and what all backends gave, if there was a choice.
    """
    if not job.batches:
        return bundle, None
    found: Measured | None = None
    rows: Sequence[LatencyRow] = ()
    if not cuda_driver_present() and len(on_this_cpu()) > 1:
        found = _of_all_backends(job, bundle, reference, progress)
        rows = () if found is None else _of_onnx_runtime(found, job.precision.label)
    if not rows:
        with progress.stage("latency") as stage:
            engines = {_FULL: Engine(reference), job.precision.label: Engine(graph)}
            rows = measure(engines, job.batches, budget_s=_SECONDS, stage=stage)
    bundle = add_files(bundle, report=with_latency(bundle.report or Report(), rows))
    if found is not None:
        tuned.keep(bundle, found)
    return bundle, found


def _of_all_backends(
    job: Job, bundle: Bundle, reference: Path, progress: Progress
) -> Measured | None:
    with progress.stage("latency") as stage:
        try:
            found = tune(bundle, job.batches, unquantized=reference, budget_s=_SECONDS, stage=stage)
        except EnvironmentLacks as error:
            progress.note(f"No backend of this CPU was chosen: {error.problem}")
            return None
        stage.update(text=f"{found.best} is the fastest")
    return found


def _of_onnx_runtime(found: Measured, label: str) -> list[LatencyRow]:
    """Full precision and the bundle there, by the names that a report gives them."""
    names = {ORT.name + UNQUANTIZED: _FULL, ORT.name: label}
    rows = [replace(row, engine=names[row.engine]) for row in found.rows if row.engine in names]
    return rows if {row.engine for row in rows} == set(names.values()) else []
