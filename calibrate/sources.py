"""Calibration sets that need no network: real images from a folder, and Gaussian noise."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mimiq.calibrate.dataset import CalibrationSet
from mimiq.calibrate.manifest import make_manifest
from mimiq.calibrate.writing import CalibrationSetWriter
from mimiq.errors import BadInput
from mimiq.files import exhausted
from mimiq.runtime.evaluation.walking import images_below, left_out_note
from mimiq.runtime.image_files import described, suffixes_for, wanted_files
from mimiq.runtime.preprocessing import Preprocessing

_SHARD_SIZE = 64


def from_folder(
    folder: str | Path,
    preprocessing: Preprocessing,
    out: str | Path,
    limit: int | None = None,
    seed: int = 0,
) -> CalibrationSet:
    """Real images, cropped as in evaluation, in an order drawn from ``seed``. Labels are unknown.

    Args:
        folder: searched with all its subfolders for image files, or for ``.npy`` files where the
            network takes other than 1 or 3 channels.
        preprocessing: the network's own resize and crop.
        out: the new set's folder, outside ``folder``. A rerun on the same images goes on there.
        limit: take at most this many, drawn at random.

    Raises:
        BadInput: no such folder, no image in it, or a file that is no readable image (named; no
            set is left behind).
        EnvironmentLacks: the disk is full.
    """
    folder, out = Path(folder), Path(out)
    if out.resolve().is_relative_to(folder.resolve()):
        raise BadInput(
            f"The calibration set {out} would lie among the images of {folder}.",
            "Choose an output folder outside the image folder.",
        )
    if limit is not None and limit < 1:
        raise BadInput(f"A limit of {limit} images leaves none.", "Use a limit of 1 or more.")
    found, note = images_and_note(folder, preprocessing.channels)
    if note is not None:
        warnings.warn(note, stacklevel=2)
    files = drawn(found, limit, seed)
    recipe = {
        "preprocessing": preprocessing.to_json(),
        "files_sha256": _hash_files(files),
        "shard_size": _SHARD_SIZE,
    }
    manifest = make_manifest("folder", len(files), preprocessing.input_shape, seed, recipe)
    writer = CalibrationSetWriter(out, manifest)
    for batch, start in enumerate(range(0, len(files), _SHARD_SIZE)):
        if writer.has(batch):
            continue
        try:
            images = [preprocessing.read(file) for file in files[start : start + _SHARD_SIZE]]
        except BadInput:
            writer.discard()  # mending the folder changes the manifest: this set cannot go on
            raise
        writer.write(batch, np.stack(images))
    return writer.finish()


def gaussian_noise(
    preprocessing: Preprocessing, count: int, seed: int, out: str | Path
) -> CalibrationSet:
    """The paper's control: standard normal in normalised space, clamped to valid pixels.

    Each image has a random stream of its own, so that a larger set begins with the smaller one.
    Labels are unknown.

    Raises:
        BadInput: a count below 1, or ``out`` holds something else.
        EnvironmentLacks: the disk is full.
    """
    channels, height, width = preprocessing.input_shape
    recipe = {
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "shard_size": _SHARD_SIZE,
    }
    manifest = make_manifest("noise", count, preprocessing.input_shape, seed, recipe)
    writer = CalibrationSetWriter(out, manifest)
    for batch, start in enumerate(range(0, count, _SHARD_SIZE)):
        if writer.has(batch):
            continue
        numbers = range(start, min(start + _SHARD_SIZE, count))
        streams = (np.random.default_rng([seed, number]) for number in numbers)
        shape = (height, width, channels)
        noise = [stream.standard_normal(shape, np.float32) for stream in streams]
        writer.write(batch, preprocessing.denormalize(np.stack(noise).transpose(0, 3, 1, 2)))
    return writer.finish()


def open_or_import(
    path: str | Path,
    preprocessing: Preprocessing,
    out: str | Path,
    limit: int | None = None,
    seed: int = 0,
) -> CalibrationSet:
    """Open ``path`` where it is a calibration set already, else import its images into ``out``.

    Args:
        limit: of a ready-made set, take the first so many.

    Raises:
        BadInput: as :meth:`CalibrationSet.open` and :func:`from_folder`, or when a ready-made set
            has images of another size or number of channels than the network takes.
        EnvironmentLacks: the disk is full.
    """
    if not CalibrationSet.is_set(path):
        return from_folder(path, preprocessing, out, limit, seed)
    ready = CalibrationSet.open(path)
    if ready.input_shape != preprocessing.input_shape:
        raise BadInput(
            f"Calibration set {path} has images of {described(ready.input_shape)}, "
            f"the network takes {described(preprocessing.input_shape)}.",
            "Use a set made for this network.",
        )
    return ready if limit is None else ready.subset(0, min(limit, len(ready)))


def drawn(files: Sequence[Path], limit: int | None, seed: int) -> list[Path]:
    """Those that :func:`from_folder` takes of a folder's images, in its order."""
    # Shuffled even when all are taken: class folders in order would make a held-out tail one-sided.
    order = np.random.default_rng(seed).permutation(len(files))[:limit]
    return [files[index] for index in order]


def image_files(folder: Path, channels: int = 3) -> list[Path]:
    """The files of :func:`images_and_note` alone."""
    return images_and_note(folder, channels)[0]


def images_and_note(folder: Path, channels: int) -> tuple[list[Path], str | None]:
    """Every image in a folder and below it, links followed, in the order of their paths.

    Args:
        folder: where.
        channels: of the network; images of other than 1 or 3 are ``.npy`` files.

    Returns:
        The files; and a sentence that names images of kinds that are not read, if there are any.

    Raises:
        BadInput: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise BadInput(
            f"There is no image folder {folder}.",
            "Give a folder of images or of a calibration set, or synthetic, psaq or noise.",
        )
    found, left_out = images_below(folder, suffixes_for(channels))
    note = left_out_note(left_out)
    if not found:
        more = "" if note is None else f" {note}"
        raise BadInput(
            f"{folder} holds no image, nor do the folders below it.{more}", wanted_files(channels)
        )
    return found, note


def _hash_files(files: list[Path]) -> str:
    """Hex SHA-256 over the contents in order: names and places do not matter."""
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise exhausted(error, f"{path} cannot be read") or BadInput(
                f"{path} cannot be read: {error.strerror}.", "Check the file, or remove it."
            ) from error
    return digest.hexdigest()
