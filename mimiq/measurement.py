"""What a compilation measures of its result, as ONNX Runtime executes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mimiq.agreement import agreement_notes, simulated
from mimiq.calibrate import CalibrationSet
from mimiq.job import Job
from mimiq.models.loading import EMBEDDED
from mimiq.progress import Progress
from mimiq.quantization import QuantizedModel
from mimiq.runtime.accuracy import Comparison, compare
from mimiq.runtime.bundle import MODEL
from mimiq.runtime.datasets import InMemoryImages, LabelledImages
from mimiq.runtime.latency import Engine, LatencyRow, measure
from mimiq.runtime.onnxruntime_session import OnnxRuntimeSession
from mimiq.runtime.opening import deployed_graph
from mimiq.runtime.report import build_report


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


def _notes(job: Job, calibration: CalibrationSet) -> list[str]:
    notes = [str(job.raised["note"])] if job.raised else []
    bits = job.precision.linear.activation_bits
    if bits is not None and bits < 8:
        notes.append(
            f"{bits}-bit activations are carried as INT8: the numbers are those of {bits} bits, "
            "the speed is at best that of INT8."
        )
    if job.recipe.ranges.refit and not job.recipe.distillation.steps:
        notes.append("Fitted layer by layer and not distilled: --steps N distils as well.")
    if calibration.manifest.get("kind") == "noise":
        notes.append("Calibrated on Gaussian noise: a control, not a recommendation.")
    return notes
