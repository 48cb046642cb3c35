"""Writes calibration sets batch by batch, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mimiq import files
from mimiq.calibrate import storage
from mimiq.calibrate.dataset import CONTACT_SHEET, CalibrationSet, open_shards
from mimiq.calibrate.manifest import MANIFEST, read_manifest, refuse_other, shape_of
from mimiq.calibrate.storage import ByteArray, LabelArray
from mimiq.durable import is_temporary, remove_all_leftovers
from mimiq.errors import BadInput
from mimiq.runtime.files.json_objects import pretty_json


class CalibrationSetWriter:
    """Writes a set batch by batch, so that an interrupted run goes on where it stopped.

    Opening a folder that holds an unfinished (or finished) set of the same manifest resumes it; a
    shard that cannot be read counts as absent. Software, hardware and date may differ.

    Args:
        path: the folder, new, empty or begun with the same manifest.
        manifest: from :func:`make_manifest`.

    Raises:
        BadInput: the folder holds another set or other files, or cannot be written.
        EnvironmentLacks: the disk is full.
    """

    def __init__(self, path: str | Path, manifest: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._input_shape = shape_of(manifest)
        found = read_manifest(self.path)
        self.resumed = found is not None
        if found is not None:
            refuse_other(self.path, found, manifest)
            self._manifest = found
            return
        with files.writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        remove_all_leftovers(self.path)
        if any(not is_temporary(entry.name) for entry in self.path.iterdir()):
            found = read_manifest(self.path)
            if found is not None:  # another process has begun it meanwhile
                refuse_other(self.path, found, manifest)
                self._manifest = found
                return
            raise BadInput(
                f"{self.path} exists and holds something else than a calibration set.",
                "Choose a new folder, or empty this one.",
            )
        self._manifest = {
            **manifest,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "complete": False,
        }
        self._save_manifest()

    def has(self, batch_index: int) -> bool:
        """Whether this batch is on disk, whole."""
        file = storage.shard_path(self.path, batch_index)
        if not file.exists():
            return False
        try:
            storage.read_shard(file, self._input_shape)
        except BadInput:
            return False
        return True

    def write(self, batch_index: int, images: ByteArray, labels: LabelArray | None = None) -> None:
        """Save one batch, whole or not at all; an earlier one of the same number is replaced.

        Args:
            batch_index: from 0 on, without gaps by the time of :meth:`finish`.
            images: uint8 (n, height, width, channels), n ≥ 1.
            labels: int64 (n,); None where unknown.

        Raises:
            BadInput: other shapes, or the file cannot be written.
            EnvironmentLacks: the disk is full.
        """
        labels = np.full(len(images), -1, np.int64) if labels is None else np.asarray(labels)
        channels, height, width = self._input_shape
        n, shapes = len(images), (images.shape, labels.shape)
        if n == 0 or images.dtype != np.uint8 or shapes != ((n, height, width, channels), (n,)):
            raise BadInput(
                f"Batch {batch_index} has {images.dtype} images {images.shape} and labels "
                f"{labels.shape}; wanted uint8 (n, {height}, {width}, {channels}) and (n,).",
                "Write images and labels of one batch together, in the manifest's size.",
            )
        if self._manifest["complete"]:  # a damaged shard of a finished set is being replaced
            self._manifest = {**self._manifest, "complete": False}
            self._save_manifest()
        data = storage.encode_shard(np.ascontiguousarray(images), labels.astype(np.int64))
        files.write_whole(storage.shard_path(self.path, batch_index), data)

    def finish(self) -> CalibrationSet:
        """Check that all is there, write the hash and the contact sheet, and open the set.

        Raises:
            BadInput: when a batch is missing or damaged, or the number of images is not the
                manifest's count.
            EnvironmentLacks: the disk is full.
        """
        finished = open_shards(self.path, self._manifest)
        if not self._manifest["complete"]:
            _write_png(finished.contact_sheet(), self.path / CONTACT_SHEET)
            self._manifest = {
                **self._manifest,
                "complete": True,
                "content_sha256": finished.compute_hash(),
            }
            self._save_manifest()
            remove_all_leftovers(self.path)
        return CalibrationSet.open(self.path)

    def discard(self) -> None:
        """Remove the set: for when its source turned out to be unusable."""
        for index in storage.shard_indices(self.path):
            storage.shard_path(self.path, index).unlink()
        remove_all_leftovers(self.path)
        (self.path / CONTACT_SHEET).unlink(missing_ok=True)
        (self.path / MANIFEST).unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def _save_manifest(self) -> None:
        files.write_whole(self.path / MANIFEST, pretty_json(self._manifest))


def _write_png(image: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    files.write_whole(path, buffer.getvalue())
