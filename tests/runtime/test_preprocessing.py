"""The image pipeline against timm's eval transform, on the pixels themselves."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from timm_pixels import timm_transform

from mimiq.errors import BadInput
from mimiq.runtime.image_files import check_file, read_array, read_image
from mimiq.runtime.preprocessing import CROP_MODES, Preprocessing

MODES = ("RGB", "L", "RGBA", "P", "CMYK", "LA", "1")


def random_image(width: int, height: int, mode: str, seed: int) -> Image.Image:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (height, width, 4), dtype=np.uint8)
    if mode in ("RGBA", "CMYK"):
        return Image.fromarray(pixels, mode)
    return Image.fromarray(pixels[..., :3]).convert(mode)


@settings(max_examples=100, deadline=None)
@given(
    width=st.integers(1, 220),
    height=st.integers(1, 220),
    mode=st.sampled_from(MODES),
    size=st.one_of(st.integers(1, 64), st.tuples(st.integers(1, 64), st.integers(1, 64))),
    crop_mode=st.sampled_from(CROP_MODES),
    crop_pct=st.one_of(st.just(1.0), st.just(0.875), st.floats(0.5, 1.0)),
    interpolation=st.sampled_from(("nearest", "bilinear", "bicubic", "lanczos")),
    seed=st.integers(0, 2**16),
)
def test_equals_timm(
    width: int,
    height: int,
    mode: str,
    size: int | tuple[int, int],
    crop_mode: str,
    crop_pct: float,
    interpolation: str,
    seed: int,
) -> None:
    preprocessing = Preprocessing(size, crop_pct, interpolation, crop_mode=crop_mode)
    image = random_image(width, height, mode, seed)
    resize, crop, *to_float = timm_transform(preprocessing).transforms
    try:
        expected = crop(resize(image.convert("RGB")))
    except ValueError:  # timm rounds the thin side of a thread of pixels to 0
        assume(False)

    pixels = preprocessing.crop(image)
    np.testing.assert_array_equal(pixels, np.asarray(expected))

    for step in to_float:
        expected = step(expected)
    normalized = preprocessing.normalize(pixels[None])[0]
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized, expected.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_files_equal_timm(tmp_path: Path, suffix: str) -> None:
    preprocessing = Preprocessing(224, 0.875)
    paths = []
    for seed, (width, height) in enumerate(((640, 333), (121, 480), (256, 256), (1000, 9))):
        # Smooth: JPEG turns noise into noise of its own, which would test nothing.
        ramp = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
        paths.append(tmp_path / f"{seed}{suffix}")
        Image.fromarray(np.roll(ramp, seed, axis=2).astype(np.uint8)).save(paths[-1])
    transform = timm_transform(preprocessing)
    expected = np.stack([transform(Image.open(path).convert("RGB")).numpy() for path in paths])
    loaded = preprocessing.load(paths)
    assert loaded.shape == (4, 3, 224, 224)
    np.testing.assert_allclose(loaded, expected, rtol=0, atol=1e-6)


def test_normalize_is_the_arithmetic_it_replaces() -> None:
    preprocessing = Preprocessing(image_size=16)
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    mean = np.asarray(preprocessing.mean, np.float32)
    std = np.asarray(preprocessing.std, np.float32)
    expected = ((pixels.astype(np.float32) / np.float32(255) - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(preprocessing.normalize(pixels), expected)


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(32, 0.95, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.25, 0.125)),
        Preprocessing((112, 448), crop_mode="squash"),
        Preprocessing(28, 1.0, "bilinear", (0.1307,), (0.3081,), "border"),
    ],
)
def test_json_round_trip(preprocessing: Preprocessing) -> None:
    data = json.loads(json.dumps(preprocessing.to_json()))
    assert Preprocessing.from_json(data) == preprocessing


def test_manifests_from_before_crop_modes_mean_what_they_meant() -> None:
    old = {
        "image_size": 224,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    preprocessing = Preprocessing.from_json(old)
    assert preprocessing == Preprocessing(224, 0.875, "bicubic", (0.5,) * 3, (0.5,) * 3)
    # Written as before too, so that older hosts and cached stages know it.
    assert json.loads(json.dumps(preprocessing.to_json())) == old


@pytest.mark.parametrize("mode", MODES)
def test_a_network_of_one_channel_sees_the_luminance(mode: str) -> None:
    preprocessing = Preprocessing((8, 16), 1.0, mean=(0.5,), std=(0.25,))
    image = random_image(16, 8, mode, 0)
    pixels = preprocessing.crop(image)
    expected = np.asarray(image.convert("L"))[..., None]
    np.testing.assert_array_equal(pixels, expected)
    normalized = preprocessing.normalize(pixels[None])
    wanted = (expected.transpose(2, 0, 1) / np.float32(255) - 0.5) / 0.25
    np.testing.assert_allclose(normalized[0], wanted, atol=1e-6)


def ramp(kind: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Values of a deep greyscale image, and the bytes that they stand for."""
    steps = np.arange(256, dtype=np.uint8).reshape(16, 16)
    values: np.ndarray[Any, Any] = {
        "16 bits": steps.astype(np.uint16) * 256 + 255,
        "16 bits in 32": steps.astype(np.int32) * 256,
        "8 bits in 32": steps.astype(np.int32),
        "[0, 1]": steps.astype(np.float32) / 255,
        "[0, 255]": steps.astype(np.float32),
    }[kind]
    return values, steps


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["16 bits", "16 bits in 32", "8 bits in 32", "[0, 1]", "[0, 255]"])
def test_deep_greyscale_is_read_at_its_range(kind: str, channels: int, tmp_path: Path) -> None:
    values, steps = ramp(kind)
    Image.fromarray(values).save(tmp_path / "deep.tif")
    Image.fromarray(steps).save(tmp_path / "plain.png")
    preprocessing = Preprocessing(16, 1.0, mean=(0.5,) * channels, std=(0.5,) * channels)
    with pytest.warns(UserWarning, match="at their range"):
        deep = preprocessing.read(tmp_path / "deep.tif")
    np.testing.assert_array_equal(deep, preprocessing.read(tmp_path / "plain.png"))


def test_16_bits_of_grey_and_of_rgb_are_alike(tmp_path: Path) -> None:
    values, _ = ramp("16 bits")
    Image.fromarray(values).save(tmp_path / "grey.png")
    # Binary PPM of 16 bits is the one such RGB that is written in a line; Pillow reads it as bytes.
    rgb = np.repeat(values[..., None], 3, axis=2).astype(">u2").tobytes()
    (tmp_path / "rgb.ppm").write_bytes(b"P6 16 16 65535\n" + rgb)
    preprocessing = Preprocessing(16, 1.0)
    with pytest.warns(UserWarning, match="at their range"):
        grey = preprocessing.read(tmp_path / "grey.png")
    np.testing.assert_allclose(grey, preprocessing.read(tmp_path / "rgb.ppm"), atol=1)


@pytest.mark.filterwarnings("ignore:Greyscale")
@pytest.mark.parametrize("value", [-1.0, 300.0, np.nan, np.inf])
def test_greyscale_of_no_known_range_is_refused(value: float, tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), value, np.float32)).save(tmp_path / "deep.tif")
    with pytest.raises(BadInput, match=r"deep\.tif: .* no range of pixels"):
        Preprocessing(8).read(tmp_path / "deep.tif")


def test_postscript_under_another_name_is_not_run(tmp_path: Path) -> None:
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    (tmp_path / "x.png").write_text(text)
    with pytest.raises(BadInput, match="is not an image"):
        read_image(tmp_path / "x.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("x.png", read_image),
        ("x.png", lambda path: check_file(path, 3)),
        ("x.npy", lambda path: read_array(path, 4)),
        ("x.npy", lambda path: check_file(path, 4)),
    ],
)
def test_a_named_pipe_is_not_waited_for(
    name: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(BadInput, match="is no file"):
        read(tmp_path / name)


def test_load_takes_one_image_many_or_none(tmp_path: Path) -> None:
    preprocessing = Preprocessing(16)
    image = random_image(20, 30, "RGB", 0)
    image.save(tmp_path / "x.png")
    expected = preprocessing.load([tmp_path / "x.png"])
    for one in (str(tmp_path / "x.png"), tmp_path / "x.png", image, [image]):
        np.testing.assert_array_equal(preprocessing.load(one), expected)
    assert preprocessing.load([]).shape == (0, 3, 16, 16)
    with pytest.raises(BadInput, match="A ndarray is neither"):
        preprocessing.load([np.zeros((16, 16, 3), np.uint8)])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 8, 8, 3), np.uint16),
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 8, 8, 4), np.uint8),
    ],
)
def test_normalize_takes_bytes_alone(pixels: Any) -> None:
    with pytest.raises(BadInput, match=rf"The pixels are {pixels.dtype}"):
        Preprocessing(8).normalize(pixels)


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_channels_that_no_image_has_are_refused(channels: int, tmp_path: Path) -> None:
    preprocessing = Preprocessing(16, mean=(0.5,) * channels, std=(0.5,) * channels)
    random_image(16, 16, "RGBA", 0).save(tmp_path / "one.png")
    with pytest.raises(BadInput, match=f"the network takes {channels}") as caught:
        preprocessing.load([tmp_path / "one.png"])
    assert "one.png" in str(caught.value)
    assert ".npy" in str(caught.value)


@pytest.mark.parametrize("crop_mode", CROP_MODES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_arrays_are_resized_and_cropped_as_images_are(
    channels: int, crop_mode: str, tmp_path: Path
) -> None:
    means = tuple(np.linspace(0.2, 0.8, channels))
    preprocessing = Preprocessing(
        (12, 20), 0.8, mean=means, std=(0.5,) * channels, crop_mode=crop_mode
    )
    pixels = np.random.default_rng(0).integers(0, 256, (31, 50, channels), dtype=np.uint8)
    np.save(tmp_path / "one.npy", pixels)
    found = preprocessing.read(tmp_path / "one.npy")
    assert found.shape == (12, 20, channels)
    for channel in range(channels):
        alone = Preprocessing(
            (12, 20), 0.8, mean=(means[channel],), std=(0.5,), crop_mode=crop_mode
        )
        wanted = alone.crop(Image.fromarray(pixels[..., channel]))
        np.testing.assert_array_equal(found[..., channel], wanted[..., 0])
    assert preprocessing.load([tmp_path / "one.npy"]).shape == (1, channels, 12, 20)


def test_an_array_of_one_channel_needs_no_last_axis(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    np.save(tmp_path / "one.npy", pixels)
    preprocessing = Preprocessing(8, 1.0, mean=(0.5,), std=(0.5,))
    np.testing.assert_array_equal(preprocessing.read(tmp_path / "one.npy")[..., 0], pixels)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.zeros((8, 8, 4), np.float32), "float32"),
        (np.zeros((4, 8, 8), np.uint8), r"\(4, 8, 8\)"),
        (np.zeros((8, 8), np.uint8), r"\(8, 8\)"),
        (np.zeros((0, 8, 4), np.uint8), r"\(0, 8, 4\)"),
        (np.array([{"run": "me"}], object), "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_arrays_that_hold_no_such_image_are_named(
    content: np.ndarray | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "one.npy"
    if content is not None:
        np.save(path, content)
    preprocessing = Preprocessing(8, mean=(0.5,) * 4, std=(0.5,) * 4)
    with pytest.raises(BadInput, match=said) as caught:
        preprocessing.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"interpolation": "sinc"},
        {"crop_mode": "stretch"},
        {"crop_pct": 0.0},
        {"crop_pct": 1.1},
        {"image_size": 0},
        {"image_size": (0, 32)},
        {"mean": (0.5,)},
        {"mean": ("0.5", 0.5, 0.5)},
        {"mean": (math.nan, 0.5, 0.5)},
        {"std": (0.5, None, 0.5)},
        {"std": (0.5, 0.5, 10**400)},
    ],
)
def test_values_out_of_range(values: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Preprocessing(**values)


def test_a_thread_of_pixels_does_not_exhaust_the_memory() -> None:
    with pytest.raises(BadInput, match="long and thin"):
        Preprocessing(image_size=224).crop(Image.new("RGB", (20_000, 1)))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    text = tmp_path / "notes.jpg"
    text.write_text("no image")
    whole = tmp_path / "whole.png"
    random_image(64, 64, "RGB", 0).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:2000])
    for path in (text, cut, tmp_path / "absent.png", tmp_path):
        with pytest.raises(BadInput, match=str(path)):
            read_image(path)


def test_the_orientation_that_a_camera_notes_is_left_as_it_is(tmp_path: Path) -> None:
    """As timm: whoever trained on turned photographs evaluates on them."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    image.save(tmp_path / "turned.png", exif=exif)
    found = Preprocessing(24, 1.0).read(tmp_path / "turned.png")
    assert np.array_equal(found, pixels)
