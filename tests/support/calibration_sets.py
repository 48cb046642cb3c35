"""Small calibration sets on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mimiq.calibrate import CalibrationSet, CalibrationSetWriter, make_manifest

SIZE = 8


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def manifest(count: int, **changes: Any) -> dict[str, Any]:
    recipe = changes.pop("recipe", {"steps": 3, "batch": 4, "std": (0.1, 0.2)})
    model = {"name": "digits", "weights_sha256": "ab"}
    return make_manifest("synthetic", count, SIZE, 7, recipe, model=model) | changes


def write_set(path: Path, sizes: tuple[int, ...] = (4, 4, 3), seed: int = 0) -> CalibrationSet:
    count = sum(sizes)
    images, labels = pixels(count, seed), np.arange(count) + 100
    writer = CalibrationSetWriter(path, manifest(count))
    start = 0
    for index, size in enumerate(sizes):
        writer.write(index, images[start : start + size], labels[start : start + size])
        start += size
    return writer.finish()


def corrupt_pixels(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[300] ^= 0xFF  # behind both headers, among the first image's pixels
    shard.write_bytes(data)
