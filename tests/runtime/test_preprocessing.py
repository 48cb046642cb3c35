"""The image pipeline against timm's eval transform, on the pixels themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from mimiq.errors import BadInput, UnsupportedModel
from mimiq.runtime.preprocessing import CROP_MODES, Preprocessing, read_image

MODES = ("RGB", "L", "RGBA", "P", "CMYK", "LA", "1")


def timm_transform(preprocessing: Preprocessing) -> Any:
    pytest.importorskip("timm")
    from timm.data import create_transform

    return create_transform(
        (3, preprocessing.height, preprocessing.width),
        is_training=False,
        interpolation=preprocessing.interpolation,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )


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


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (4, "RGBA")])
def test_other_numbers_of_channels(channels: int, mode: str) -> None:
    preprocessing = Preprocessing(16, 1.0, mean=(0.5,) * channels, std=(0.25,) * channels)
    image = random_image(16, 16, "RGBA", 0)
    pixels = preprocessing.crop(image)
    expected = np.asarray(image.convert(mode)).reshape(16, 16, channels)
    np.testing.assert_array_equal(pixels, expected)
    normalized = preprocessing.normalize(pixels[None])
    wanted = (expected.transpose(2, 0, 1) / np.float32(255) - 0.5) / 0.25
    np.testing.assert_allclose(normalized[0], wanted, atol=1e-6)


def test_steps_for_square_images_refuse_others_by_name() -> None:
    assert Preprocessing((32, 32)).side == 32
    with pytest.raises(UnsupportedModel, match="112×448"):
        _ = Preprocessing((112, 448)).side


def test_channels_that_no_image_has_are_refused() -> None:
    preprocessing = Preprocessing(16, mean=(0.5,) * 5, std=(0.5,) * 5)
    with pytest.raises(BadInput, match="5 channels"):
        preprocessing.crop(random_image(16, 16, "RGB", 0))


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
