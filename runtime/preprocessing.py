"""The image pipeline of evaluation, pixel for pixel timm's, from numpy and Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mimiq.errors import BadInput

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

_MAX_PIXELS = 2**28  # after resizing: 800 MB

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes network input: resize the short side, crop the centre, normalise.

    Attributes:
        image_size: height and width of the (square) network input, in pixels.
        crop_pct: the crop's share of the resized short side.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        mean, std: per RGB channel, in units of the pixel range [0, 1].
    """

    image_size: int = 224
    crop_pct: float = 0.9
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.interpolation not in _RESAMPLING:
            raise BadInput(
                f"Interpolation {self.interpolation!r} is unknown.",
                f"Choose one of {', '.join(_RESAMPLING)}.",
            )
        if not 0 < self.crop_pct <= 1 or self.image_size < 1 or min(self.std) <= 0:
            raise BadInput(
                f"Preprocessing {self} is out of range.",
                "The crop lies in (0, 1], the image size and every std are positive.",
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Preprocessing:
        return Preprocessing(
            image_size=data["image_size"],
            crop_pct=data["crop_pct"],
            interpolation=data["interpolation"],
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
        )

    def crop(self, image: Image.Image) -> ByteArray:
        """Resize and crop one image: uint8 array (image_size, image_size, 3), RGB.

        Raises:
            BadInput: the image is so long and thin that resizing it would exhaust the memory.
        """
        image = image.convert("RGB")
        short = math.floor(self.image_size / self.crop_pct)
        width, height = image.size
        # torchvision's Resize: the long side is truncated, not rounded.
        if width <= height:
            size = (short, int(short * height / width))
        else:
            size = (int(short * width / height), short)
        if size[0] * size[1] > _MAX_PIXELS:
            raise BadInput(
                f"An image of {width}×{height} pixels is too long and thin: its short side "
                f"resized to {short}, it would have {size[0]}×{size[1]}.",
                "Leave it out, or crop it.",
            )
        if size != image.size:
            image = image.resize(size, _RESAMPLING[self.interpolation])
        left = round((image.width - self.image_size) / 2.0)
        top = round((image.height - self.image_size) / 2.0)
        box = (left, top, left + self.image_size, top + self.image_size)
        return np.asarray(image.crop(box))

    def normalize(self, pixels: ByteArray) -> FloatArray:
        """uint8 (B, H, W, 3) in [0, 255] to float32 (B, 3, H, W), normalised."""
        # A pixel has 256 values: a table a channel gives the same floats as the arithmetic on the
        # whole batch, four times as fast.
        values = np.arange(256, dtype=np.float32) / np.float32(255)
        mean = np.asarray(self.mean, np.float32).reshape(3, 1)
        std = np.asarray(self.std, np.float32).reshape(3, 1)
        table = (values - mean) / std
        batch, height, width, _ = pixels.shape
        normalized = np.empty((batch, 3, height, width), np.float32)
        for channel in range(3):
            # "clip" lets numpy write straight into its output; no pixel needs clipping.
            np.take(table[channel], pixels[..., channel], out=normalized[:, channel], mode="clip")
        return normalized

    def load(self, paths: Sequence[str | Path]) -> FloatArray:
        """Image files to float32 (B, 3, image_size, image_size).

        Raises:
            BadInput: naming the first file that cannot be read as an image.
        """
        return self.normalize(np.stack([self.crop(read_image(path)) for path in paths]))


def read_image(path: str | Path) -> Image.Image:
    """Open and decode one image file.

    Raises:
        BadInput: when the file is absent, unreadable or not an image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except UnidentifiedImageError as error:
        raise BadInput(
            f"{path} is not an image.", "Remove it, or convert it to JPEG or PNG."
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(
            f"{path} cannot be read: {error}", "Check the file, or remove it."
        ) from error
