"""The network quantised, calibrated and distilled, as a stage."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from mimiq.cache import ASIDE
from mimiq.calibrate import CalibrationSet
from mimiq.config.precision import Precision
from mimiq.devices import pick_device
from mimiq.distill.loop import DistillationRecipe, distill
from mimiq.models import LoadedModel
from mimiq.progress import Progress
from mimiq.quantize.insert import QuantizedModel, RangeRecipe, quantize
from mimiq.quantize.store import load_quantized, save_quantized
from mimiq.spec import Job
from mimiq.stages.images import TuningImages, procedural_count

_REPORT = "tuning.json"


@dataclass(frozen=True)
class Tuned:
    """A tuned network.

    Attributes:
        network: on the CPU.
        report: ``result`` of distillation, ``migrations``, ``outliers``, ``errors`` of rounding
            each Linear alone, and ``fits``.
        cache_key: what stands for it in the key of whatever is made of it.
    """

    network: QuantizedModel
    report: dict[str, Any]
    cache_key: str


@dataclass(frozen=True)
class TuneNetwork:
    """Quantises a network, finds its scales, and distils it."""

    name: ClassVar[str] = "tuned"
    revision: ClassVar[int] = 1

    model: LoadedModel
    precision: Precision
    calibration: CalibrationSet
    ranges: RangeRecipe
    distillation: DistillationRecipe
    procedural: int
    seed: int
    device: str = field(metadata=ASIDE)
    images: TuningImages = field(metadata=ASIDE)

    @staticmethod
    def of(job: Job, calibration: CalibrationSet, images: TuningImages) -> TuneNetwork:
        """That of a job; ``images`` are the split of ``calibration``."""
        return TuneNetwork(
            model=job.model,
            precision=job.precision,
            calibration=calibration,
            ranges=job.recipe.ranges,
            distillation=job.recipe.distillation,
            procedural=procedural_count(job, calibration),
            seed=job.seed,
            device=job.device,
            images=images,
        )

    def make(self, folder: Path, progress: Progress) -> None:
        device, recipe = pick_device(self.device), self.distillation
        fitted = self.images.fitted.numpy()
        normalized = torch.from_numpy(self.model.preprocessing.normalize(fitted))
        with progress.stage("quantize") as stage:
            quantized = quantize(
                self.model,
                self.precision,
                normalized.to(device),
                self.ranges,
                lambda text: stage.update(text=text),
            )
        with progress.stage("distill", recipe.steps or None) as stage:
            if not recipe.steps:
                stage.update(text="left out: 0 steps")
            result = distill(
                quantized,
                self.images.all,
                recipe,
                seed=self.seed,
                checkpoint=folder / "checkpoint.pt",
                progress=lambda step, loss, held_out: stage.update(
                    step, f"loss {loss:.4f}, held-out {held_out:.4f}"
                ),
            )
        quantized.module.cpu()
        save_quantized(quantized, folder)
        report = {
            "result": result.to_json(),
            "migrations": [vars(migration) for migration in quantized.migrations],
            "outliers": [vars(found) for found in quantized.outliers],
            "errors": dict(quantized.errors),
            "fits": [vars(fit) for fit in quantized.fits],
        }
        (folder / _REPORT).write_text(json.dumps(report, indent=1))

    def load(self, folder: Path) -> Tuned:
        report = json.loads((folder / _REPORT).read_text())
        return Tuned(load_quantized(self.model, folder), report, folder.name)
