"""Files of a calibration set: whole or absent, and read without running what they hold."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from mimiq.errors import BadInput
from mimiq.files import exhausted, regular_size
from mimiq.runtime.image_files import InputShape

ByteArray = npt.NDArray[np.uint8]
LabelArray = npt.NDArray[np.int64]

_SHARD = re.compile(r"batch-(\d{5,})\.npz")
_DAMAGE = (OSError, EOFError, KeyError, ValueError, NotImplementedError, zlib.error)


def shard_path(folder: Path, index: int) -> Path:
    return folder / f"batch-{index:05d}.npz"


def shard_indices(folder: Path) -> list[int]:
    """The batch numbers that have a file, in order."""
    matches = (_SHARD.fullmatch(entry.name) for entry in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def encode_shard(images: ByteArray, labels: LabelArray) -> bytes:
    """An uncompressed ``.npz``: noise-like pixels do not compress."""
    buffer = io.BytesIO()
    np.savez(buffer, images=images, labels=labels)
    return buffer.getvalue()


def read_labels(path: Path, shape: InputShape) -> LabelArray:
    """A shard's labels, its images checked by their header and length alone.

    Args:
        path: the shard.
        shape: channels, height and width of its images.

    Raises:
        BadInput: when the shard is truncated or holds something else.
    """
    try:
        with _opened(path) as archive:
            labels = _read_array(archive, "labels.npy")
            with archive.open("images.npy") as file:
                found, dtype, header_bytes = _read_header(file)
            whole = header_bytes + int(np.prod(found)) * dtype.itemsize
            if archive.getinfo("images.npy").file_size != whole:
                raise ValueError("its images are cut short")
    except (*_DAMAGE, zipfile.BadZipFile) as error:
        raise exhausted(error, f"{path} cannot be read") or _damaged(path, error) from error
    _check_shapes(path, found, dtype, labels, shape)
    return labels.astype(np.int64, copy=False)


def read_shard(path: Path, shape: InputShape) -> tuple[ByteArray, LabelArray]:
    """A whole shard, its checksum verified: uint8 (n, height, width, channels) and int64 (n,).

    Args:
        path: the shard.
        shape: channels, height and width of its images.

    Raises:
        BadInput: when the shard is truncated, corrupted or holds something else.
    """
    try:
        with _opened(path) as archive:
            images = _read_array(archive, "images.npy")
            labels = _read_array(archive, "labels.npy")
    except (*_DAMAGE, zipfile.BadZipFile) as error:
        raise exhausted(error, f"{path} cannot be read") or _damaged(path, error) from error
    _check_shapes(path, images.shape, images.dtype, labels, shape)
    return images.astype(np.uint8, copy=False), labels.astype(np.int64, copy=False)


def _opened(path: Path) -> zipfile.ZipFile:
    regular_size(path)
    return zipfile.ZipFile(path)


def _read_array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[np.generic]:
    with archive.open(name) as file:
        array: npt.NDArray[np.generic] = np.lib.format.read_array(file, allow_pickle=False)
        file.read()  # to the end, which is where zipfile compares the checksum
    return array


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic], int]:
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"npy version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return shape, dtype, file.tell()


def _check_shapes(
    path: Path,
    found: tuple[int, ...],
    dtype: np.dtype[np.generic],
    labels: npt.NDArray[np.generic],
    shape: InputShape,
) -> None:
    channels, height, width = shape
    expected = (len(labels) if labels.ndim == 1 else -1, height, width, channels)
    if found != expected or dtype != np.uint8 or not np.issubdtype(labels.dtype, np.integer):
        raise BadInput(
            f"{path} holds {dtype} images {found} and {labels.dtype} labels {labels.shape}; "
            f"wanted uint8 (n, {height}, {width}, {channels}) and int64 (n,).",
            "Remove the calibration set's folder and make it again.",
        )


def _damaged(path: Path, error: BaseException) -> BadInput:
    return BadInput(
        f"{path} is truncated or damaged ({error}).",
        "Remove that file and run the command that made the set again: it makes what is missing.",
    )
