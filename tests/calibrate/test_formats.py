"""Images in the forms of other tools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from mimiq.calibrate import CalibrationSet
from mimiq.calibrate.formats import check_format, write_images
from mimiq.cli import main
from mimiq.errors import BadInput
from mimiq.runtime.preprocessing import ByteArray, Preprocessing


def pixels(count: int, channels: int = 3) -> ByteArray:
    return np.random.default_rng(count).integers(0, 256, (count, 8, 12, channels), np.uint8)


def of(channels: int = 3) -> Preprocessing:
    return Preprocessing((8, 12), mean=(0.4,) * channels, std=(0.2,) * channels)


def test_arrays_are_the_network_s_input(tmp_path: Path) -> None:
    first, second = pixels(2), pixels(3)
    wanted = of().normalize(np.concatenate([first, second]))
    plain = write_images([first, second], of(), "npy", tmp_path)
    named = write_images([first, second], of(), "npz", tmp_path)
    assert np.array_equal(np.load(plain), wanted)
    assert np.array_equal(np.load(named)["images"], wanted)
    assert np.load(plain).dtype == np.float32


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_the_pixels(tmp_path: Path, channels: int) -> None:
    given = pixels(3, channels)
    folder = write_images([given], of(channels), "png", tmp_path)
    found = [np.asarray(Image.open(file)) for file in sorted(folder.iterdir())]
    assert np.array_equal(np.stack(found).reshape(given.shape), given)


def test_fewer_pictures_leave_none_of_the_old(tmp_path: Path) -> None:
    write_images([pixels(5)], of(), "png", tmp_path)
    folder = write_images([pixels(2)], of(), "png", tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == ["00000.png", "00001.png"]


def test_five_channels_are_no_picture() -> None:
    check_format("npy", 5)
    with pytest.raises(BadInput, match="5"):
        check_format("png", 5)


def synthesize(*arguments: object, exit_code: int = 0) -> Result:
    words = ["synthesize", "digits", "--method", "noise", "--images", "4", "--quiet", *arguments]
    answer = CliRunner().invoke(main, [str(word) for word in words])
    assert answer.exit_code == exit_code, answer.output
    return answer


def test_the_command_writes_scenes_and_the_set(tmp_path: Path) -> None:
    out = tmp_path / "set"
    told = synthesize("-o", out, "--format", "npz", "--scenes", "3", "--json")
    written = Path(json.loads(told.stdout)["written"])
    assert written == out / "images.npz"
    images = np.load(written)["images"]
    assert images.shape == (7, 3, 32, 32)
    made = CalibrationSet.open(out)
    made.verify()
    assert len(made) == 4


def test_scenes_without_a_format_are_refused(tmp_path: Path) -> None:
    told = synthesize("-o", tmp_path / "set", "--scenes", "3", exit_code=2)
    assert "--format" in told.stderr
    assert not (tmp_path / "set").exists()
