"""The images of a compilation: made, generated or imported, and what is shown beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mimiq.cache import Cache
from mimiq.calibrate import CalibrationSet, gaussian_noise, open_or_import
from mimiq.calibrate.sources import image_files
from mimiq.progress import Progress
from mimiq.runtime.preprocessing import ByteArray
from mimiq.spec import Job
from mimiq.synthesis.scenes import scenes

_FRESH = 1_000_003  # added to a seed: scenes that no compilation with a small seed is fitted to


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
        found = CalibrationSet.open(path / "set")
        if len(found) < count:
            progress.note(f"calibration images: {len(found)} in {folder}, of {count} wanted")
        return found

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
        from mimiq.synthesis.mimiq import synthesize
        from mimiq.synthesis.psaq import synthesize_psaq

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


@dataclass(frozen=True)
class TuningImages:
    """The images of a compilation, split once: to fit to, and to judge by.

    All are uint8 (B, H, W, 3). What judges is never fitted to: neither ranges, weights nor
    distillation see it.

    Attributes:
        fitted: random scenes, where the set is synthetic, and the set without its last images.
        held_out: the last images of the set; they also choose the state that distillation keeps.
        scenes: fresh random scenes, as many; none beside images from elsewhere.
        kind: of the set: ``synthetic``, ``noise``, ``images``, …
    """

    fitted: torch.Tensor
    held_out: torch.Tensor
    scenes: torch.Tensor
    kind: str

    @property
    def all(self) -> torch.Tensor:
        """Those fitted to and those held out, in the order in which distillation splits them."""
        return torch.cat([self.fitted, self.held_out])

    @property
    def judging(self) -> dict[str, ByteArray]:
        """What the cost is measured on, by kind."""
        kinds = {self.kind: self.held_out, "scenes": self.scenes}
        return {kind: images.numpy() for kind, images in kinds.items() if len(images)}


def tuning_images(job: Job, calibration: CalibrationSet) -> TuningImages:
    """Split the set, and draw the scenes that belong beside it.

    Raises:
        BadInput: when the set is too small to hold any images out.
    """
    pixels, kind = calibration.images(), calibration.manifest["kind"]
    size, count = pixels.shape[1], procedural_count(job, calibration)
    if count:
        pixels = np.concatenate([scenes(count, size, job.seed), pixels])
    fitted, held_out = job.recipe.distillation.split(torch.from_numpy(pixels))
    fresh = scenes(len(held_out) if count else 0, size, job.seed + _FRESH)
    return TuningImages(
        fitted, held_out, torch.from_numpy(fresh), "images" if kind == "folder" else kind
    )


def procedural_count(job: Job, calibration: CalibrationSet) -> int:
    """Random scenes belong beside synthetic images only."""
    return job.recipe.procedural if calibration.manifest["kind"] == "synthetic" else 0


def _listing(folder: Path) -> list[list[Any]]:
    """Names, sizes and times of a folder's images: they are read again when these change."""
    found = ((path.relative_to(folder).as_posix(), path.stat()) for path in image_files(folder))
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in found]
