"""Calibration sets of images that are not square, or not RGB; square RGB ones are as ever."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimiq.calibrate import (
    CalibrationSet,
    CalibrationSetWriter,
    from_folder,
    gaussian_noise,
    make_manifest,
    open_or_import,
)
from mimiq.errors import BadInput
from mimiq.runtime.preprocessing import Preprocessing

SHAPES = [(3, 8, 16), (1, 8, 8), (4, 8, 8), (2, 16, 8), (7, 8, 16)]


def pixels(shape: tuple[int, int, int], count: int = 5) -> np.ndarray:
    channels, height, width = shape
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


def write(path: Path, shape: tuple[int, int, int]) -> CalibrationSet:
    writer = CalibrationSetWriter(path, make_manifest("folder", 5, shape, 0, {}))
    images = pixels(shape)
    writer.write(0, images[:3])
    writer.write(1, images[3:])
    return writer.finish()


def network(channels: int, size: int | tuple[int, int] = (8, 16)) -> Preprocessing:
    return Preprocessing(size, 1.0, mean=(0.5,) * channels, std=(0.25,) * channels)


@pytest.mark.parametrize("shape", SHAPES)
def test_round_trip(shape: tuple[int, int, int], tmp_path: Path) -> None:
    write(tmp_path / "set", shape)
    read = CalibrationSet.open(tmp_path / "set")
    assert read.input_shape == shape
    np.testing.assert_array_equal(read.images(), pixels(shape))
    read.verify()
    sheet = Image.open(tmp_path / "set" / "contact_sheet.png")
    assert (sheet.width > sheet.height) == (5 * shape[2] > shape[1])
    assert sheet.mode == "RGB"


def test_a_shard_of_another_shape_is_refused(tmp_path: Path) -> None:
    made = write(tmp_path / "set", (3, 8, 16))
    other = write(tmp_path / "other", (3, 16, 8))
    shard = "batch-00001.npz"
    (made.path / shard).write_bytes((other.path / shard).read_bytes())
    with pytest.raises(BadInput, match=r"\(2, 16, 8, 3\).*\(n, 8, 16, 3\)"):
        CalibrationSet.open(made.path)
    writer = CalibrationSetWriter(tmp_path / "new", make_manifest("folder", 5, (3, 8, 16), 0, {}))
    with pytest.raises(BadInput, match=r"wanted uint8 \(n, 8, 16, 3\)"):
        writer.write(0, pixels((3, 16, 8)))


def test_the_hash_tells_shapes_of_the_same_bytes_apart(tmp_path: Path) -> None:
    hashes = set()
    for index, shape in enumerate([(3, 8, 16), (3, 16, 8), (6, 8, 8), (1, 16, 24)]):
        writer = CalibrationSetWriter(
            tmp_path / str(index), make_manifest("folder", 5, shape, 0, {})
        )
        channels, height, width = shape
        writer.write(0, pixels((3, 8, 16)).reshape(5, height, width, channels))
        hashes.add(writer.finish().content_hash)
    assert len(hashes) == 4


def test_square_rgb_sets_have_the_manifest_and_the_hash_they_always_had(tmp_path: Path) -> None:
    manifest = make_manifest("folder", 2, (3, 8, 8), 0, {})
    assert manifest["image_size"] == 8
    assert "channels" not in manifest
    writer = CalibrationSetWriter(tmp_path / "set", manifest)
    images = (np.arange(2 * 8 * 8 * 3) % 251).astype(np.uint8).reshape(2, 8, 8, 3)
    writer.write(0, images, np.array([3, 4]))
    assert writer.finish().content_hash == (
        "17fdd43dfd6d4728215b85713bb21832213266e54e025d6d74afddb278ea8a6d"
    )


@pytest.mark.parametrize(
    "entry", ['"image_size": [8, 0]', '"image_size": [8]', '"image_size": 8.5']
)
def test_manifests_of_no_shape_are_refused(entry: str, tmp_path: Path) -> None:
    write(tmp_path / "set", (3, 8, 8))
    path = tmp_path / "set" / "manifest.json"
    path.write_text(path.read_text().replace('"image_size": 8', entry))
    with pytest.raises(BadInput, match="positive sizes"):
        CalibrationSet.open(tmp_path / "set")


def test_noise_has_the_shape_of_the_networks_input(tmp_path: Path) -> None:
    made = gaussian_noise(network(4), 3, 0, tmp_path / "set")
    assert made.images().shape == (3, 8, 16, 4)
    mean = network(4).normalize(made.images()).mean((0, 2, 3))
    assert np.abs(mean).max() < 0.2


def test_a_folder_of_images_for_a_network_of_one_channel(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for index, mode in enumerate(("RGB", "L", "RGBA", "P")):
        image = Image.fromarray(pixels((3, 20, 40), 1)[0]).convert(mode)
        image.save(tmp_path / "photos" / f"{index}.png")
    made = from_folder(tmp_path / "photos", network(1), tmp_path / "set")
    assert made.images().shape == (4, 8, 16, 1)
    grey = [network(1).crop(Image.open(path)).tobytes() for path in (tmp_path / "photos").iterdir()]
    assert {image.tobytes() for image in made.images()} == set(grey)


def test_a_folder_of_arrays_for_a_network_of_four(tmp_path: Path) -> None:
    (tmp_path / "bands" / "north").mkdir(parents=True)
    images = pixels((4, 8, 16))
    for index, image in enumerate(images):
        np.save(tmp_path / "bands" / "north" / f"{index}.npy", image)
    Image.fromarray(images[0, ..., :3]).save(tmp_path / "bands" / "preview.png")
    made = from_folder(tmp_path / "bands", network(4), tmp_path / "set")
    assert {image.tobytes() for image in made.images()} == {image.tobytes() for image in images}


def test_a_folder_of_image_files_has_none_for_a_network_of_four(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "photos" / "one.png")
    with pytest.raises(BadInput, match="photos holds no image") as caught:
        from_folder(tmp_path / "photos", network(4), tmp_path / "set")
    assert ".npy" in caught.value.next_step
    assert not (tmp_path / "set").exists()


def test_a_set_for_another_network_is_refused_by_its_shape(tmp_path: Path) -> None:
    made = gaussian_noise(network(1), 2, 0, tmp_path / "set")
    assert open_or_import(made.path, network(1), made.path).content_hash == made.content_hash
    said = "8×16 pixels with 1 channel, the network takes "
    for other, wanted in ((network(3), "8×16 pixels."), (network(1, (16, 8)), "16×8 pixels with")):
        with pytest.raises(BadInput, match=said + wanted):
            open_or_import(made.path, other, made.path)
