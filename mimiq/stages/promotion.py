"""Sensitivity as a stage of the compiler, and the raising that follows from it; both cached."""

from __future__ import annotations

import functools
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

from mimiq.cache import Cache
from mimiq.calibrate import CalibrationSet
from mimiq.compile import quantized_graphs, reference_graph, tuned_network
from mimiq.config.budget import Budget
from mimiq.config.precision import FLOAT, Precision
from mimiq.devices import pick_device
from mimiq.progress import Progress
from mimiq.quantize.hooks import evenly_spread
from mimiq.quantize.insert import quantize
from mimiq.runtime.evaluation.held_out import held_out_cost, logits_of
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession
from mimiq.runtime.opening import deployed_graph
from mimiq.runtime.preprocessing import ByteArray, FloatArray
from mimiq.spec import Job
from mimiq.stages.budget import Drop, Raising, choose
from mimiq.stages.images import calibration_set, tuning_images
from mimiq.stages.sensitivity import Ranking, rank, units_of

RANKED_ON = 64  # images: minutes on a CPU, and rankings by 24 of them agree to 0.93 already
_ALLOWANCE = 1.002  # for the few nodes of a graph that depend on its values
_NAMED = 4  # units named in the report's line


def ranking(job: Job, calibration: CalibrationSet, cache: Cache, progress: Progress) -> Ranking:
    """Every unit by what raising it gains; cached.

    Raises:
        BadInput: as :func:`mimiq.stages.sensitivity.rank`.
    """
    inputs = {
        "weights": job.model.weights_hash,
        "preprocessing": job.model.preprocessing.to_json(),
        "images": calibration.content_hash,
        "count": RANKED_ON,
        "precision": job.precision.to_json(),
        "ranges": job.recipe.ranges.to_json(),
        "procedural": job.recipe.procedural,
        "seed": job.seed,
        "steps": "to 8 bits, and from there to floating point",
    }

    def make(path: Path) -> None:
        # Of the images that a fit may see, which a loss is not estimated on.
        tuning, count = tuning_images(job, calibration), len(calibration)
        own = calibration.images()[: max(count - len(tuning.held_out), count // 2)]
        images, seen = (
            _normalized(job, pixels[evenly_spread(len(pixels), RANKED_ON)])
            for pixels in (own, tuning.fitted.numpy())
        )
        total = len(units_of(job.model, job.precision))
        with progress.stage("sensitivity", total) as stage:
            found = rank(job.model, job.precision, images, seen, job.recipe.ranges, stage.update)
        (path / "ranking.json").write_text(json.dumps(found.to_json(), indent=1))

    path, hit = cache.get_or_make("sensitivity", inputs, make)
    if hit:
        progress.note(f"sensitivity: reusing {path.name}")
    return Ranking.from_json(json.loads((path / "ranking.json").read_text()))


def within_budget(job: Job, budget: Budget, cache: Cache, progress: Progress) -> Job:
    """The job with as many of its units raised as its budget needs, or allows.

    Raises:
        MimiqError: as :func:`mimiq.stages.budget.choose`, and whatever a stage found wrong.
    """
    started = time.monotonic()
    calibration = calibration_set(job, cache, progress)
    ranked = ranking(job, calibration, cache, progress)
    raising = choose(
        budget,
        job.precision,
        ranked,
        drop_of=_drop_of(job, calibration, cache, progress),
        size_of=lambda precision: _graph_bytes(job, precision, calibration, cache, progress),
        reference_bytes=lambda: reference_graph(job.model, cache, progress).stat().st_size,
    )
    record = raising.to_json(budget) | {"seconds": time.monotonic() - started}
    return replace(
        job, precision=raising.precision, raised=record | {"note": note(budget, raising)}
    )


def note(budget: Budget, raising: Raising) -> str:
    """The report's line: what was raised, and why."""
    flags = []
    if budget.max_drop is not None:
        flags.append(f"--max-drop {budget.max_drop:g}")
    if budget.size is not None:
        flags.append(f"--size-budget {budget.size.text}")
    steps: dict[str, tuple[str, str]] = {}
    for unit in (found.unit for found in raising.units):
        steps[unit.name] = (steps.get(unit.name, (unit.now,))[0], unit.raised)
    listed = [f"{name} ({now} → {raised})" for name, (now, raised) in steps.items()]
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    text = f"Raised for {' and '.join(flags)}: {', '.join(listed[:_NAMED]) or 'nothing'}{more}."
    floats = sum(raised == FLOAT.label for _, raised in steps.values())
    if floats and len(listed) > 1:
        text += f" {floats} of {len(listed)} are in floating point, which is slower than INT8."
    if raising.tries:
        (_, first), (_, last) = raising.tries[0], raising.tries[-1]
        without = f", {first.points:.2f} without" if listed else ""
        text += (
            f" Estimated on {last.count} images held out: {last.points:.2f} points lost{without}."
        )
    return text


def _drop_of(
    job: Job, calibration: CalibrationSet, cache: Cache, progress: Progress
) -> Callable[[Precision], Drop]:
    """Compiles the job's graph at a precision, and measures it on the images held out."""
    images, preprocessing = tuning_images(job, calibration), job.model.preprocessing

    @functools.cache  # every try is held against the same
    def wanted() -> dict[str, FloatArray]:
        reference = reference_graph(job.model, cache, progress)
        with OnnxRuntimeSession(reference, spinning=False) as full:
            return {
                kind: logits_of(full.run, pixels, preprocessing)
                for kind, pixels in images.judging.items()
            }

    def drop_of(precision: Precision) -> Drop:
        raised = replace(job, precision=precision)
        tuned, tuning = tuned_network(raised, calibration, cache, progress, images)

        def make(path: Path) -> None:
            graphs = quantized_graphs(raised, tuned, tuning["key"], calibration, cache, progress)
            full = wanted()
            with (
                progress.stage("drop") as stage,
                OnnxRuntimeSession(deployed_graph(graphs), spinning=False) as exported,
            ):
                stage.update(text="images held out")
                found = held_out_cost(exported.run, full, images.judging, preprocessing)
            drop = Drop(found.points, found.agreement, found.count)
            (path / "drop.json").write_text(json.dumps(asdict(drop)))

        inputs = {"tuned": tuning["key"], "seed": job.seed, "on": "the exported graph"}
        path, _ = cache.get_or_make("drop", inputs, make)
        drop = Drop(**json.loads((path / "drop.json").read_text()))
        progress.note(f"about {drop.points:.2f} points lost on {drop.count} images held out")
        return drop

    return drop_of


def _graph_bytes(
    job: Job, precision: Precision, calibration: CalibrationSet, cache: Cache, progress: Progress
) -> int:
    """Bytes of the ONNX file at a precision, found before tuning; cached."""
    from mimiq.export import export_onnx

    ranges = replace(
        job.recipe.ranges, migrate=False, refit=False, outliers=False, rounding="nearest"
    )

    def make(path: Path) -> None:
        with progress.stage("size") as stage, tempfile.TemporaryDirectory() as folder:
            stage.update(text=f"of the file at {precision.label}")
            images = _normalized(job, calibration.images()[:2]).cpu()
            network = quantize(job.model, precision, images, ranges).module
            shape = job.model.preprocessing.input_shape
            graph = export_onnx(
                network, shape, Path(folder) / "model.onnx", output=job.model.output
            )
            (path / "size.json").write_text(json.dumps(graph.stat().st_size))

    inputs = {
        "weights": job.model.weights_hash,
        "precision": precision.to_json(),
        "ranges": ranges.to_json(),
    }
    path, _ = cache.get_or_make("size", inputs, make)
    found: int = json.loads((path / "size.json").read_text())
    return math.ceil(found * _ALLOWANCE)


def _normalized(job: Job, pixels: ByteArray) -> torch.Tensor:
    normalized = torch.from_numpy(job.model.preprocessing.normalize(pixels))
    return normalized.to(pick_device(job.device))
