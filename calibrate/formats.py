"""A set's images in the forms that other tools calibrate with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mimiq import files
from mimiq.errors import BadInput
from mimiq.runtime.preprocessing import ByteArray, Preprocessing


def check_format(form: str, channels: int) -> None:
    """Refuse a form that cannot hold such images, before any is made.

    Raises:
        BadInput: a picture has one channel or three.
    """
    if form == "png" and channels not in (1, 3):
        raise BadInput(
            f"A PNG file has 1 or 3 channels, and the network takes {channels}.",
            "Use `form=npy` or `form=npz`.",
        )


def write_images(
    parts: Sequence[ByteArray], preprocessing: Preprocessing, form: str, folder: Path
) -> Path:
    """Write images as another tool reads them.

    Args:
        parts: uint8 (N, H, W, C) each; written one behind the other.
        preprocessing: of the network that they are for.
        form: ``npy``: the network's input, float32 (N, C, H, W), normalised; ``npz``: the same
            under the name of the input, ``images``; ``png``: the pixels, a file each.
        folder: there already; the file is ``images.npy`` or ``images.npz``, the folder of pictures
            ``images``. What has the name is replaced.

    Returns:
        The file, or the folder of pictures.

    Raises:
        BadInput: as :func:`check_format`, or the folder cannot be written.
        EnvironmentLacks: the disk is full.
    """
    check_format(form, preprocessing.channels)
    pixels = np.concatenate(parts)
    if form == "png":
        place = folder / "images"
        files.make_folder_whole(place, lambda inside: _write_pictures(pixels, inside))
        return place
    place = folder / f"images.{form}"
    array = preprocessing.normalize(pixels)
    with files.writing(place), files.replacing(place) as temporary, temporary.open("wb") as file:
        if form == "npy":
            np.save(file, array)
        else:
            np.savez(file, images=array)  # as exported graphs call their input
    return place


def _write_pictures(pixels: ByteArray, folder: Path) -> None:
    for index, image in enumerate(pixels):
        picture = image[..., 0] if image.shape[-1] == 1 else image
        Image.fromarray(picture).save(folder / f"{index:05}.png")
