"""Folders and shards that are no calibration set of ours, refused and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibration_sets import SIZE, manifest, pixels, write_set

from mimiq.calibrate import CalibrationSet, CalibrationSetWriter, make_manifest
from mimiq.errors import BadInput


def test_writer_refuses_a_folder_of_other_files(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    with pytest.raises(BadInput, match="holds something else"):
        CalibrationSetWriter(tmp_path, manifest(4))
    (tmp_path / "manifest.json").write_text('{"name": "somebody else\'s"}')
    with pytest.raises(BadInput, match="holds something else"):
        CalibrationSetWriter(tmp_path, manifest(4))
    with pytest.raises(BadInput, match="cannot be written"):
        CalibrationSetWriter(tmp_path / "photo.jpg", manifest(4))


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (pixels(2)[:, :4], None),
        (pixels(2).astype(np.float32), None),
        (pixels(2), np.zeros(3, np.int64)),
        (pixels(2), np.zeros((2, 1), np.int64)),
        (pixels(0), None),
        (pixels(2).transpose(0, 3, 1, 2), None),
    ],
)
def test_writer_refuses_other_shapes(tmp_path: Path, images: Any, labels: Any) -> None:
    writer = CalibrationSetWriter(tmp_path / "set", manifest(2))
    with pytest.raises(BadInput, match="Batch 0 has"):
        writer.write(0, images, labels)


def test_open_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="absent does not exist"):
        CalibrationSet.open(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="empty is not a calibration set"):
        CalibrationSet.open(tmp_path / "empty")

    write_set(tmp_path / "truncated")
    shard = tmp_path / "truncated" / "batch-00001.npz"
    shard.write_bytes(shard.read_bytes()[:200])
    with pytest.raises(BadInput, match=r"batch-00001\.npz is truncated or damaged"):
        CalibrationSet.open(tmp_path / "truncated")

    write_set(tmp_path / "gap")
    (tmp_path / "gap" / "batch-00001.npz").unlink()
    with pytest.raises(BadInput, match=r"lacks batch-00001\.npz"):
        CalibrationSet.open(tmp_path / "gap")

    write_set(tmp_path / "short")
    (tmp_path / "short" / "batch-00002.npz").unlink()
    with pytest.raises(BadInput, match="holds 8 images, its manifest says 11"):
        CalibrationSet.open(tmp_path / "short")

    write_set(tmp_path / "none", (4,))
    (tmp_path / "none" / "batch-00000.npz").unlink()
    with pytest.raises(BadInput, match="holds 0 images"):
        CalibrationSet.open(tmp_path / "none")


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": np.zeros((4, 4, 4, 3), np.uint8), "labels": np.zeros(4, np.int64)},
        {"images": np.zeros((4, SIZE, SIZE, 3), np.float32), "labels": np.zeros(4, np.int64)},
        {"images": np.zeros((4, SIZE, SIZE, 3), np.uint8), "labels": np.zeros(3, np.int64)},
        {"images": np.zeros((4, SIZE, SIZE, 3), np.uint8), "labels": np.zeros(4, np.float32)},
        {"images": np.zeros((4, SIZE, SIZE, 3), np.uint8), "labels": np.array(0)},
        {"images": np.zeros((4, SIZE, SIZE, 3), np.uint8)},
        {"images": np.array(["pickled"], object), "labels": np.zeros(1, np.int64)},
    ],
)
def test_open_refuses_foreign_shards(tmp_path: Path, arrays: dict[str, Any]) -> None:
    write_set(tmp_path / "set", (4,))
    np.savez(tmp_path / "set" / "batch-00000.npz", **arrays)
    with pytest.raises(BadInput, match=r"batch-00000\.npz"):
        CalibrationSet.open(tmp_path / "set")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"format": "mimiq-calibration/2", "count": 4, "image_size": 8}',
        '{"format": "mimiq-calibration/1", "count": "4", "image_size": 8}',
    ],
)
def test_open_refuses_foreign_manifests(tmp_path: Path, text: str) -> None:
    write_set(tmp_path / "set", (4,))
    (tmp_path / "set" / "manifest.json").write_text(text)
    assert CalibrationSet.is_set(
        tmp_path / "set"
    )  # it claims to be one: importing it would hide it
    with pytest.raises(BadInput, match=r"manifest\.json"):
        CalibrationSet.open(tmp_path / "set")


def test_bad_numbers(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="batch of 0"):
        next(write_set(tmp_path / "set").batches(0))
    with pytest.raises(BadInput, match="0 images"):
        make_manifest("noise", 0, 8, 0, {})
    with pytest.raises(BadInput, match="kind 'photos' is unknown"):
        make_manifest("photos", 1, 8, 0, {})
