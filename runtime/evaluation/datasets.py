"""Labelled images to evaluate on: files, or arrays in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from mimiq.errors import BadInput
from mimiq.runtime.host import usable_cores
from mimiq.runtime.image_files import described
from mimiq.runtime.preprocessing import ByteArray, FloatArray, Preprocessing

LabelArray = npt.NDArray[np.int64]
Batch = tuple[FloatArray, LabelArray]

_MAX_DECODERS = 8


class LabelledImages(Protocol):
    """Images with their classes, read in batches of network input."""

    @property
    def num_classes(self) -> int: ...

    def __len__(self) -> int: ...

    def batches(self, preprocessing: Preprocessing, batch_size: int) -> Iterator[Batch]:
        """All images in order: float32 (B, channels, height, width) normalised, and int64 (B,).

        The latter are class indices.

        Only the last batch may be smaller than ``batch_size``.

        Raises:
            BadInput: an image that cannot be read, or has another size than the network's.
        """


@dataclass(frozen=True)
class ImageFiles:
    """Image files with their classes; ``files[i]`` is ``(path, label)``.

    Attributes:
        paths: one a file.
        labels: class indices in [0, num_classes).
        num_classes: of the model that they are for.
        notes: sentences for whoever gave the files: what was left out, and what is in doubt.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    num_classes: int
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Path, int]:
        return self.paths[index], self.labels[index]

    def __iter__(self) -> Iterator[tuple[Path, int]]:
        return zip(self.paths, self.labels, strict=True)

    def batches(self, preprocessing: Preprocessing, batch_size: int) -> Iterator[Batch]:
        """See :meth:`LabelledImages.batches`; files are decoded ahead on a few threads."""
        _check_batch_size(batch_size)
        # Decoding and resizing release the interpreter lock.
        decoders = min(_MAX_DECODERS, usable_cores())
        pool = ThreadPoolExecutor(decoders, thread_name_prefix="decode")
        try:
            waiting: deque[Future[ByteArray]] = deque()
            unread = iter(self.paths)

            for start in range(0, len(self), batch_size):
                # One batch to give out, and the next to decode while the model is busy with it.
                ahead = islice(unread, 2 * batch_size - len(waiting))
                waiting.extend([pool.submit(preprocessing.read, path) for path in ahead])
                labels = np.asarray(self.labels[start : start + batch_size], np.int64)
                pixels = np.stack([waiting.popleft().result() for _ in labels])
                yield preprocessing.normalize(pixels), labels
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class InMemoryImages:
    """Images that already have the network's size.

    Attributes:
        images: uint8 (N, height, width, channels).
        labels: int64 (N,), class indices in [0, num_classes).
        num_classes: of the model that they are for; 0 where it has none, and labels mean nothing.
    """

    images: ByteArray
    labels: LabelArray
    num_classes: int

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != np.uint8 or images.ndim != 4:
            raise BadInput(
                f"Images are {images.dtype} {images.shape}; uint8 (N, height, width, channels) is "
                "needed.",
                "Convert them to pixels.",
            )
        if labels.shape != (len(images),):
            raise BadInput(
                f"{len(images)} images come with labels of shape {labels.shape}.",
                "Give one label an image.",
            )
        known = len(labels) and self.num_classes
        if known and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise BadInput(
                f"Labels lie in [{labels.min()}, {labels.max()}], but the model has "
                f"{self.num_classes} classes.",
                "Classes count from 0.",
            )

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, preprocessing: Preprocessing, batch_size: int) -> Iterator[Batch]:
        """See :meth:`LabelledImages.batches`."""
        _check_batch_size(batch_size)
        given, wanted = self.images.shape[1:], preprocessing.input_shape
        if given != (*wanted[1:], wanted[0]):
            raise BadInput(
                f"Images of {described((given[2], *given[:2]))} do not fit a network that takes "
                f"{described(wanted)}.",
                "Resize or convert them first.",
            )
        for start in range(0, len(self), batch_size):
            part = slice(start, start + batch_size)
            yield preprocessing.normalize(self.images[part]), self.labels[part].astype(np.int64)


def unlabelled(paths: Sequence[Path], limit: int | None = None) -> ImageFiles:
    """Images whose classes nobody asks for: every label is -1.

    Args:
        paths: the files.
        limit: at most so many, evenly spread over the whole.
    """
    return spread(ImageFiles(tuple(paths), (-1,) * len(paths), 0), limit)


def spread(found: ImageFiles, limit: int | None) -> ImageFiles:
    """At most ``limit`` of the images, evenly spread over the whole; all of them for None."""
    if limit is None or limit >= len(found):
        return found
    chosen = [index * len(found) // limit for index in range(limit)]
    return replace(
        found,
        paths=tuple(found.paths[index] for index in chosen),
        labels=tuple(found.labels[index] for index in chosen),
    )


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise BadInput(f"A batch of {batch_size} images is empty.", "Use 1 or more.")
