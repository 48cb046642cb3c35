"""The compiler: every stage in order, each cached by what it sees.

calibration set → tuned network → graphs → fp32 reference → measures → bundle → engine
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiq.cache import Cache
from mimiq.calibrate import CalibrationSet
from mimiq.errors import BadInput
from mimiq.models import LoadedModel
from mimiq.progress import Progress
from mimiq.quantize.insert import QuantizedModel
from mimiq.runtime.bundle import MODEL, Bundle, write_bundle
from mimiq.runtime.host import describe_hardware, describe_software
from mimiq.spec import Job
from mimiq.stages.budget import require_fits
from mimiq.stages.engine import add_engine
from mimiq.stages.graphs import ExportGraphs, ExportReference, graph_metadata
from mimiq.stages.images import TuningImages, calibration_set, tuning_images
from mimiq.stages.measure import measured
from mimiq.stages.tune import TuneNetwork

if TYPE_CHECKING:
    from mimiq.export.tensorrt.engines import BundleEngine

SOFTWARE = ("mimiq", "torch", "timm", "onnx", "onnx-ir", "onnxscript", "onnxruntime-gpu", "numpy")


@dataclass(frozen=True)
class Compiled:
    """What a compilation made.

    Attributes:
        bundle: on disk, with the engine.
        engine: the engine and its proof; None where none was wanted or can be built here.
    """

    bundle: Bundle
    engine: BundleEngine | None = None


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
            f"Output folder {job.out} already exists.", "Choose another -o, or pass --force."
        )
    started = time.monotonic()
    calibration = calibration_set(job, cache, progress)
    images = tuning_images(job, calibration)
    quantized, tuning = tuned_network(job, calibration, cache, progress, images)
    graphs = quantized_graphs(job, quantized, tuning["key"], calibration, cache, progress)
    require_fits(job.raised, graphs[MODEL])
    reference = reference_graph(job.model, cache, progress)
    report = measured(job, quantized, images, graphs, reference, tuning["errors"], progress)
    report["tuning"] = tuning["result"]
    report["seconds"] = time.monotonic() - started
    bundle = write_bundle(
        job.out,
        graphs,
        _manifest(job, calibration, tuning),
        labels=job.model.labels,
        report=report,
        overwrite=job.overwrite,
    )
    built = None if job.engine is None else add_engine(bundle, job.engine, progress)
    return Compiled(bundle) if built is None else Compiled(built.bundle, built)


def tuned_network(
    job: Job,
    calibration: CalibrationSet,
    cache: Cache,
    progress: Progress,
    images: TuningImages | None = None,
) -> tuple[QuantizedModel, dict[str, Any]]:
    """Calibrated and distilled network, and what tuning reported; cached.

    Args:
        images: of ``calibration``, where they are at hand.
    """
    tuned = cache.run(TuneNetwork.of(job, calibration, images), progress)
    return tuned.network, tuned.report | {"key": tuned.cache_key}


def quantized_graphs(
    job: Job,
    quantized: QuantizedModel,
    key: str,
    calibration: CalibrationSet,
    cache: Cache,
    progress: Progress,
) -> dict[str, Path]:
    """The Q/DQ graphs, by the name each has in the bundle; cached and checked.

    Raises:
        UnsupportedTarget: when ONNX Runtime or TensorRT would refuse a node.
    """
    stage = ExportGraphs(key, job.model, graph_metadata(job, calibration), quantized)
    return cache.run(stage, progress)


def reference_graph(model: LoadedModel, cache: Cache, progress: Progress) -> Path:
    """The full-precision network as ONNX; cached."""
    return cache.run(ExportReference(model), progress)


def _manifest(job: Job, calibration: CalibrationSet, tuning: Mapping[str, Any]) -> dict[str, Any]:
    shape = job.model.preprocessing.input_shape
    return {
        "model": job.model.describe(),
        "precision": job.precision.to_json(),
        "preprocessing": job.model.preprocessing.to_json(),
        "calibration": calibration.manifest,
        "recipes": job.recipe.to_json(),
        "migrations": tuning["migrations"],
        "outliers": tuning["outliers"],
        "raised": job.raised,
        "seed": job.seed,
        "inputs": [{"name": "images", "dtype": "float32", "shape": ["batch", *shape]}],
        "outputs": [
            {"name": job.model.output, "dtype": "float32", "shape": ["batch", job.model.width]}
        ],
        "software": describe_software(*SOFTWARE),
        "hardware": describe_hardware(),
    }
