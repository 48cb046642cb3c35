"""Dead leaves: images of overlapping shapes, which share the statistics of photographs.

Shapes of power-law sizes that cover one another have the edges, the occlusions and the spectrum of
natural images (Lee, Mumford and Huang, "Occlusion models for natural images", IJCV 2001), and
networks learn from them what they would from photographs (Baradad et al., "Learning to see by
looking at noise", NeurIPS 2021). They show no class; a teacher's answer to them is a target all the
same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

ByteArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]

_MATERIALS = 4  # in one image


def dead_leaves(count: int, size: int, seed: int = 0) -> ByteArray:
    """``count`` images, uint8 (count, size, size, 3); image i depends on (seed, i) alone."""
    images = np.empty((count, size, size, 3), np.uint8)
    for index in range(count):
        images[index] = _image(size, np.random.default_rng((seed, index)))
    return images


def _image(size: int, generator: np.random.Generator) -> ByteArray:
    colours, materials = _shapes(2 * size, generator)
    image = np.asarray(colours.resize((size, size), Image.Resampling.BILINEAR), np.float64)
    material = np.asarray(materials.resize((size, size), Image.Resampling.NEAREST))
    # Things differ in texture as they do in colour.
    for index in range(_MATERIALS):
        image += np.where((material == index)[..., None], _texture(size, generator), 0)
    image *= _light(size, generator)
    out: ByteArray = image.round().clip(0, 255).astype(np.uint8)
    return out


def _shapes(size: int, generator: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Ellipses and polygons in one palette, large ones first in half of the images.

    Beside their colours the number of each one's material. In half of the images what was drawn
    first, and so lies behind, is out of focus.
    """
    base = generator.uniform(40, 215) + generator.normal(0, 25, 3)
    chroma = generator.uniform(5, 35)
    image = Image.new("RGB", (size, size), _colour(base))
    materials = Image.new("L", (size, size))
    canvases = ImageDraw.Draw(image), ImageDraw.Draw(materials)
    count = int(generator.integers(30, 400))
    smallest, largest = generator.uniform([0.01, 0.15], [0.05, 0.6]) * size
    # The number of shapes above a radius falls with its square: every scale covers as much.
    drawn = generator.uniform(0, 1, count)
    radii = (smallest**-2 - (smallest**-2 - largest**-2) * drawn) ** -0.5
    if generator.random() < 0.5:
        radii = np.sort(radii)[::-1]
    behind = generator.integers(0, count) if generator.random() < 0.5 else 0
    for index, radius in enumerate(radii):
        if index == behind > 0:
            blur = generator.uniform(0.005, 0.03) * size
            image.paste(image.filter(ImageFilter.GaussianBlur(blur)))
        # Shapes differ in lightness more than in colour, as things in one light do.
        colour = base + generator.normal(0, chroma, 3) + generator.normal(0, 55)
        fills = _colour(colour), int(generator.integers(_MATERIALS))
        _draw(canvases, size, radius, fills, generator)
    return image, materials


def _draw(
    canvases: Sequence[ImageDraw.ImageDraw],
    size: int,
    radius: float,
    fills: Sequence[tuple[int, int, int] | int],
    generator: np.random.Generator,
) -> None:
    """The same random shape on each canvas, each in its own fill."""
    x, y = generator.uniform(-0.1 * size, 1.1 * size, 2)
    if generator.random() < 1 / 3:
        flat = generator.uniform(0.4, 1) * radius
        for canvas, fill in zip(canvases, fills, strict=True):
            canvas.ellipse((x - radius, y - flat, x + radius, y + flat), fill=fill)
        return
    corners = int(generator.integers(3, 7))
    angles = np.sort(generator.uniform(0, 2 * np.pi, corners))
    reach = generator.uniform(0.5, 1, corners) * radius
    points = zip(x + reach * np.cos(angles), y + reach * np.sin(angles), strict=True)
    polygon = [(float(a), float(b)) for a, b in points]
    for canvas, fill in zip(canvases, fills, strict=True):
        canvas.polygon(polygon, fill=fill)


def _texture(size: int, generator: np.random.Generator) -> FloatArray:
    """Noise (size, size, 3) whose spectrum falls as a power of the frequency."""
    frequency = np.fft.rfftfreq(size)[None, :] ** 2 + np.fft.fftfreq(size)[:, None] ** 2
    falling = (frequency + 1e-4) ** -generator.uniform(0.4, 0.8)
    phases = generator.normal(size=falling.shape) + 1j * generator.normal(size=falling.shape)
    noise = np.fft.irfft2(phases * falling, s=(size, size))
    strength = generator.uniform(5, 30) * generator.uniform(0.6, 1.4, 3)
    out: FloatArray = noise[..., None] / noise.std() * strength
    return out


def _light(size: int, generator: np.random.Generator) -> FloatArray:
    """A factor (size, size, 1) that changes slowly from one side to the other."""
    angle, strength = generator.uniform(0, 2 * np.pi), generator.uniform(0, 0.4)
    across = np.linspace(-1, 1, size)
    slope = np.cos(angle) * across[:, None] + np.sin(angle) * across[None, :]
    out: FloatArray = (1 + strength * slope)[..., None]
    return out


def _colour(values: FloatArray) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in values.clip(0, 255))
    return red, green, blue
