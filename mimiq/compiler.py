"""The compiler: every stage in order, each cached by what it sees.

calibration set → units raised for a budget → tuned network → graphs → fp32 reference → measures →
bundle → engine → latency
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiq import ranks
from mimiq.cache import Cache
from mimiq.calibrate import CalibrationSet
from mimiq.calibrate.contact_sheet import jpeg
from mimiq.errors import BadInput
from mimiq.progress import Progress
from mimiq.runtime.bundle import IMAGES, MODEL, Bundle
from mimiq.runtime.bundle_writing import write_bundle
from mimiq.runtime.host import describe_hardware, describe_software
from mimiq.runtime.opening import deployed_graph
from mimiq.spec import Job
from mimiq.stages.budget import require_fits
from mimiq.stages.engine import add_engine
from mimiq.stages.graphs import ExportGraphs, ExportReference
from mimiq.stages.images import TuningImages, calibration_set, tuning_images
from mimiq.stages.measuring.cpu_form import kept_forms
from mimiq.stages.measuring.latency import timed
from mimiq.stages.measuring.measure import measured
from mimiq.stages.promotion import within_budget
from mimiq.stages.tune import Tuned, tuned_network

if TYPE_CHECKING:
    from mimiq.export.tensorrt.engines import BundleEngine
    from mimiq.runtime.latency.tuned import Measured

_SHOWN = 16  # of the synthetic images: 50 kB of a bundle

SOFTWARE = ("mimiq", "torch", "timm", "onnx", "onnx-ir", "onnxscript", "onnxruntime-gpu", "numpy")


@dataclass(frozen=True)
class Compiled:
    """What a compilation made.

    Attributes:
        bundle: on disk, with the engine.
        engine: the engine and its proof; None where none was wanted or can be built here.
        fastest: which backend of this CPU is; None where there was nothing to choose between.
    """

    bundle: Bundle
    engine: BundleEngine | None = None
    fastest: Measured | None = None


def compile_model(job: Job, cache: Cache, progress: Progress) -> Compiled:
    """Compile one network to a bundle on disk, measured, with the engine that the job asks for.

    Raises:
        MimiqError: whatever a stage found wrong; stages already done stay in the cache.
        CheckFailed: when the exported graph does not do what the simulated network does, or is
            larger than its budget.
        UnsupportedTarget, BuildFailed: of the engine; the bundle is complete without it.
    """
    if job.out.exists() and not job.overwrite:
        raise BadInput(
            f"Output folder {job.out} already exists.",
            "Choose another folder, or replace it with `overwrite=True`.",
        )
    started = time.monotonic()
    job, calibration, images, tuned = _tuned(job, cache, progress)
    with ranks.alone():
        return _finished(job, calibration, images, tuned, cache, progress, started)


def help_compile(job: Job, cache: Cache, progress: Progress) -> None:
    """What a rank that is not the first does of a compilation: images, fit and distillation.

    The first rank calls :func:`compile_model` meanwhile, with the same job.

    Raises:
        MimiqError: as of these stages there.
    """
    _tuned(job, cache, progress)


def _tuned(
    job: Job, cache: Cache, progress: Progress
) -> tuple[Job, CalibrationSet, TuningImages, Tuned]:
    """The job with what a budget raised, its images, and its network: the work of all ranks."""
    calibration = calibration_set(job, cache, progress)
    images = tuning_images(job, calibration)
    if job.budget is not None:
        job = within_budget(job, job.budget, calibration, images, cache, progress)
    return job, calibration, images, tuned_network(job, calibration, images, cache, progress)


def _finished(
    job: Job,
    calibration: CalibrationSet,
    images: TuningImages,
    tuned: Tuned,
    cache: Cache,
    progress: Progress,
    started: float,
) -> Compiled:
    """The bundle: exported, checked, measured and written, with its engine."""
    graphs = cache.run(ExportGraphs.of(job, calibration, tuned), progress)
    require_fits(job.raised, graphs[MODEL])
    reference = cache.run(ExportReference(job.model), progress)
    graphs, said = kept_forms(job, images, graphs, reference, progress)
    report = measured(job, tuned, images, graphs, reference, progress)
    report = replace(
        report,
        notes=(*said, *report.notes),
        tuning=tuned.report.result,
        layers=dict(tuned.report.errors),
        command=job.command,
        seconds=time.monotonic() - started,
    )
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_bundle(
            job.out,
            {**graphs, **_sheet(calibration, Path(folder))},
            _manifest(job, calibration, tuned),
            labels=job.model.labels,
            report=report,
            overwrite=job.overwrite,
        )
    built = None if job.engine is None else add_engine(bundle, job.engine, progress)
    bundle = bundle if built is None else built.bundle
    bundle, fastest = timed(job, bundle, deployed_graph(graphs), reference, progress)
    return Compiled(bundle, built, fastest)


def _sheet(calibration: CalibrationSet, folder: Path) -> dict[str, Path]:
    """Some of the images, to be kept in the bundle; of real ones none."""
    if calibration.manifest["kind"] == "folder":
        return {}
    (folder / IMAGES).write_bytes(jpeg(calibration.contact_sheet(limit=_SHOWN)))
    return {IMAGES: folder / IMAGES}


def _manifest(job: Job, calibration: CalibrationSet, tuned: Tuned) -> dict[str, Any]:
    shape = job.model.preprocessing.input_shape
    done = tuned.report.to_json()
    return {
        "model": job.model.describe(),
        "precision": job.precision.to_json(),
        "preprocessing": job.model.preprocessing.to_json(),
        "calibration": calibration.manifest,
        "recipes": job.recipe.to_json(),
        "migrations": done["migrations"],
        "outliers": done["outliers"],
        "raised": job.raised,
        "seed": job.seed,
        "inputs": [{"name": "images", "dtype": "float32", "shape": ["batch", *shape]}],
        "outputs": [
            {"name": job.model.output, "dtype": "float32", "shape": ["batch", job.model.width]}
        ],
        "software": describe_software(*SOFTWARE),
        "hardware": describe_hardware(),
    }
