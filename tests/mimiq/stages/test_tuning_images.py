"""The images of a compilation, split once: nothing that judges is fitted to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mimiq.cache import Cache
from mimiq.calibrate import CalibrationSet
from mimiq.config.precision import int8
from mimiq.config.recipes import changed, recipe_for
from mimiq.models import LoadedModel
from mimiq.progress import Progress
from mimiq.spec import Job
from mimiq.stages.images import TuningImages, calibration_set, tuning_images


def split(
    small_vit: LoadedModel, folder: Path, images: int, scenes: int
) -> tuple[CalibrationSet, TuningImages]:
    recipe = changed(recipe_for("tiny", int8()), images=images)
    recipe = replace(recipe, synthesis=replace(recipe.synthesis, iterations=1), procedural=scenes)
    job = Job(small_vit, int8(), recipe, folder / "unused")
    made = calibration_set(job, Cache(folder / "cache"), Progress())
    return made, tuning_images(job, made)


@pytest.mark.parametrize(
    ("images", "scenes", "held_out"),
    [(32, 0, 4), (32, 32, 4), (12, 24, 1), (4, 24, 1), (2, 0, 1)],
)
def test_an_eighth_of_the_set_is_held_out(
    small_vit: LoadedModel, tmp_path: Path, images: int, scenes: int, held_out: int
) -> None:
    made, found = split(small_vit, tmp_path, images, scenes)
    assert len(found.held_out) == held_out
    assert len(found.fitted) == scenes + images - held_out
    assert np.array_equal(found.held_out, made.images()[-held_out:])
    assert np.array_equal(found.fitted[scenes:], made.images()[:-held_out])


def test_fresh_scenes_are_dozens_and_none_of_those_fitted(
    small_vit: LoadedModel, tmp_path: Path
) -> None:
    _, found = split(small_vit, tmp_path, images=8, scenes=24)
    assert len(found.scenes) == 48
    fitted = {image.numpy().tobytes() for image in found.fitted}
    assert not fitted & {image.numpy().tobytes() for image in found.scenes}
    assert {kind: len(each) for kind, each in found.judging.items()} == {
        "synthetic": 1,
        "scenes": 48,
    }


def test_no_scenes_where_the_recipe_shows_none(small_vit: LoadedModel, tmp_path: Path) -> None:
    _, found = split(small_vit, tmp_path, images=8, scenes=0)
    assert list(found.judging) == ["synthetic"]
