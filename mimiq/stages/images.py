"""The images of a compilation: made, generated or imported, and what is shown beside them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from mimiq import ranks
from mimiq.cache import ASIDE, Cache
from mimiq.calibrate import CalibrationSet, gaussian_noise, open_or_import
from mimiq.calibrate.manifest import MANIFEST
from mimiq.calibrate.sources import drawn, images_and_note
from mimiq.config.synthesis import SynthesisRecipe
from mimiq.errors import BadInput
from mimiq.models import LoadedModel
from mimiq.progress import Progress
from mimiq.runtime.image_files import DEEP, check_file
from mimiq.runtime.preprocessing import ByteArray, Preprocessing
from mimiq.spec import Job
from mimiq.synthesis.scenes import scenes

_FRESH = 1_000_003  # added to a seed: scenes that no compilation with a small seed is fitted to
_LEAST_FRESH = 48  # drawn in no time, where a small set has few images to spare


@dataclass(frozen=True)
class _Set:
    """A stage whose result is a calibration set."""

    name: ClassVar[str] = "calibration"
    revision: ClassVar[int] = 1

    def load(self, folder: Path) -> CalibrationSet:
        return CalibrationSet.open(folder / "set")

    def _place(self, folder: Path) -> Path:
        """Where the set is written; what a damaged entry left is of use with its manifest alone."""
        place = folder / "set"
        if not (place / MANIFEST).is_file():
            shutil.rmtree(place, ignore_errors=True)
        ranks.current().barrier()  # nobody begins a set that another rank takes for a leftover
        return place


@dataclass(frozen=True)
class ImportImages(_Set):
    """Images of a folder, as the network sees them.

    Attributes:
        listing: names, sizes and times of the files: they are read again when these change.
        left_out: a sentence on images beside them that are not read.
    """

    source: Path
    preprocessing: Preprocessing
    count: int
    seed: int
    listing: tuple[tuple[str, int, int], ...]
    left_out: str | None = field(metadata=ASIDE)

    def make(self, folder: Path, progress: Progress) -> None:
        open_or_import(
            self.source, self.preprocessing, self._place(folder), limit=self.count, seed=self.seed
        )

    def notes(self) -> Iterator[str]:
        """What whoever gave the images should know of them.

        Raises:
            BadInput: one of those to be read is none.
        """
        if self.left_out is not None:
            yield self.left_out
        channels = self.preprocessing.channels
        files = drawn([self.source / name for name, *_ in self.listing], self.count, self.seed)
        deep = [check_file(file, channels) for file in files]  # each: one may be no image
        if any(deep):
            yield DEEP


@dataclass(frozen=True)
class NoiseImages(_Set):
    """Gaussian noise, a control."""

    preprocessing: Preprocessing
    count: int
    seed: int
    kind: str = "noise"

    def make(self, folder: Path, progress: Progress) -> None:
        gaussian_noise(self.preprocessing, self.count, self.seed, self._place(folder))


@dataclass(frozen=True)
class SynthesizeImages(_Set):
    """Images from the network itself; ``kind`` is ``synthetic`` or ``psaq``."""

    kind: str
    model: LoadedModel
    recipe: SynthesisRecipe
    seed: int
    device: str = field(metadata=ASIDE)
    together: ClassVar[bool] = True

    def make(self, folder: Path, progress: Progress) -> None:
        from mimiq.synthesis.mimiq import synthesize
        from mimiq.synthesis.psaq import synthesize_psaq

        function = synthesize if self.kind == "synthetic" else synthesize_psaq
        function(
            self.model,
            self.recipe,
            seed=self.seed,
            out=self._place(folder),
            device=self.device,
            progress=progress,
        )


ImageStage = ImportImages | NoiseImages | SynthesizeImages


def image_stage(job: Job) -> ImageStage | None:
    """The stage that makes a job's images; None where a finished set was given."""
    source, preprocessing, recipe = job.calibration, job.model.preprocessing, job.recipe.synthesis
    match source:
        case "synthetic" | "psaq":
            return SynthesizeImages(str(source), job.model, recipe, job.seed, job.device)
        case "noise":
            return NoiseImages(preprocessing, job.recipe.given, job.seed)
    folder = Path(source)
    if CalibrationSet.is_set(folder):
        return None
    files, left_out = images_and_note(folder, preprocessing.channels)
    return ImportImages(
        folder.resolve(),
        preprocessing,
        job.recipe.given,
        job.seed,
        _listing(folder, files),
        left_out,
    )


def calibration_set(job: Job, cache: Cache, progress: Progress) -> CalibrationSet:
    """The images to calibrate and tune on: synthesised, generated or imported; cached."""
    stage = image_stage(job)
    if stage is None:
        folder = Path(job.calibration)
        given = open_or_import(folder, job.model.preprocessing, folder)
        given.verify()  # its hash enters the keys of all that is made of it
        return given
    if isinstance(stage, ImportImages):  # also of a set that is there: it was made of them
        for note in stage.notes():
            progress.note(note)
    found = cache.run(stage, progress)
    wanted = job.recipe.given
    if isinstance(stage, ImportImages) and len(found) < wanted:
        progress.note(f"calibration images: {len(found)} in {job.calibration}, of {wanted} wanted")
    return found


@dataclass(frozen=True)
class TuningImages:
    """The images of a compilation, split once: to fit to, and to judge by.

    All are uint8 (B, H, W, C). What judges is never fitted to: neither ranges, weights nor
    distillation see it.

    Attributes:
        fitted: random scenes, where the set is synthetic, and the set without its last images.
        held_out: the last images of the set; they also choose the state that distillation keeps.
        scenes: fresh random scenes, as many or a few dozen; none beside images from elsewhere.
        kind: of the set: ``synthetic``, ``noise``, ``images``, …
    """

    fitted: torch.Tensor
    held_out: torch.Tensor
    scenes: torch.Tensor
    kind: str

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
    count = procedural_count(job, calibration)
    _, height, width, channels = pixels.shape
    draw = partial(scenes, size=(height, width), channels=channels)
    if count:
        pixels = np.concatenate([draw(count, seed=job.seed), pixels])
    fitted, held_out = job.recipe.distillation.split(torch.from_numpy(pixels), len(calibration))
    fresh = draw(max(len(held_out), _LEAST_FRESH) if count else 0, seed=job.seed + _FRESH)
    return TuningImages(
        fitted, held_out, torch.from_numpy(fresh), "images" if kind == "folder" else kind
    )


def procedural_count(job: Job, calibration: CalibrationSet) -> int:
    """Random scenes belong beside synthetic images only."""
    return job.recipe.procedural if calibration.manifest["kind"] == "synthetic" else 0


def _listing(folder: Path, files: list[Path]) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of a folder's images.

    Raises:
        BadInput: one cannot be read, as a link that leads nowhere.
    """
    listed = []
    for path in files:
        try:
            found = path.stat()
        except OSError as error:
            raise BadInput(
                f"{path} cannot be read: {error.strerror or error}.",
                "Remove it, or mend the link if it is one.",
            ) from error
        name = path.relative_to(folder).as_posix()
        listed.append((name, found.st_size, found.st_mtime_ns))
    return tuple(listed)
