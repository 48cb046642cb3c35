"""The network quantised and fitted, and then distilled, as stages."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from mimiq.cache import ASIDE, Cache
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
    """A fitted, or a tuned network.

    Attributes:
        network: on the CPU.
        report: ``migrations``, ``outliers``, ``errors`` of rounding each Linear alone, and
            ``fits``; once it is distilled ``result`` too.
        cache_key: what stands for it in the key of whatever is made of it.
    """

    network: QuantizedModel
    report: dict[str, Any]
    cache_key: str


@dataclass(frozen=True)
class _Network:
    """A stage whose result is a quantised network."""

    revision: ClassVar[int] = 1

    model: LoadedModel

    def load(self, folder: Path) -> Tuned:
        report = json.loads((folder / _REPORT).read_text())
        return Tuned(load_quantized(self.model, folder), report, folder.name)

    def _save(self, network: QuantizedModel, report: dict[str, Any], folder: Path) -> None:
        network.module.cpu()
        save_quantized(network, folder)
        (folder / _REPORT).write_text(json.dumps(report, indent=1))


@dataclass(frozen=True)
class FitNetwork(_Network):
    """Quantises a network: ranges, and weights fitted layer by layer.

    Attributes:
        procedural: random scenes beside the set.
        images: the split of ``calibration``.
    """

    name: ClassVar[str] = "fitted"

    precision: Precision
    calibration: CalibrationSet
    ranges: RangeRecipe
    held_out: float
    procedural: int
    seed: int
    device: str = field(metadata=ASIDE)
    images: TuningImages = field(metadata=ASIDE)

    @staticmethod
    def of(job: Job, calibration: CalibrationSet, images: TuningImages) -> FitNetwork:
        """That of a job."""
        return FitNetwork(
            model=job.model,
            precision=job.precision,
            calibration=calibration,
            ranges=job.recipe.ranges,
            held_out=job.recipe.distillation.held_out,
            procedural=procedural_count(job, calibration),
            seed=job.seed,
            device=job.device,
            images=images,
        )

    def make(self, folder: Path, progress: Progress) -> None:
        fitted = self.images.fitted.numpy()
        normalized = torch.from_numpy(self.model.preprocessing.normalize(fitted))
        with progress.stage("quantize") as stage:
            network = quantize(
                self.model,
                self.precision,
                normalized.to(pick_device(self.device)),
                self.ranges,
                lambda text: stage.update(text=text),
            )
        report = {
            "migrations": [vars(migration) for migration in network.migrations],
            "outliers": [vars(found) for found in network.outliers],
            "errors": dict(network.errors),
            "fits": [vars(fit) for fit in network.fits],
        }
        self._save(network, report, folder)


@dataclass(frozen=True)
class TuneNetwork(_Network):
    """Distils a fitted network; an interrupted run goes on from its last checkpoint."""

    name: ClassVar[str] = "tuned"

    fitted: str
    distillation: DistillationRecipe
    seed: int
    device: str = field(metadata=ASIDE)
    start: Tuned = field(metadata=ASIDE)
    images: TuningImages = field(metadata=ASIDE)

    def make(self, folder: Path, progress: Progress) -> None:
        recipe, network = self.distillation, self.start.network
        network.module.to(pick_device(self.device))
        with progress.stage("distill", recipe.steps or None) as stage:
            if not recipe.steps:
                stage.update(text="left out: 0 steps")
            result = distill(
                network,
                self.images.all,
                recipe,
                seed=self.seed,
                checkpoint=folder / "checkpoint.pt",
                progress=lambda step, loss, held_out: stage.update(
                    step, f"loss {loss:.4f}, held-out {held_out:.4f}"
                ),
            )
        self._save(network, {"result": result.to_json(), **self.start.report}, folder)


def tuned_network(
    job: Job, calibration: CalibrationSet, images: TuningImages, cache: Cache, progress: Progress
) -> Tuned:
    """A job's network, fitted and distilled: two stages, so that neither is lost with the other.

    Args:
        images: the split of ``calibration``.
    """
    fitted = cache.run(FitNetwork.of(job, calibration, images), progress)
    return cache.run(
        TuneNetwork(
            model=job.model,
            fitted=fitted.cache_key,
            distillation=job.recipe.distillation,
            seed=job.seed,
            device=job.device,
            start=fitted,
            images=images,
        ),
        progress,
    )
