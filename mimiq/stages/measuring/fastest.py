"""Which backend of this CPU is the fastest for a bundle: measured once it is on disk."""

from __future__ import annotations

from pathlib import Path

from mimiq.errors import EnvironmentLacks
from mimiq.progress import Progress
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.host import cuda_driver_present
from mimiq.runtime.latency import tuned
from mimiq.runtime.latency.tune import on_this_cpu, tune
from mimiq.runtime.latency.tuned import Measured
from mimiq.spec import Job

_SECONDS = 6.0  # for each batch size


def fastest_backend(
    job: Job, bundle: Bundle, reference: Path, progress: Progress
) -> Measured | None:
    """Every backend of this CPU in turns, the choice written beside the bundle.

    Args:
        reference: the network without quantisation as ONNX, a rival on each backend.

    Returns:
        What was measured; None where latency is not asked for, where there is nothing to choose
        between, and on hosts with a GPU, whose CPU is not what serves.
    """
    if not job.batches or cuda_driver_present() or len(on_this_cpu()) < 2:
        return None
    with progress.stage("fastest") as stage:
        try:
            found = tune(bundle, job.batches, unquantized=reference, budget_s=_SECONDS, stage=stage)
        except EnvironmentLacks as error:
            progress.note(f"No backend of this CPU was chosen: {error.problem}")
            return None
        stage.update(text=found.best)
    tuned.keep(bundle, found)
    return found
