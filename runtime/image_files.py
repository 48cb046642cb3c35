"""Image files: which there are for a number of channels, and the pixels in them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mimiq.errors import BadInput, MimiqError
from mimiq.files import exhausted

InputShape = tuple[int, int, int]  # of one image: channels, height, width
ByteArray = npt.NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
)
ARRAY_SUFFIX = ".npy"

DEEP = (
    "Greyscale images of more than 8 bits are read at their range: 16 bits by their upper 8, "
    "floating point from [0, 1] or [0, 255]. timm cuts them off at 255; if the network was trained "
    "on such images, convert them as they were then."
)

# What those suffixes hold, and nothing else: Pillow would call Ghostscript for PostScript that is
# named .png.
_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

_SIXTEEN = ("PNG", "PPM")  # formats whose grey of more than 8 bits is of 16, however dark

# Maxima up to which a deep greyscale image is doubted: of floats, which resizing makes exceed 1;
# of integers, which as 16 bits would have four shades at most.
_OVERSHOT, _FEW_OF_16_BITS = 2.0, 1023

_MODES = {1: "L", 3: "RGB"}  # Pillow's, by the number of channels


def suffixes_for(channels: int) -> frozenset[str]:
    """How files end that hold images of so many channels.

    Greyscale and RGB images are those that Pillow reads. A fourth channel of theirs means
    transparency, or nothing at all in a JPEG, and never what a network of four channels was trained
    on: those and all others are arrays.
    """
    return IMAGE_SUFFIXES if channels in _MODES else frozenset((ARRAY_SUFFIX,))


def wanted_files(channels: int) -> str:
    """Which files hold such images, as a sentence of advice."""
    if channels in _MODES:
        return f"Images end in {', '.join(sorted(IMAGE_SUFFIXES))}."
    return (
        f"Save each image of {channels} channels with numpy.save, as uint8 (height, width, "
        f"{channels}), in a file that ends in {ARRAY_SUFFIX}."
    )


def described(shape: InputShape) -> str:
    """``224×224 pixels``, and how many channels where they are not RGB."""
    channels, height, width = shape
    said = f"{height}×{width} pixels"
    return said if channels == 3 else f"{said} with {channels} channel{'s' * (channels != 1)}"


def read_image(path: str | Path) -> Image.Image:
    """Open and decode one image file.

    Raises:
        BadInput: when the file is absent, unreadable or not an image.
    """
    with _opened(path) as image:
        image.load()
        return image


def read_array(path: str | Path, channels: int) -> ByteArray:
    """The pixels of a ``.npy`` file: uint8 (height, width, channels), of one channel also without
    the last axis. Nothing in the file is executed.

    Raises:
        BadInput: when the file is absent, unreadable or holds anything else.
    """
    return np.array(_mapped(path, channels))


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """The image; whatever Pillow raises at a damaged one, then or later, as one error naming it."""
    _require_file(path)
    try:
        with Image.open(path, formats=_FORMATS) as image:
            yield image
    except Exception as error:  # of any kind: its decoders compute with what the file says
        raise _unreadable(path, error) from error


def check_file(path: Path, channels: int) -> bool:
    """Read the first bytes, so that a bad file is found before an hour's work.

    Returns:
        Whether it is greyscale of more than 8 bits, see :func:`converted`.

    Raises:
        BadInput: naming the file.
    """
    if path.suffix.lower() == ARRAY_SUFFIX:
        _mapped(path, channels)
        return False
    if channels not in _MODES:
        raise _too_few(str(path), channels)
    with _opened(path) as image:
        return _is_deep(image)


def converted(image: Image.Image, channels: int) -> Image.Image:
    """The image with the network's number of channels: RGB, or greyscale by its luminance.

    Greyscale of more than 8 bits is read at its range, with a warning, where Pillow (and timm with
    it) would cut it off at 255: 16 bits by their upper 8, floating point from [0, 1] or [0, 255].

    Raises:
        BadInput: no image has so many, or the values fit no such range, or more than one.
    """
    if channels not in _MODES:
        raise _too_few("An image file", channels)
    if _is_deep(image):
        warnings.warn(DEEP, stacklevel=2)
        image = _in_8_bits(image)
    return image.convert(_MODES[channels])


def _unreadable(path: str | Path, error: Exception) -> MimiqError:
    """What Pillow's error means to the user."""
    if isinstance(error, UnidentifiedImageError):
        return BadInput(f"{path} is not an image.", "Remove it, or convert it to JPEG or PNG.")
    return exhausted(error, f"{path} cannot be read") or BadInput(
        f"{path} cannot be read: {error}", "Check the file, or remove it."
    )


def _require_file(path: str | Path) -> None:
    """Refuse a named pipe, which would keep the reader waiting for ever, and the like."""
    if Path(path).exists() and not Path(path).is_file():
        raise BadInput(f"{path} is no file.", "Remove it, or leave it out.")


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith(("I", "F"))


def _in_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    # An empty image has no range; Pillow opens none.
    low, high = float(values.min()), float(values.max())
    doubt = None
    if image.mode == "F":
        scale = 255.0 if high <= 1 else 1.0
        if 1 < high <= _OVERSHOT:
            doubt = "floating point is read from [0, 1] or [0, 255]"
    else:
        # The file's form tells: 32-bit integers hold 16 bits in PNG and PGM, 8 in some TIFFs.
        scale = 1.0 if image.mode == "I" and high <= 255 else 1 / 256
        if image.mode == "I" and image.format not in _SIXTEEN and 255 < high <= _FEW_OF_16_BITS:
            doubt = "integers of 32 bits are read as 8 bits up to 255, and above as 16 bits"
    if not (low >= 0 and high * scale < 256):
        raise BadInput(
            f"A greyscale image (mode {image.mode}) has values from {low:g} to {high:g}, and no "
            "range of pixels is like that.",
            "Convert the images to 8 bits as those were that the network was trained on.",
        )
    if doubt is not None:
        raise BadInput(
            f"A greyscale image (mode {image.mode}) has values from {low:g} to {high:g}, and which "
            f"range they are of cannot be told: {doubt}, where it would be nearly black.",
            "Cut it off at the range that is meant, or convert it to 8 bits.",
        )
    scaled = values.astype(np.float64) * scale
    return Image.fromarray((np.rint(scaled) if image.mode == "F" else scaled).astype(np.uint8))


def _too_few(what: str, channels: int) -> BadInput:
    return BadInput(
        f"{what} has 1 or 3 channels, and the network takes {channels}.", wanted_files(channels)
    )


def _mapped(path: str | Path, channels: int) -> ByteArray:
    """The array on disk, its header read and its form checked."""
    advice = f"Save it with numpy.save as uint8 (height, width, {channels})."
    _require_file(path)
    try:
        array: ByteArray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise exhausted(error, f"{path} cannot be read") or BadInput(
            f"{path} cannot be read as an array: {reason}.", advice
        ) from error
    if not isinstance(array, np.ndarray):  # an archive under another name
        raise BadInput(f"{path} holds more than one array.", advice)
    if channels == 1 and array.ndim == 2:
        array = array[..., None]
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != channels or not array.size:
        raise BadInput(
            f"{path} holds {array.dtype} {array.shape}, and the network takes {channels} channels "
            "of bytes.",
            advice,
        )
    return array
