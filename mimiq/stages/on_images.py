"""What stages see that work on a network, at a precision, with images to fit to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import torch

from mimiq.cache import ASIDE
from mimiq.calibrate import CalibrationSet
from mimiq.config.precision import Precision
from mimiq.devices import pick_device
from mimiq.models import LoadedModel
from mimiq.quantize.insert import RangeRecipe
from mimiq.runtime.preprocessing import ByteArray
from mimiq.spec import Job
from mimiq.stages.images import TuningImages, procedural_count


@dataclass(frozen=True)
class OnImages:
    """
    Attributes:
        held_out: the share of the set that is never fitted to.
        procedural: random scenes beside the set.
        images: the split of ``calibration``.
    """

    model: LoadedModel
    precision: Precision
    calibration: CalibrationSet
    ranges: RangeRecipe
    held_out: float
    procedural: int
    seed: int
    device: str = field(metadata=ASIDE)
    images: TuningImages = field(metadata=ASIDE)

    @classmethod
    def of(cls, job: Job, calibration: CalibrationSet, images: TuningImages) -> Self:
        """The stage of a job."""
        return cls(
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

    def _normalized(self, pixels: ByteArray) -> torch.Tensor:
        """Network input, on the device to work on."""
        normalized = torch.from_numpy(self.model.preprocessing.normalize(pixels))
        return normalized.to(pick_device(self.device))
