"""Many images as one, for the human eye."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from mimiq.calibrate.storage import ByteArray

_QUALITY = 85  # 100 kB for 32 images


def jpeg(sheet: Image.Image) -> bytes:
    """A sheet as a file of some 3 kB an image."""
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def contact_sheet(images: ByteArray, columns: int) -> Image.Image:
    """Thumbnails with a white margin, ``columns`` in a row.

    Args:
        images: uint8 (n, height, width, channels), n ≥ 1. One channel is shown as grey, two as the
            grey of their mean, of more than three the first three as red, green and blue.
        columns: at most so many.
    """
    _, height, width, _ = images.shape
    longer = max(height, width)
    # The longer side between 64 and 112 pixels: digits are visible and ImageNet sheets stay small.
    tile = 112 if longer > 112 else longer * -(-64 // longer)
    size = (max(1, round(width * tile / longer)), max(1, round(height * tile / longer)))
    resampling = Image.Resampling.BOX if tile < longer else Image.Resampling.NEAREST
    columns = max(1, min(columns, len(images)))
    across, down = size[0] + 2, size[1] + 2
    sheet = Image.new("RGB", (columns * across, -(-len(images) // columns) * down), "white")
    for index, image in enumerate(_visible(images)):
        row, column = divmod(index, columns)
        thumbnail = Image.fromarray(image).resize(size, resampling)
        sheet.paste(thumbnail, (column * across + 1, row * down + 1))
    return sheet


def _visible(images: ByteArray) -> ByteArray:
    """RGB or, without a last axis, grey."""
    channels = images.shape[3]
    if channels >= 3:
        return np.ascontiguousarray(images[..., :3])
    return images[..., 0] if channels == 1 else images.mean(axis=3).round().astype(np.uint8)
