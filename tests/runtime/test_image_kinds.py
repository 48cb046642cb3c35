"""Kinds of image files that people bring: read as timm reads them, or refused by their name."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm_pixels import timm_transform

from mimiq.errors import BadInput
from mimiq.runtime.image_files import check_file, read_image
from mimiq.runtime.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(32, 0.875)


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save_lab(path: Path) -> None:
    Image.frombytes("LAB", (40, 30), noise(40, 30).tobytes()).save(path)


def save_16_bits(path: Path) -> None:
    """RGB of 16 bits a channel, which Pillow reads and does not write."""
    values = np.random.default_rng(0).integers(0, 2**16, (30, 40, 3)).astype(">u2")

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    rows = b"".join(b"\0" + row.tobytes() for row in values)
    head = struct.pack(">IIBBBBB", 40, 30, 16, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def save_animated(path: Path) -> None:
    frames = [Image.fromarray(noise(40, 30, seed)) for seed in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)


def save_sized(width: int, height: int) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(noise(width, height)).save(path)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("lab.tif", save_lab),
        ("deep.png", save_16_bits),
        ("animated.gif", save_animated),
        ("animated.webp", save_animated),
        ("wide.png", save_sized(4000, 20)),
        ("tall.png", save_sized(20, 4000)),
        ("small.png", save_sized(3, 3)),
        ("pixel.png", save_sized(1, 1)),
        ("Größe ß.png", save_sized(40, 30)),
        ("with some blanks .png", save_sized(40, 30)),
        ("UPPER.PNG", save_sized(40, 30)),
    ],
)
def test_files_have_timm_s_pixels(name: str, save: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / name
    save(path)
    assert not check_file(path, 3)
    with Image.open(path) as image:
        expected = timm_transform(PREPROCESSING)(image.convert("RGB")).numpy()
    np.testing.assert_allclose(PREPROCESSING.load(path)[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_of_an_animation_the_first_frame_is_taken(suffix: str, tmp_path: Path) -> None:
    """A GIF's 256 colours are not those of the noise, and another frame's are further off."""
    path = tmp_path / f"animated{suffix}"
    save_animated(path)
    with Image.open(path) as image:
        assert image.n_frames == 3  # type: ignore[attr-defined]
    read = np.asarray(read_image(path).convert("RGB"), np.int64)
    distances = [np.abs(read - noise(40, 30, seed)).mean() for seed in range(3)]
    assert distances[0] < 0.5 * min(distances[1:])


@pytest.mark.parametrize("read", [read_image, lambda path: check_file(path, 3), PREPROCESSING.load])
def test_a_decompression_bomb_is_refused_by_its_name(
    read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.png"
    Image.new("RGB", (50, 50)).save(path)
    read(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(BadInput, match=r"bomb\.png cannot be read: .*pixels") as caught:
        read(path)
    assert caught.value.next_step


@pytest.mark.parametrize("name", ["empty.png", "Größe ß.png", "with some blanks .jpg", "e.gif"])
@pytest.mark.parametrize("read", [read_image, lambda path: check_file(path, 3), PREPROCESSING.load])
def test_an_empty_file_is_no_image(
    read: Callable[[Path], object], name: str, tmp_path: Path
) -> None:
    (tmp_path / name).touch()
    with pytest.raises(BadInput, match=f"{name} is not an image"):
        read(tmp_path / name)


@pytest.mark.parametrize("read", [read_image, PREPROCESSING.load])
def test_a_damaged_file_is_named_whatever_pillow_raises(
    read: Callable[[Path], object], tmp_path: Path
) -> None:
    path = tmp_path / "damaged.tif"
    Image.fromarray(noise(20, 24)).save(path)
    content = bytearray(path.read_bytes())
    offsets = content.index(struct.pack("<HH", 273, 4))  # StripOffsets, LONG
    struct.pack_into("<H", content, offsets + 2, 5)  # RATIONAL, and Pillow raises TypeError
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"damaged\.tif cannot be read") as caught:
        read(path)
    assert caught.value.next_step


@pytest.mark.filterwarnings("ignore:Greyscale")
@pytest.mark.parametrize(
    ("high", "kind"), [(1.0001, np.float32), (2, np.float32), (256, np.int32), (1023, np.int32)]
)
def test_greyscale_of_either_range_is_refused(high: float, kind: Any, tmp_path: Path) -> None:
    """A value just above the smaller range made all the others black."""
    values = np.linspace(0, high, 64).astype(kind).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "deep.tif")
    with pytest.raises(BadInput, match=r"deep\.tif: .* which range they are of cannot be told"):
        Preprocessing(8).read(tmp_path / "deep.tif")


@pytest.mark.filterwarnings("ignore:Greyscale")
def test_dark_greyscale_whose_file_tells_its_bits_is_read(tmp_path: Path) -> None:
    values = np.full((8, 8), 515, ">u2")
    (tmp_path / "deep.pgm").write_bytes(b"P5 8 8 65535\n" + values.tobytes())
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "deep.png")
    for name in ("deep.pgm", "deep.png"):
        assert (Preprocessing(8, 1.0).read(tmp_path / name) == 2).all()
