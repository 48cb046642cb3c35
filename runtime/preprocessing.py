"""The image pipeline of evaluation, pixel for pixel timm's, from numpy and Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mimiq.errors import BadInput
from mimiq.files import exhausted
from mimiq.runtime.image_files import (
    ARRAY_SUFFIX,
    InputShape,
    converted,
    read_array,
    read_image,
)

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

CROP_MODES = ("center", "squash", "border")

_MAX_PIXELS = 2**28  # after resizing: 800 MB

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes network input: resize, crop the centre, normalise.

    Attributes:
        image_size: side of the square network input in pixels, or its height and width.
        crop_pct: the crop's share of the resized image.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        mean, std: per channel, in units of the pixel range [0, 1]; their number is that of the
            network's channels: 3 for RGB, 1 for greyscale, or any other.
        crop_mode: what is resized to ``image_size / crop_pct``. ``center``: the side of the image
            that is shorter beside the input, the rest is cut off. ``squash``: both sides, whatever
            the image's own proportions. ``border``: the longer side, the rest is filled with
            ``mean``. As timm has them.
    """

    image_size: int | tuple[int, int] = 224
    crop_pct: float = 0.9
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        if isinstance(self.image_size, tuple) and self.image_size[0] == self.image_size[1]:
            object.__setattr__(self, "image_size", self.image_size[0])
        for value, known, what in (
            (self.interpolation, _RESAMPLING, "Interpolation"),
            (self.crop_mode, CROP_MODES, "Crop mode"),
        ):
            if value not in known:
                raise BadInput(
                    f"{what} {value!r} is unknown.", f"Choose one of {', '.join(known)}."
                )
        for name in ("mean", "std"):
            if not all(map(_is_number, getattr(self, name))):
                raise BadInput(
                    f"The {name} of the preprocessing holds what is no finite number.",
                    "Give one number for each channel.",
                )
        channels = len(self.mean)
        if (
            not 0 < self.crop_pct <= 1
            or min(self.height, self.width) < 1
            or not channels
            or len(self.std) != channels
            or min(self.std) <= 0
        ):
            raise BadInput(
                f"Preprocessing {self} is out of range.",
                "The crop lies in (0, 1], the image size and every std are positive, and each "
                "channel has one mean and one std.",
            )

    @property
    def height(self) -> int:
        """Of the network input, in pixels."""
        return self.image_size if isinstance(self.image_size, int) else self.image_size[0]

    @property
    def width(self) -> int:
        """Of the network input, in pixels."""
        return self.image_size if isinstance(self.image_size, int) else self.image_size[1]

    @property
    def input_shape(self) -> InputShape:
        """Of the network input for one image: channels, height, width."""
        return self.channels, self.height, self.width

    @property
    def channels(self) -> int:
        """Of the network input: 3 for RGB."""
        return len(self.mean)

    def with_size(self, image_size: tuple[int, int]) -> Preprocessing:
        """The same for an input of another height and width."""
        return replace(self, image_size=image_size)

    def with_channels(self, channels: int) -> Preprocessing:
        """The same for another number of channels: each has the average mean and std then."""
        if channels == self.channels:
            return self
        mean, std = (sum(values) / self.channels for values in (self.mean, self.std))
        return replace(self, mean=(mean,) * channels, std=(std,) * channels)

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        # A manifest without it means "center", as all had before there was a choice.
        if self.crop_mode == "center":
            del data["crop_mode"]
        return data

    @staticmethod
    def from_json(data: dict[str, Any]) -> Preprocessing:
        size = data["image_size"]
        return Preprocessing(
            image_size=size if isinstance(size, int) else (int(size[0]), int(size[1])),
            crop_pct=data["crop_pct"],
            interpolation=data["interpolation"],
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            crop_mode=data.get("crop_mode", "center"),
        )

    def read(self, path: str | Path) -> ByteArray:
        """One file, resized and cropped: uint8 array (height, width, channels).

        Args:
            path: an image file; or a ``.npy`` file, uint8 (any height, any width, channels), which
                is treated as an image is.

        Raises:
            BadInput: it cannot be read as such, or is too long and thin, see :meth:`crop`.
        """
        if Path(path).suffix.lower() != ARRAY_SUFFIX:
            image = read_image(path)
            try:
                return self.crop(image)
            except BadInput as error:
                raise BadInput(f"{path}: {error.problem}", error.next_step) from error
            except (OSError, ValueError) as error:
                raise exhausted(error, f"{path} cannot be converted") or BadInput(
                    f"{path} cannot be converted from {image.mode}: {error}",
                    "Check the file, or remove it.",
                ) from error
        planes = np.moveaxis(read_array(path, self.channels), 2, 0)
        # Channel by channel: Pillow would take a fourth for transparency.
        fitted = [
            self._fitted(Image.fromarray(plane), round(255 * mean))
            for plane, mean in zip(planes, self.mean, strict=True)
        ]
        return np.stack([np.asarray(plane) for plane in fitted], axis=-1)

    def crop(self, image: Image.Image) -> ByteArray:
        """Resize and crop one image: uint8 array (height, width, channels).

        Raises:
            BadInput: the image is so long and thin that resizing it would exhaust the memory, or
                the network takes a number of channels that no image file has.
        """
        fill = tuple(round(255 * value) for value in self.mean)
        image = converted(image, self.channels)
        pixels = np.asarray(self._fitted(image, fill if self.channels > 1 else fill[0]))
        return pixels if self.channels > 1 else pixels[..., None]

    def _fitted(self, image: Image.Image, fill: int | tuple[int, ...]) -> Image.Image:
        width, height = self._resized(image.width, image.height)
        if width * height > _MAX_PIXELS:
            raise BadInput(
                f"An image of {image.width}×{image.height} pixels is too long and thin: resized "
                f"for the network, it would have {width}×{height}.",
                "Leave it out, or crop it.",
            )
        if (width, height) != image.size:
            image = image.resize((width, height), _RESAMPLING[self.interpolation])
        if self.crop_mode == "border":
            image = self._bordered(image, fill)
        left = round((image.width - self.width) / 2.0)
        top = round((image.height - self.height) / 2.0)
        return image.crop((left, top, left + self.width, top + self.height))

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after resizing."""
        tall = math.floor(self.height / self.crop_pct)
        wide = math.floor(self.width / self.crop_pct)
        if self.crop_mode == "squash":
            return wide, tall
        if self.crop_mode == "center" and tall == wide:
            # torchvision's Resize: the long side is truncated, not rounded.
            if width <= height:
                return wide, int(wide * height / width)
            return int(tall * width / height), tall
        ratios = (height / tall, width / wide)
        ratio = min(ratios) if self.crop_mode == "center" else max(ratios)
        # timm rounds to the even neighbour, down to 0 for a thread of pixels.
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    def _bordered(self, image: Image.Image, fill: int | tuple[int, ...]) -> Image.Image:
        """The image with ``fill`` around it where it is smaller than the network's input."""
        size = (max(image.width, self.width), max(image.height, self.height))
        left, above = (size[0] - image.width) // 2, (size[1] - image.height) // 2
        bordered = Image.new(image.mode, size, fill)
        bordered.paste(image, (left, above))
        return bordered

    def normalize(self, pixels: ByteArray) -> FloatArray:
        """uint8 (B, H, W, C) in [0, 255] to float32 (B, C, H, W), normalised.

        Raises:
            BadInput: another dtype, number of axes or number of channels.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != self.channels:
            raise BadInput(
                f"The pixels are {pixels.dtype} {pixels.shape}; uint8 (B, height, width, "
                f"{self.channels}) in [0, 255] is needed.",
                "Scale them to [0, 255] and convert them with .astype(numpy.uint8).",
            )
        # A pixel has 256 values: a table a channel gives the same floats as the arithmetic on the
        # whole batch, four times as fast.
        values = np.arange(256, dtype=np.float32) / np.float32(255)
        mean = np.asarray(self.mean, np.float32).reshape(-1, 1)
        std = np.asarray(self.std, np.float32).reshape(-1, 1)
        table = (values - mean) / std
        batch, height, width, channels = pixels.shape
        normalized = np.empty((batch, channels, height, width), np.float32)
        for channel in range(channels):
            # "clip" lets numpy write straight into its output; no pixel needs clipping.
            np.take(table[channel], pixels[..., channel], out=normalized[:, channel], mode="clip")
        return normalized

    def denormalize(self, images: FloatArray) -> ByteArray:
        """float32 (B, C, H, W), normalised, to uint8 (B, H, W, C): rounded, clamped to [0, 255]."""
        mean = np.asarray(self.mean, np.float32).reshape(-1, 1, 1)
        std = np.asarray(self.std, np.float32).reshape(-1, 1, 1)
        pixels = np.rint((images * std + mean) * np.float32(255)).clip(0, 255)
        return np.ascontiguousarray(pixels.astype(np.uint8).transpose(0, 2, 3, 1))

    def load(
        self, images: str | Path | Image.Image | Sequence[str | Path | Image.Image]
    ) -> FloatArray:
        """Images to float32 (B, channels, height, width).

        Args:
            images: files, or images that Pillow has opened; a single one is a batch of one.

        Raises:
            BadInput: naming the first file that cannot be read as an image, or what is neither.
        """
        if isinstance(images, str | Path | Image.Image):
            images = [images]
        pixels = [self._pixels(image) for image in images]
        if not pixels:
            return np.zeros((0, *self.input_shape), np.float32)
        return self.normalize(np.stack(pixels))

    def _pixels(self, image: object) -> ByteArray:
        if isinstance(image, Image.Image):
            return self.crop(image)
        if isinstance(image, str | Path):
            return self.read(image)
        raise BadInput(
            f"A {type(image).__name__} is neither a path nor an image that Pillow has opened.",
            "Give arrays of pixels to a session as uint8 (B, height, width, channels).",
        )


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, Real) and math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False
