"""The compiler: every stage in order, each cached by what went into it.

load_model → calibration set → quantize → distill → export → check → measure → bundle
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mimiq.cache import Cache
from mimiq.calibrate import CalibrationSet
from mimiq.devices import pick_device
from mimiq.distill.loop import distill
from mimiq.errors import BadInput
from mimiq.models import LoadedModel
from mimiq.progress import Progress
from mimiq.quantize.insert import QuantizedModel, quantize
from mimiq.quantize.store import load_quantized, save_quantized
from mimiq.runtime.bundle import CPU_MODEL, MODEL, Bundle, write_bundle
from mimiq.runtime.host import describe_hardware, describe_software
from mimiq.runtime.tensorrt.record import HALF_MODEL
from mimiq.spec import Job
from mimiq.stages.budget import require_fits
from mimiq.stages.images import (
    TuningImages,
    calibration_set,
    procedural_count,
    tuning_images,
)
from mimiq.stages.measure import measured

SOFTWARE = ("mimiq", "torch", "timm", "onnx", "onnx-ir", "onnxscript", "onnxruntime-gpu", "numpy")
_FITTED = "as the other half of the images finds best, damping 4 or 16"  # part of the cache's keys


def compile_model(job: Job, cache: Cache, progress: Progress) -> Bundle:
    """Compile one network to a bundle on disk, measured.

    Raises:
        MimiqError: whatever a stage found wrong; stages already done stay in the cache.
        CheckFailed: when the exported graph does not do what the simulated network does, or is
            larger than its budget.
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
    return write_bundle(
        job.out,
        graphs,
        _manifest(job, calibration, tuning),
        labels=job.model.labels,
        report=report,
        overwrite=job.overwrite,
    )


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
    distillation = job.recipe.distillation
    inputs = {
        "weights": job.model.weights_hash,
        "preprocessing": job.model.preprocessing.to_json(),
        "images": calibration.content_hash,
        "precision": job.precision.to_json(),
        "ranges": job.recipe.ranges.to_json(),
        "distillation": distillation.to_json(),
        "procedural": procedural_count(job, calibration),
        "fitted": _FITTED,
        "seed": job.seed,
    }

    def make(path: Path) -> None:
        device = pick_device(job.device)
        split = images or tuning_images(job, calibration)
        normalized = torch.from_numpy(job.model.preprocessing.normalize(split.fitted.numpy()))
        with progress.stage("quantize") as stage:
            quantized = quantize(
                job.model,
                job.precision,
                normalized.to(device),
                job.recipe.ranges,
                lambda text: stage.update(text=text),
            )
        with progress.stage("distill", distillation.steps or None) as stage:
            if not distillation.steps:
                stage.update(text="left out: 0 steps")
            result = distill(
                quantized,
                split.all,
                distillation,
                seed=job.seed,
                checkpoint=path / "checkpoint.pt",
                progress=lambda step, loss, held_out: stage.update(
                    step, f"loss {loss:.4f}, held-out {held_out:.4f}"
                ),
            )
        quantized.module.cpu()
        save_quantized(quantized, path)
        report = {
            "result": result.to_json(),
            "migrations": [vars(migration) for migration in quantized.migrations],
            "outliers": [vars(found) for found in quantized.outliers],
            "errors": dict(quantized.errors),
            "fits": [vars(fit) for fit in quantized.fits],
        }
        (path / "tuning.json").write_text(json.dumps(report, indent=1))

    path, hit = cache.get_or_make("tuned", inputs, make)
    if hit:
        progress.note(f"tuned network: reusing {path.name}")
    tuning = json.loads((path / "tuning.json").read_text())
    tuning["key"] = path.name
    return load_quantized(job.model, path), tuning


def quantized_graphs(
    job: Job,
    quantized: QuantizedModel,
    key: str,
    calibration: CalibrationSet,
    cache: Cache,
    progress: Progress,
) -> dict[str, Path]:
    """The Q/DQ graphs, by the name each has in the bundle; cached and checked.

    ``model.onnx`` is fp32 outside its quantised layers, for ONNX Runtime; ``model.fp16.onnx`` is
    the same numbers in the half-precision form that TensorRT builds fastest; ``model.cpu.onnx``,
    where activations are quantised, the same numbers in the form that a CPU runs fastest.

    Raises:
        UnsupportedTarget: when ONNX Runtime or TensorRT would refuse a node.
    """
    from mimiq.export import export_onnx, require, to_cpu, to_fp16

    metadata = _metadata(job, calibration)

    def make(path: Path) -> None:
        with progress.stage("export") as stage:
            stage.update(text="Q/DQ graph")
            plain = export_onnx(
                quantized.module,
                job.model.preprocessing.input_shape,
                path / MODEL,
                output=job.model.output,
                metadata=metadata,
            )
            stage.update(text="half-precision form for TensorRT")
            to_fp16(plain, path / HALF_MODEL)
            stage.update(text="form for ONNX Runtime on a CPU")
            to_cpu(plain, path / CPU_MODEL)
            stage.update(text="checking the rules of the targets")
            require(plain, "ort")

    inputs = {"tuned": key, "metadata": metadata, "forms": [MODEL, HALF_MODEL, CPU_MODEL]}
    path, _ = cache.get_or_make("graphs", inputs, make)
    found = (path / name for name in (MODEL, HALF_MODEL, CPU_MODEL))
    return {file.name: file for file in found if file.is_file()}


def reference_graph(model: LoadedModel, cache: Cache, progress: Progress) -> Path:
    """The full-precision network as ONNX; cached."""
    from mimiq.export import export_onnx

    def make(path: Path) -> None:
        with progress.stage("export") as stage:
            stage.update(text="fp32 reference")
            shape = model.preprocessing.input_shape
            export_onnx(model.module, shape, path / "model.onnx", output=model.output)

    inputs = {
        "weights": model.weights_hash,
        "architecture": model.architecture,
        "image": model.preprocessing.input_shape,
        "output": model.output,
    }
    path, _ = cache.get_or_make("fp32", inputs, make)
    return path / "model.onnx"


def _metadata(job: Job, calibration: CalibrationSet) -> dict[str, str]:
    """What the ONNX file says of itself; nothing that changes from run to run."""
    return {
        "mimiq.model": job.model.name,
        "mimiq.config.precision": json.dumps(job.precision.to_json()),
        "mimiq.preprocessing": json.dumps(job.model.preprocessing.to_json()),
        "mimiq.weights_sha256": job.model.weights_hash,
        "mimiq.calibration_sha256": calibration.content_hash,
        "mimiq.untrained": json.dumps(job.model.untrained),
        "mimiq.output": job.model.output,
    }


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
