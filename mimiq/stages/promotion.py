"""The raising of units that a budget asks for, and what it measures, as stages."""

from __future__ import annotations

import functools
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch

from mimiq.cache import ASIDE, Cache
from mimiq.calibrate import CalibrationSet
from mimiq.config.budget import Budget
from mimiq.config.precision import FLOAT, Precision
from mimiq.models import LoadedModel
from mimiq.progress import Progress
from mimiq.quantize.insert import RangeRecipe, quantize
from mimiq.runtime.bundle import MODEL
from mimiq.runtime.evaluation.held_out import HeldOut, answers_by_kind, cost
from mimiq.runtime.evaluation.similarity import EmbeddingCost, similarity
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession
from mimiq.runtime.opening import deployed_graph
from mimiq.runtime.preprocessing import FloatArray
from mimiq.spec import Job
from mimiq.stages.budget import Drop, Raising, choose
from mimiq.stages.graphs import ExportGraphs, ExportReference
from mimiq.stages.images import TuningImages
from mimiq.stages.ranking import RankUnits
from mimiq.stages.tune import tuned_network

_ALLOWANCE = 1.002  # for the few nodes of a graph that depend on its values
_NAMED = 4  # units named in the report's line


def within_budget(
    job: Job,
    budget: Budget,
    calibration: CalibrationSet,
    images: TuningImages,
    cache: Cache,
    progress: Progress,
) -> Job:
    """The job with as many of its units raised as its budget needs, or allows.

    Args:
        calibration: the set, of which ``images`` are the split.

    Raises:
        MimiqError: as :func:`mimiq.stages.budget.choose`, and whatever a stage found wrong.
    """
    started = time.monotonic()
    raising = choose(
        budget,
        job.precision,
        cache.run(RankUnits.of(job, calibration, images), progress),
        drop_of=_drop_of(job, calibration, images, cache, progress),
        size_of=lambda precision: cache.run(PredictSize.of(job, precision, calibration), progress),
        reference_bytes=lambda: cache.run(ExportReference(job.model), progress).stat().st_size,
    )
    record = raising.to_json(budget) | {"seconds": time.monotonic() - started}
    return replace(
        job, precision=raising.precision, raised=record | {"note": note(budget, raising)}
    )


def note(budget: Budget, raising: Raising) -> str:
    """The report's line: what was raised, and why."""
    limits = []
    if budget.max_drop is not None:
        limits.append(f"`max_drop={budget.max_drop:g}`")
    if budget.size is not None:
        limits.append(f"`size_budget={budget.size.text}`")
    steps: dict[str, tuple[str, str]] = {}
    for unit in (found.unit for found in raising.units):
        steps[unit.name] = (steps.get(unit.name, (unit.now,))[0], unit.raised)
    listed = [f"{name} ({now} → {raised})" for name, (now, raised) in steps.items()]
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    text = f"Raised for {' and '.join(limits)}: {', '.join(listed[:_NAMED]) or 'nothing'}{more}."
    floats = sum(raised == FLOAT.label for _, raised in steps.values())
    if floats and len(listed) > 1:
        text += f" {floats} of {len(listed)} are in floating point, which is slower than INT8."
    if raising.tries:
        (_, first), (_, last) = raising.tries[0], raising.tries[-1]
        before = f"{first.points:.2f}" if first.output == "logits" else f"{first.agreement:.4f}"
        without = f", {before} without" if listed else ""
        text += f" Estimated on {last.count} images held out: {last.loss}{without}."
    return text


@dataclass(frozen=True)
class EstimateDrop:
    """What the exported graph of a tuned network loses on the images held out.

    Attributes:
        tuned: what stands for the tuned network.
        graphs: exports it, or finds it exported.
        wanted: full precision's answers, by kind of image.
    """

    name: ClassVar[str] = "drop"
    revision: ClassVar[int] = 1

    tuned: str
    seed: int
    model: LoadedModel = field(metadata=ASIDE)
    graphs: Callable[[], Mapping[str, Path]] = field(metadata=ASIDE)
    wanted: Callable[[], dict[str, FloatArray]] = field(metadata=ASIDE)
    images: TuningImages = field(metadata=ASIDE)

    def make(self, folder: Path, progress: Progress) -> None:
        graphs, full = self.graphs(), self.wanted()
        with (
            progress.stage("drop") as stage,
            OnnxRuntimeSession(deployed_graph(graphs), spinning=False) as exported,
        ):
            stage.update(text="images held out")
            drop = self._drop(exported, full)
        (folder / "drop.json").write_text(json.dumps(asdict(drop)))

    def _drop(self, exported: OnnxRuntimeSession, full: Mapping[str, FloatArray]) -> Drop:
        found = answers_by_kind(exported.run, self.images.judging, self.model.preprocessing)
        if self.model.output == "logits":
            held_out = HeldOut({kind: cost(found[kind], full[kind]) for kind in found})
            return Drop(held_out.points, held_out.agreement, held_out.count)
        tokens = self.model.tokens
        near = EmbeddingCost({kind: similarity(found[kind], full[kind], tokens) for kind in found})
        return Drop(100 * (1 - near.mean), near.mean, near.count, self.model.output)

    def load(self, folder: Path) -> Drop:
        return Drop(**json.loads((folder / "drop.json").read_text()))


def _drop_of(
    job: Job, calibration: CalibrationSet, images: TuningImages, cache: Cache, progress: Progress
) -> Callable[[Precision], Drop]:
    """Compiles the job's graph at a precision, and measures it on the images held out."""

    @functools.cache  # every try is held against the same
    def wanted() -> dict[str, FloatArray]:
        reference = cache.run(ExportReference(job.model), progress)
        with OnnxRuntimeSession(reference, spinning=False) as full:
            return answers_by_kind(full.run, images.judging, job.model.preprocessing)

    def drop_of(precision: Precision) -> Drop:
        raised = replace(job, precision=precision)
        tuned = tuned_network(raised, calibration, images, cache, progress)
        drop = cache.run(
            EstimateDrop(
                tuned=tuned.cache_key,
                seed=job.seed,
                model=job.model,
                graphs=lambda: cache.run(ExportGraphs.of(raised, calibration, tuned), progress),
                wanted=wanted,
                images=images,
            ),
            progress,
        )
        progress.note(f"{drop.loss}, estimated on {drop.count} images held out")
        return drop

    return drop_of


@dataclass(frozen=True)
class PredictSize:
    """Bytes of the ONNX file at a precision, found before tuning.

    Attributes:
        ranges: as quick as can be: values hardly change the size.
        calibration: two of its images do.
    """

    name: ClassVar[str] = "size"
    revision: ClassVar[int] = 1

    model: LoadedModel
    precision: Precision
    ranges: RangeRecipe
    calibration: CalibrationSet = field(metadata=ASIDE)

    @staticmethod
    def of(job: Job, precision: Precision, calibration: CalibrationSet) -> PredictSize:
        """That of a job at another precision."""
        ranges = replace(
            job.recipe.ranges, migrate=False, refit=False, outliers=False, rounding="nearest"
        )
        return PredictSize(job.model, precision, ranges, calibration)

    def make(self, folder: Path, progress: Progress) -> None:
        from mimiq.export import export_onnx

        preprocessing = self.model.preprocessing
        with progress.stage("size") as stage, tempfile.TemporaryDirectory() as scratch:
            stage.update(text=f"of the file at {self.precision.label}")
            images = torch.from_numpy(preprocessing.normalize(self.calibration.images()[:2]))
            graph = export_onnx(
                quantize(self.model, self.precision, images, self.ranges).module,
                preprocessing.input_shape,
                Path(scratch) / MODEL,
                output=self.model.output,
            )
            (folder / "size.json").write_text(json.dumps(graph.stat().st_size))

    def load(self, folder: Path) -> int:
        found: int = json.loads((folder / "size.json").read_text())
        return math.ceil(found * _ALLOWANCE)
