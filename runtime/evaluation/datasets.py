"""Labelled images to evaluate on: files in folders, or arrays in memory."""

from __future__ import annotations

import re
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
from mimiq.runtime.image_files import described, suffixes_for, wanted_files
from mimiq.runtime.preprocessing import ByteArray, FloatArray, Preprocessing

LabelArray = npt.NDArray[np.int64]
Batch = tuple[FloatArray, LabelArray]

LISTING = "val.txt"
_LINE = re.compile(r"\s*(\S.*?)\s+([+-]?\d+)\s*")  # a file's name may hold blanks
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
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    num_classes: int

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


def open_dataset(
    path: str | Path, num_classes: int, limit: int | None = None, *, channels: int = 3
) -> ImageFiles:
    """Find labelled images: a folder with a ``val.txt``, or an ImageNet-style tree.

    A ``val.txt`` holds lines of ``file index``; the files lie beside it or in ``images/``. In a
    tree, each class is a folder of images; its index is its number where all folders are named by
    numbers, else its place in the sorted order, for which every class must have its folder.

    Args:
        path: the folder.
        num_classes: of the model; every index must be below it.
        limit: at most so many images, evenly spread over the whole.
        channels: of the model; images of other than 1 or 3 are ``.npy`` files.

    Raises:
        BadInput: no folder, no images, a malformed line, an index out of range or a missing file;
            the message names the place.
    """
    root = Path(path)
    if not root.is_dir():
        raise BadInput(f"There is no folder of images at {root}.", "Check the path.")
    if limit is not None and limit < 1:
        raise BadInput(f"A limit of {limit} images leaves none.", "Ask for 1 or more.")
    listing = root / LISTING
    if listing.exists():
        return _spread(_read_listing(listing, num_classes), limit)
    return _spread(_walk(root, num_classes, channels), limit)


def unlabelled(paths: Sequence[Path], limit: int | None = None) -> ImageFiles:
    """Images whose classes nobody asks for: every label is -1.

    Args:
        paths: the files.
        limit: at most so many, evenly spread over the whole.
    """
    return _spread(ImageFiles(tuple(paths), (-1,) * len(paths), 0), limit)


def _spread(found: ImageFiles, limit: int | None) -> ImageFiles:
    if limit is None or limit >= len(found):
        return found
    chosen = [index * len(found) // limit for index in range(limit)]
    return replace(
        found,
        paths=tuple(found.paths[index] for index in chosen),
        labels=tuple(found.labels[index] for index in chosen),
    )


def _read_listing(listing: Path, num_classes: int) -> ImageFiles:
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{listing} cannot be read: {error}.", "Write it as UTF-8 text.") from error
    paths: list[Path] = []
    labels: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise BadInput(
                f"{listing}, line {number}: {line!r} is not of the form 'file index'.",
                "Write for example: ILSVRC2012_val_00000001.JPEG 65",
            )
        name, index = match[1], match[2]
        if not 0 <= int(index) < num_classes:
            raise BadInput(
                f"{listing}, line {number}: class {index} is out of range for a model with "
                f"{num_classes} classes.",
                f"Classes count from 0 to {num_classes - 1}; check that the listing is this "
                "model's.",
            )
        beside, inside = listing.parent / name, listing.parent / "images" / name
        found = beside if beside.is_file() else inside
        if not found.is_file():
            raise BadInput(
                f"{listing}, line {number}: {name} is neither beside it nor in images/.",
                "Copy the image there, or remove the line.",
            )
        paths.append(found)
        labels.append(int(index))
    if not paths:
        raise BadInput(f"{listing} lists no images.", "Write one 'file index' a line.")
    return ImageFiles(tuple(paths), tuple(labels), num_classes)


def _walk(root: Path, num_classes: int, channels: int) -> ImageFiles:
    folders = sorted(
        (entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")),
        key=lambda entry: entry.name,
    )
    if not folders:
        raise BadInput(
            f"{root} has neither class folders nor a {LISTING}.",
            f"Give a folder of class folders, or add a {LISTING} with one 'file index' a line.",
        )
    suffixes = suffixes_for(channels)
    paths: list[Path] = []
    labels: list[int] = []
    for folder, label in zip(folders, _class_indices(root, folders, num_classes), strict=True):
        files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in suffixes)
        paths += files
        labels += [label] * len(files)
    if not paths:
        raise BadInput(f"The class folders in {root} hold no images.", wanted_files(channels))
    return ImageFiles(tuple(paths), tuple(labels), num_classes)


def _class_indices(root: Path, folders: list[Path], num_classes: int) -> list[int]:
    names = [folder.name for folder in folders]
    if all(name.isdecimal() for name in names):
        indices = [int(name) for name in names]
        for name, index in zip(names, indices, strict=True):
            if index >= num_classes:
                raise BadInput(
                    f"{root / name}: class {index} is out of range for a model with "
                    f"{num_classes} classes.",
                    f"Folders named by numbers count from 0 to {num_classes - 1}.",
                )
        return indices
    if len(folders) != num_classes:
        raise BadInput(
            f"{root} has {len(folders)} class folders, but the model has {num_classes} classes: "
            "which folder is which class cannot be told.",
            f"Add a {LISTING} with one 'file index' a line, or name the folders by class index.",
        )
    return list(range(num_classes))


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise BadInput(f"A batch of {batch_size} images is empty.", "Use 1 or more.")
