"""Every unit of a network by what raising it gains, as a stage."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch

from mimiq.cache import ASIDE
from mimiq.calibrate import CalibrationSet
from mimiq.config.precision import Precision
from mimiq.devices import pick_device
from mimiq.models import LoadedModel
from mimiq.progress import Progress
from mimiq.quantize.hooks import evenly_spread
from mimiq.quantize.insert import RangeRecipe
from mimiq.runtime.preprocessing import ByteArray
from mimiq.spec import Job
from mimiq.stages.images import TuningImages, procedural_count
from mimiq.stages.sensitivity import Ranking, rank, units_of

RANKED_ON = 64  # images: minutes on a CPU, and rankings by 24 of them agree to 0.93 already


@dataclass(frozen=True)
class RankUnits:
    """Raises every unit alone, to 8 bits and from there to floating point.

    Attributes:
        procedural: random scenes beside the set.
        images: the split of ``calibration``: what a loss is estimated on is not ranked by.
    """

    name: ClassVar[str] = "sensitivity"
    revision: ClassVar[int] = 1

    model: LoadedModel
    precision: Precision
    calibration: CalibrationSet
    ranges: RangeRecipe
    procedural: int
    seed: int
    device: str = field(metadata=ASIDE)
    images: TuningImages = field(metadata=ASIDE)
    count: int = RANKED_ON

    @staticmethod
    def of(job: Job, calibration: CalibrationSet, images: TuningImages) -> RankUnits:
        """That of a job."""
        return RankUnits(
            model=job.model,
            precision=job.precision,
            calibration=calibration,
            ranges=job.recipe.ranges,
            procedural=procedural_count(job, calibration),
            seed=job.seed,
            device=job.device,
            images=images,
        )

    def make(self, folder: Path, progress: Progress) -> None:
        """
        Raises:
            BadInput: as :func:`mimiq.stages.sensitivity.rank`.
        """
        # Of the images that a fit may see, which a loss is not estimated on.
        own, count = self.calibration.images(), len(self.calibration)
        own = own[: max(count - len(self.images.held_out), count // 2)]
        images, seen = (self._spread(pixels) for pixels in (own, self.images.fitted.numpy()))
        total = len(units_of(self.model, self.precision))
        with progress.stage("sensitivity", total) as stage:
            found = rank(self.model, self.precision, images, seen, self.ranges, stage.update)
        (folder / "ranking.json").write_text(json.dumps(found.to_json(), indent=1))

    def load(self, folder: Path) -> Ranking:
        return Ranking.from_json(json.loads((folder / "ranking.json").read_text()))

    def _spread(self, pixels: ByteArray) -> torch.Tensor:
        """As many of them as are ranked by, normalised."""
        chosen = pixels[evenly_spread(len(pixels), self.count)]
        normalized = torch.from_numpy(self.model.preprocessing.normalize(chosen))
        return normalized.to(pick_device(self.device))
