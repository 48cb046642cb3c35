"""The network quantised and fitted, and then distilled, as stages."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from mimiq import ranks
from mimiq.cache import ASIDE, Cache
from mimiq.calibrate import CalibrationSet
from mimiq.config.distillation import DistillationRecipe
from mimiq.devices import pick_device
from mimiq.distill.loop import distill
from mimiq.models import LoadedModel
from mimiq.progress import Progress
from mimiq.quantize.insert import QuantizedModel, quantize
from mimiq.quantize.store import load_quantized, save_quantized
from mimiq.spec import Job
from mimiq.stages.images import TuningImages
from mimiq.stages.on_images import OnImages
from mimiq.stages.tuning_report import TuningReport


@dataclass(frozen=True)
class Tuned:
    """A fitted, or a tuned network.

    Attributes:
        network: on the CPU.
        report: what was done to it.
        cache_key: what stands for it in the key of whatever is made of it.
    """

    network: QuantizedModel
    report: TuningReport
    cache_key: str


@dataclass(frozen=True)
class FitNetwork(OnImages):
    """Quantises a network: ranges, and weights fitted layer by layer."""

    name: ClassVar[str] = "fitted"
    revision: ClassVar[int] = 3
    together: ClassVar[bool] = True

    def make(self, folder: Path, progress: Progress) -> None:
        with progress.stage("quantize") as stage:
            network = quantize(
                self.model,
                self.precision,
                self._normalized(self.images.fitted.numpy()),
                self.ranges,
                lambda text: stage.update(text=text),
                stage,
            )
        _save(network, TuningReport.of(network), folder)

    def load(self, folder: Path) -> Tuned:
        return _load(self.model, folder)


@dataclass(frozen=True)
class TuneNetwork:
    """Distils a fitted network; an interrupted run goes on from its last checkpoint.

    Attributes:
        fit: of the network to begin with, which is looked for when it is needed.
    """

    name: ClassVar[str] = "tuned"
    revision: ClassVar[int] = 2
    together: ClassVar[bool] = True

    fit: FitNetwork
    distillation: DistillationRecipe
    cache: Cache = field(metadata=ASIDE)

    def make(self, folder: Path, progress: Progress) -> None:
        fitted, recipe = self.cache.run(self.fit, progress), self.distillation
        fitted.network.module.to(pick_device(self.fit.device))
        with progress.stage("distill", recipe.steps or None) as stage:
            if not recipe.steps:
                stage.update(text="left out: 0 steps")
            result = distill(
                fitted.network,
                self.fit.images.fitted,
                recipe,
                held_out=self.fit.images.held_out,
                seed=self.fit.seed,
                checkpoint=folder / "checkpoint.pt",
                progress=lambda step, loss, held_out: stage.update(
                    step, f"loss {loss:.4f}, held-out {held_out:.4f}"
                ),
                note=progress.note,
            )
        _save(fitted.network, replace(fitted.report, result=result), folder)

    def load(self, folder: Path) -> Tuned:
        return _load(self.fit.model, folder)


def tuned_network(
    job: Job, calibration: CalibrationSet, images: TuningImages, cache: Cache, progress: Progress
) -> Tuned:
    """A job's network, fitted and distilled: two stages, so that neither is lost with the other.

    Args:
        images: the split of ``calibration``.
    """
    fit = FitNetwork.of(job, calibration, images)
    return cache.run(TuneNetwork(fit, job.recipe.distillation, cache), progress)


def _save(network: QuantizedModel, report: TuningReport, folder: Path) -> None:
    network.module.cpu()
    if not ranks.current().first:
        return
    save_quantized(network, folder)
    report.write(folder)


def _load(model: LoadedModel, folder: Path) -> Tuned:
    return Tuned(load_quantized(model, folder), TuningReport.read(folder), folder.name)
