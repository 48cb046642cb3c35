"""Calibration sets on disk: uint8 images with labels in shards, and a manifest of how they came.

A set is a folder::

    manifest.json       what made it: kind, model, recipe, seed, count, image size, software, hash
    batch-00000.npz …   images uint8 (n, height, width, channels), labels int64 (n,), -1 if unknown
    contact_sheet.png   the first images, for the human eye
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mimiq.calibrate import storage
from mimiq.calibrate.contact_sheet import contact_sheet
from mimiq.calibrate.manifest import FORMAT, read_manifest, shape_of
from mimiq.calibrate.storage import ByteArray, LabelArray
from mimiq.calibrate.unfinished import unfinished
from mimiq.errors import BadInput
from mimiq.runtime.image_files import InputShape, described

CONTACT_SHEET = "contact_sheet.png"
_MAKE_AGAIN = "Run the command that made it again: it makes only what is missing."


@dataclass(frozen=True, eq=False, repr=False)
class CalibrationSet:
    """A finished set, or a contiguous part of one. Pixels stay on disk until asked for.

    Attributes:
        path: the folder.
        manifest: as written; it describes the whole set also where this is a part.
        labels: int64 (len,), -1 where unknown.
    """

    path: Path
    manifest: Mapping[str, Any]
    labels: LabelArray
    _shard_sizes: tuple[int, ...]
    _start: int = 0

    @staticmethod
    def open(path: str | Path) -> CalibrationSet:
        """Open a finished set and check that it is whole.

        Pixels are checked against their checksums only as they are read.

        Raises:
            BadInput: no such folder, not a calibration set, unfinished, a shard missing, truncated
                or of another shape.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if manifest is None:
            what = "is not a calibration set" if path.exists() else "does not exist"
            raise BadInput(
                f"Calibration set {path} {what}.",
                "Give a folder of images, or one written by mimiq synthesize.",
            )
        if not manifest.get("complete"):
            raise unfinished(path, manifest)
        return open_shards(path, manifest)

    @staticmethod
    def is_set(path: str | Path) -> bool:
        """Whether a folder claims to be a calibration set (finished or not)."""
        try:
            return read_manifest(Path(path)) is not None
        except BadInput:
            return any(Path(path).glob("batch-*.npz"))

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        kind, shape = self.manifest.get("kind", "unknown"), self.input_shape
        return f"<CalibrationSet {self.path}: {len(self)} images, {kind}, {described(shape)}>"

    @property
    def input_shape(self) -> InputShape:
        """Channels, height and width of an image, as the network's input has them."""
        return shape_of(self.manifest)

    def images(self) -> ByteArray:
        """All images at once: uint8 (len, height, width, channels).

        Raises:
            BadInput: when a shard is damaged.
        """
        channels, height, width = self.input_shape
        out = np.empty((len(self), height, width, channels), np.uint8)
        done = 0
        for images, _ in self._pieces():
            out[done : done + len(images)] = images
            done += len(images)
        return out

    def batches(self, batch_size: int) -> Iterator[tuple[ByteArray, LabelArray]]:
        """Images and labels in order, ``batch_size`` at a time, the last batch perhaps smaller.

        Holds one shard and one batch in memory.

        Raises:
            BadInput: when ``batch_size`` is below 1 or a shard is damaged.
        """
        if batch_size < 1:
            raise BadInput(f"A batch of {batch_size} images is none.", "Use a batch of 1 or more.")
        kept: list[ByteArray] = []
        wanted, done = batch_size, 0
        for images, _ in self._pieces():
            while len(images):
                kept.append(images[:wanted])
                images = images[wanted:]
                wanted -= len(kept[-1])
                if wanted == 0:
                    yield self._batch(kept, done)
                    done += batch_size
                    kept, wanted = [], batch_size
        if kept:
            yield self._batch(kept, done)

    def subset(self, start: int, stop: int) -> CalibrationSet:
        """Images ``start … stop - 1`` of this part, as a view.

        Raises:
            BadInput: when that is empty or reaches outside.
        """
        if not 0 <= start < stop <= len(self):
            raise BadInput(
                f"Images {start} to {stop} of a set of {len(self)} do not exist.",
                "Make a larger calibration set, or ask for fewer images.",
            )
        return CalibrationSet(
            self.path,
            self.manifest,
            self.labels[start:stop],
            self._shard_sizes,
            self._start + start,
        )

    def split(self, held_out: int) -> tuple[CalibrationSet, CalibrationSet]:
        """(training part, held-out part): the last ``held_out`` images are held out.

        Raises:
            BadInput: when either part would be empty.
        """
        cut = len(self) - held_out
        return self.subset(0, cut), self.subset(cut, len(self))

    @property
    def cache_key(self) -> str:
        """What stands for it in a cache's key."""
        return self.content_hash

    @cached_property
    def content_hash(self) -> str:
        """Hex SHA-256 over images and labels, whatever the sharding."""
        known = self.manifest.get("content_sha256")
        if known and len(self) == self.manifest["count"]:
            return str(known)
        return self.compute_hash()

    def verify(self) -> None:
        """Read everything and compare it with the hash in the manifest.

        Raises:
            BadInput: when the content is not what was finished.
        """
        whole = open_shards(self.path, self.manifest)
        if whole.compute_hash() != self.manifest.get("content_sha256"):
            raise BadInput(
                f"Calibration set {self.path} was changed after it was made.",
                "Remove the folder and make it again.",
            )

    def contact_sheet(self, columns: int = 8, limit: int = 64) -> Image.Image:
        """The first ``limit`` images as one, ``columns`` in a row.

        Raises:
            BadInput: when a shard is damaged.
        """
        shown = self.subset(0, min(limit, len(self)))
        return contact_sheet(shown.images(), columns)

    def _batch(self, parts: list[ByteArray], start: int) -> tuple[ByteArray, LabelArray]:
        images = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return images, self.labels[start : start + len(images)]

    def _pieces(self) -> Iterator[tuple[ByteArray, LabelArray]]:
        """Shard by shard, cut to this part."""
        first = 0
        for index, size in enumerate(self._shard_sizes):
            start = max(self._start - first, 0)
            stop = min(self._start + len(self) - first, size)
            first += size
            if start < stop:
                file = storage.shard_path(self.path, index)
                images, labels = storage.read_shard(file, self.input_shape)
                yield images[start:stop], labels[start:stop]

    def compute_hash(self) -> str:
        """SHA-256 of shape, pixels and labels as they lie on disk now.

        Raises:
            BadInput: a shard is missing or damaged.
        """
        images_digest, labels_digest = hashlib.sha256(), hashlib.sha256()
        for images, labels in self._pieces():
            images_digest.update(np.ascontiguousarray(images).data)
            labels_digest.update(labels.astype("<i8").tobytes())
        channels, height, width = self.input_shape
        # Square RGB sets are as before there were others.
        shape = f"{height}" if (channels, height) == (3, width) else f"{height}x{width}x{channels}"
        head = f"{FORMAT}:{len(self)}:{shape};"
        whole = head.encode() + images_digest.digest() + labels_digest.digest()
        return hashlib.sha256(whole).hexdigest()


def open_shards(path: Path, manifest: Mapping[str, Any]) -> CalibrationSet:
    """The set of the shards in ``path``, whether or not its manifest calls it complete.

    Raises:
        BadInput: a shard is missing or damaged, or their images are not as many as the manifest
            says.
    """
    indices = storage.shard_indices(path)
    absent = sorted(set(range(len(indices))) - set(indices))
    if absent:
        missing = storage.shard_path(path, absent[0])
        raise BadInput(f"Calibration set {path} lacks {missing.name}.", _MAKE_AGAIN)
    shape = shape_of(manifest)
    labels = [storage.read_labels(storage.shard_path(path, index), shape) for index in indices]
    count = sum(map(len, labels))
    if count != manifest["count"]:
        raise BadInput(
            f"Calibration set {path} holds {count} images, its manifest says {manifest['count']}.",
            _MAKE_AGAIN,
        )
    return CalibrationSet(path, manifest, np.concatenate(labels), tuple(map(len, labels)))
