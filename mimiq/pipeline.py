"""The compiler: every stage in order, each cached by what went into it.

load_model → calibration set → quantize → distill → export → check → measure → bundle
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mimiq.agreement import agreement_notes, simulated
from mimiq.cache import Cache
from mimiq.calibrate import CalibrationSet, gaussian_noise, open_or_import
from mimiq.devices import pick_device
from mimiq.distillation import distill
from mimiq.errors import BadInput
from mimiq.models import LoadedModel
from mimiq.models.loading import EMBEDDED
from mimiq.precision import Precision
from mimiq.procedural import dead_leaves
from mimiq.progress import Progress
from mimiq.quantization import QuantizedModel, quantize
from mimiq.recipes import Recipe
from mimiq.runtime.accuracy import Comparison, compare
from mimiq.runtime.bundle import CPU_MODEL, MODEL, Bundle, write_bundle
from mimiq.runtime.datasets import InMemoryImages, LabelledImages
from mimiq.runtime.hardware import describe_hardware, describe_software
from mimiq.runtime.latency import Engine, LatencyRow, measure
from mimiq.runtime.onnxruntime_session import OnnxRuntimeSession
from mimiq.runtime.opening import deployed_graph
from mimiq.runtime.report import build_report
from mimiq.runtime.tensorrt_record import HALF_MODEL
from mimiq.state import load_quantized, save_quantized

SOFTWARE = ("mimiq", "torch", "timm", "onnx", "onnx-ir", "onnxscript", "onnxruntime-gpu", "numpy")


@dataclass(frozen=True)
class Job:
    """One compilation.

    Attributes:
        model: what to compile.
        precision: to which precision.
        calibration: ``synthetic``, ``psaq``, ``noise``, or a folder of images or a finished set.
        recipe: synthesis, ranges and distillation.
        out: folder of the bundle.
        seed: fixes the whole run on one machine.
        device: ``auto``, ``cpu`` or ``cuda``.
        evaluation: labelled images to measure on; the embedded model brings its own.
        evaluation_name: what to call them in the report.
        batches: batch sizes whose latency is measured against the fp32 graph; none to skip it.
        overwrite: replace an existing bundle.
        raised: the manifest's entry on what :func:`mimiq.raising.within_budget` raised, and why.
    """

    model: LoadedModel
    precision: Precision
    recipe: Recipe
    out: Path
    calibration: str | Path = "synthetic"
    seed: int = 0
    device: str = "auto"
    evaluation: LabelledImages | None = None
    evaluation_name: str | None = None
    batches: tuple[int, ...] = (1, 8, 32)
    overwrite: bool = False
    raised: Mapping[str, Any] | None = None


def compile_model(job: Job, cache: Cache, progress: Progress) -> Bundle:
    """Compile one network to a bundle on disk, measured.

    Raises:
        MimiqError: whatever a stage found wrong; stages already done stay in the cache.
        CheckFailed: when the exported graph does not do what the simulated network does.
    """
    if job.out.exists() and not job.overwrite:
        raise BadInput(
            f"Output folder {job.out} already exists.", "Choose another -o, or pass --force."
        )
    started = time.monotonic()
    calibration = calibration_set(job, cache, progress)
    quantized, tuning = tuned_network(job, calibration, cache, progress)
    graphs = quantized_graphs(job, quantized, tuning["key"], calibration, cache, progress)
    reference = reference_graph(job.model, cache, progress)
    report = measured(job, quantized, calibration, graphs, reference, progress)
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


def calibration_set(job: Job, cache: Cache, progress: Progress) -> CalibrationSet:
    """The images to calibrate and tune on: synthesised, generated or imported; cached."""
    source, preprocessing = job.calibration, job.model.preprocessing
    count = job.recipe.synthesis.images
    if source not in ("synthetic", "psaq", "noise"):
        folder = Path(source)
        if CalibrationSet.is_set(folder):
            return open_or_import(folder, preprocessing, folder)
        inputs: dict[str, Any] = {"folder": str(folder.resolve()), "seed": job.seed, "count": count}
        inputs |= {"preprocessing": preprocessing.to_json(), "listing": _listing(folder)}
        path, _ = cache.get_or_make(
            "calibration",
            inputs,
            lambda path: open_or_import(
                folder, preprocessing, path / "set", limit=count, seed=job.seed
            ),
        )
        return CalibrationSet.open(path / "set")

    inputs = {"kind": source, "seed": job.seed, "preprocessing": preprocessing.to_json()}
    if source == "noise":
        path, _ = cache.get_or_make(
            "calibration",
            inputs | {"count": count},
            lambda path: gaussian_noise(preprocessing, count, job.seed, path / "set"),
        )
        return CalibrationSet.open(path / "set")

    inputs |= {"weights": job.model.weights_hash, "recipe": job.recipe.synthesis.to_json()}

    def make(path: Path) -> None:
        from mimiq.psaq import synthesize_psaq
        from mimiq.synthesis import synthesize

        function = synthesize if source == "synthetic" else synthesize_psaq
        function(
            job.model,
            job.recipe.synthesis,
            seed=job.seed,
            out=path / "set",
            device=job.device,
            progress=progress,
        )

    path, hit = cache.get_or_make("calibration", inputs, make)
    if hit:
        progress.note(f"calibration images: reusing {path.name}")
    return CalibrationSet.open(path / "set")


def tuning_images(job: Job, calibration: CalibrationSet) -> torch.Tensor:
    """What ranges and tuning look at, uint8 (B, S, S, 3): procedural images, then the set.

    In this order, so that the images that distillation holds out, the last ones, are of the set.
    """
    pixels = calibration.images()
    if count := _procedural(job, calibration):
        pixels = np.concatenate([dead_leaves(count, pixels.shape[1], job.seed), pixels])
    return torch.from_numpy(pixels)


def _procedural(job: Job, calibration: CalibrationSet) -> int:
    return job.recipe.procedural if calibration.manifest["kind"] == "synthetic" else 0


def tuned_network(
    job: Job, calibration: CalibrationSet, cache: Cache, progress: Progress
) -> tuple[QuantizedModel, dict[str, Any]]:
    """Calibrated and distilled network, and what tuning reported; cached."""
    distillation = job.recipe.distillation
    inputs = {
        "weights": job.model.weights_hash,
        "preprocessing": job.model.preprocessing.to_json(),
        "images": calibration.content_hash,
        "precision": job.precision.to_json(),
        "ranges": job.recipe.ranges.to_json(),
        "distillation": distillation.to_json(),
        "procedural": _procedural(job, calibration),
        "seed": job.seed,
    }

    def make(path: Path) -> None:
        device = pick_device(job.device)
        pixels = tuning_images(job, calibration)
        normalized = torch.from_numpy(job.model.preprocessing.normalize(pixels.numpy()))
        with progress.stage("quantize") as stage:
            quantized = quantize(
                job.model, job.precision, normalized.to(device), job.recipe.ranges, stage.status
            )
        with progress.stage("distill", distillation.steps) as stage:
            result = distill(
                quantized,
                pixels,
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
            stage.status("Q/DQ graph")
            plain = export_onnx(
                quantized.module,
                job.model.preprocessing.image_size,
                path / MODEL,
                metadata=metadata,
            )
            stage.status("half-precision form for TensorRT")
            to_fp16(plain, path / HALF_MODEL)
            stage.status("form for ONNX Runtime on a CPU")
            to_cpu(plain, path / CPU_MODEL)
            stage.status("checking the rules of the targets")
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
            stage.status("fp32 reference")
            export_onnx(model.module, model.preprocessing.image_size, path / "model.onnx")

    inputs = {"weights": model.weights_hash, "architecture": model.architecture}
    path, _ = cache.get_or_make("fp32", inputs, make)
    return path / "model.onnx"


def measured(
    job: Job,
    quantized: QuantizedModel,
    calibration: CalibrationSet,
    graphs: Mapping[str, Path],
    reference: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Accuracy, agreement and latency of the exported graph, as ONNX Runtime executes it.

    Raises:
        CheckFailed: when it does something else than the simulated network.
    """
    model, graph = job.model, deployed_graph(graphs)
    dataset, name = _evaluation(job)
    accuracy: Comparison | None = None
    with (
        OnnxRuntimeSession(graph, device="auto", spinning=False) as exported,
        OnnxRuntimeSession(reference, device="auto", spinning=False) as full,
    ):
        if dataset is not None:
            with progress.stage("accuracy", len(dataset)) as stage:
                accuracy = compare(
                    exported,
                    full,
                    dataset,
                    model.preprocessing,
                    progress=lambda done, _: stage.update(done, "exported graph against fp32"),
                )
        seen = dataset if dataset is not None else _as_dataset(calibration, model.num_classes)
        with progress.stage("agreement", len(seen)) as stage:
            simulation = compare(
                exported,
                simulated(quantized),
                seen,
                model.preprocessing,
                progress=lambda done, _: stage.update(done, "exported graph against simulation"),
            )
    near_ties = agreement_notes(quantized, simulation, seen, progress)
    return build_report(
        model=model.describe(),
        precision=job.precision.to_json(),
        size_bytes=graphs[MODEL].stat().st_size,
        reference_bytes=reference.stat().st_size,
        dataset=name,
        accuracy=accuracy,
        simulation=simulation,
        latency=_latency(job, graph, reference, progress),
        notes=[*_notes(job, calibration), *near_ties],
    )


def _latency(job: Job, graph: Path, reference: Path, progress: Progress) -> Sequence[LatencyRow]:
    if not job.batches:
        return ()
    with progress.stage("latency") as stage:
        return measure(
            {"fp32": Engine(reference), job.precision.label: Engine(graph)},
            job.batches,
            budget_s=10,
            progress=stage.status,
        )


def _evaluation(job: Job) -> tuple[LabelledImages | None, str | None]:
    if job.evaluation is not None:
        return job.evaluation, job.evaluation_name
    if job.model.name != EMBEDDED:
        return None, None
    from mimiq.models.digits import digits_heldout

    images, labels = digits_heldout()
    return InMemoryImages(images, labels, job.model.num_classes), "held-out digits"


def _as_dataset(calibration: CalibrationSet, num_classes: int) -> InMemoryImages:
    """Calibration images where no labelled ones are at hand: good for agreement alone."""
    images = calibration.images()[:256]
    return InMemoryImages(images, np.zeros(len(images), np.int64), num_classes)


def _metadata(job: Job, calibration: CalibrationSet) -> dict[str, str]:
    """What the ONNX file says of itself; nothing that changes from run to run."""
    return {
        "mimiq.model": job.model.name,
        "mimiq.precision": json.dumps(job.precision.to_json()),
        "mimiq.preprocessing": json.dumps(job.model.preprocessing.to_json()),
        "mimiq.weights_sha256": job.model.weights_hash,
        "mimiq.calibration_sha256": calibration.content_hash,
        "mimiq.untrained": json.dumps(job.model.untrained),
    }


def _manifest(job: Job, calibration: CalibrationSet, tuning: Mapping[str, Any]) -> dict[str, Any]:
    size = job.model.preprocessing.image_size
    return {
        "model": job.model.describe(),
        "precision": job.precision.to_json(),
        "preprocessing": job.model.preprocessing.to_json(),
        "calibration": calibration.manifest,
        "recipes": job.recipe.to_json(),
        "migrations": tuning["migrations"],
        "raised": job.raised,
        "seed": job.seed,
        "inputs": [{"name": "images", "dtype": "float32", "shape": ["batch", 3, size, size]}],
        "outputs": [
            {"name": "logits", "dtype": "float32", "shape": ["batch", job.model.num_classes]}
        ],
        "software": describe_software(*SOFTWARE),
        "hardware": describe_hardware(),
    }


def _notes(job: Job, calibration: CalibrationSet) -> list[str]:
    notes = [str(job.raised["note"])] if job.raised else []
    bits = job.precision.linear.activation_bits
    if bits is not None and bits < 8:
        notes.append(
            f"{bits}-bit activations are carried as INT8: the numbers are those of {bits} bits, "
            "the speed is that of INT8."
        )
    if calibration.manifest.get("kind") == "noise":
        notes.append("Calibrated on Gaussian noise: a control, not a recommendation.")
    return notes


def _listing(folder: Path) -> list[list[Any]]:
    """Names, sizes and times of a folder's files: its images are read again when these change."""
    if not folder.is_dir():
        raise BadInput(
            f"Calibration folder {folder} does not exist.",
            "Give a folder of images or of a calibration set, or synthetic, psaq or noise.",
        )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        [path.relative_to(folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns]
        for path in files
    ]
