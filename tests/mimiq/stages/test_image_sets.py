"""Calibration images from a folder: imported once, and again when they change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimiq.cache import Cache
from mimiq.calibrate import gaussian_noise
from mimiq.cli.terminal_progress import LogProgress
from mimiq.config.precision import int8
from mimiq.config.recipes import recipe_for
from mimiq.errors import BadInput
from mimiq.models import LoadedModel
from mimiq.progress import SILENT, Progress
from mimiq.spec import Job
from mimiq.stages.images import calibration_set


def paint(folder: Path, shade: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(3):
        pixels = np.full((40, 40, 3), shade + index, np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


def shades(
    small_vit: LoadedModel, folder: Path, cache: Path, progress: Progress = SILENT
) -> list[int]:
    job = Job(small_vit, int8(), recipe_for("tiny", int8()), Path("unused"), folder)
    images = calibration_set(job, Cache(cache), progress).images()
    return sorted(int(image.min()) for image in images)


def test_images_behind_a_link_are_read_again_when_they_change(
    small_vit: LoadedModel, tmp_path: Path
) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "images"
    paint(elsewhere, 10)
    folder.mkdir()
    (folder / "class").symlink_to(elsewhere, target_is_directory=True)
    assert shades(small_vit, folder, tmp_path / "cache") == [10, 11, 12]
    paint(elsewhere, 100)
    assert shades(small_vit, folder, tmp_path / "cache") == [100, 101, 102]


def test_other_files_in_the_folder_change_nothing(small_vit: LoadedModel, tmp_path: Path) -> None:
    paint(tmp_path / "images", 10)
    shades(small_vit, tmp_path / "images", tmp_path / "cache")
    (tmp_path / "images" / "notes.txt").write_text("of no account")
    shades(small_vit, tmp_path / "images", tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("calibration-*"))) == 1


@pytest.mark.filterwarnings("ignore:Left out", "ignore:Greyscale")
def test_what_is_read_otherwise_or_not_at_all_is_said_each_time(
    small_vit: LoadedModel, tmp_path: Path
) -> None:
    """Once each, of a set that is made now and of one that is there."""
    folder = tmp_path / "images"
    paint(folder, 10)
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((40, 40), 40_000, np.uint16)).save(folder / name)
    for name in ("x.avif", "y.HEIC", "z.heic"):
        (folder / name).write_bytes(b"")
    for _ in range(2):
        said: list[str] = []
        shades(small_vit, folder, tmp_path / "cache", LogProgress(say=said.append))
        notes = [line for line in said if "calibration" not in line]
        assert len(notes) == 2, said
        assert "1 .avif, 2 .heic" in notes[0]
        assert "at their range" in notes[1]
    paint(tmp_path / "plain", 10)
    said = []
    shades(small_vit, tmp_path / "plain", tmp_path / "cache", LogProgress(say=said.append))
    assert all("calibration" in line for line in said)


def test_an_image_that_is_none_is_named_before_the_others_are_read(
    small_vit: LoadedModel, tmp_path: Path
) -> None:
    paint(tmp_path / "images", 10)
    (tmp_path / "images" / "z.png").write_bytes(b"none")
    with pytest.raises(BadInput, match=r"z\.png"):
        shades(small_vit, tmp_path / "images", tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("**/*.npz"))


def test_a_link_to_an_image_that_is_gone_is_named(small_vit: LoadedModel, tmp_path: Path) -> None:
    paint(tmp_path / "images", 10)
    (tmp_path / "images" / "z.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(BadInput, match=r"z\.png cannot be read: No such file"):
        shades(small_vit, tmp_path / "images", tmp_path / "cache")


def test_a_folder_that_is_not_there(small_vit: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no image folder"):
        shades(small_vit, tmp_path / "absent", tmp_path / "cache")


def test_a_shard_that_was_changed_is_noticed(small_vit: LoadedModel, tmp_path: Path) -> None:
    """A set given by hand: its hash enters the keys of all that is made of it."""
    made = tmp_path / "set"
    gaussian_noise(small_vit.preprocessing, 8, 0, made)
    shades(small_vit, made, tmp_path / "cache")
    other = gaussian_noise(small_vit.preprocessing, 8, 1, tmp_path / "other")
    (made / "batch-00000.npz").write_bytes((other.path / "batch-00000.npz").read_bytes())
    with pytest.raises(BadInput, match=str(made)):
        shades(small_vit, made, tmp_path / "cache")
