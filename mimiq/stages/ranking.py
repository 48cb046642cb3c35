"""Every unit of a network by what raising it gains, as a stage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mimiq.progress import Progress
from mimiq.quantize.hooks import evenly_spread
from mimiq.stages.on_images import OnImages
from mimiq.stages.sensitivity import Ranking, rank
from mimiq.stages.units import units_of

RANKED_ON = 64  # images: minutes on a CPU, and rankings by 24 of them agree to 0.93 already


@dataclass(frozen=True)
class RankUnits(OnImages):
    """Raises every unit alone, to 8 bits and from there to floating point.

    What a loss is estimated on is not ranked by.
    """

    name: ClassVar[str] = "sensitivity"
    revision: ClassVar[int] = 1

    count: int = RANKED_ON

    def make(self, folder: Path, progress: Progress) -> None:
        """
        Raises:
            BadInput: as :func:`mimiq.stages.sensitivity.rank`.
        """
        # Of the images that a fit may see, which a loss is not estimated on.
        own, count = self.calibration.images(), len(self.calibration)
        own = own[: max(count - len(self.images.held_out), count // 2)]
        images, seen = (
            self._normalized(pixels[evenly_spread(len(pixels), self.count)])
            for pixels in (own, self.images.fitted.numpy())
        )
        total = len(units_of(self.model, self.precision))
        with progress.stage("sensitivity", total) as stage:
            found = rank(self.model, self.precision, images, seen, self.ranges, stage.update)
        (folder / "ranking.json").write_text(json.dumps(found.to_json(), indent=1))

    def load(self, folder: Path) -> Ranking:
        return Ranking.from_json(json.loads((folder / "ranking.json").read_text()))
