"""The images of a compilation: made, generated or imported, and what is shown beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mimiq.cache import Cache
from mimiq.calibrate import CalibrationSet, gaussian_noise, open_or_import
from mimiq.calibrate.sources import image_files
from mimiq.job import Job
from mimiq.procedural import scenes
from mimiq.progress import Progress


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
        from mimiq.psaq import synthesize_psaq
        from mimiq.synthesis import synthesize

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


def tuning_images(job: Job, calibration: CalibrationSet) -> torch.Tensor:
    """What ranges and tuning look at, uint8 (B, S, S, 3): procedural images, then the set.

    In this order, so that the images that distillation holds out, the last ones, are of the set.
    """
    pixels = calibration.images()
    if count := procedural_count(job, calibration):
        pixels = np.concatenate([scenes(count, pixels.shape[1], job.seed), pixels])
    return torch.from_numpy(pixels)


def procedural_count(job: Job, calibration: CalibrationSet) -> int:
    """Random scenes belong beside synthetic images only."""
    return job.recipe.procedural if calibration.manifest["kind"] == "synthetic" else 0


def _listing(folder: Path) -> list[list[Any]]:
    """Names, sizes and times of a folder's images: they are read again when these change."""
    found = ((path.relative_to(folder).as_posix(), path.stat()) for path in image_files(folder))
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in found]
