"""Random scenes: images of shapes that share the statistics of photographs.

Shapes of power-law sizes that cover one another, called dead leaves, have the edges, the occlusions
and the spectrum of natural images (Lee, Mumford and Huang, "Occlusion models for natural images",
IJCV 2001), and networks learn from them what they would from photographs (Baradad et al.,
"Learning to see by looking at noise", NeurIPS 2021). Photographs have more: skies and walls that
are plain, horizons, things before a backdrop, poles and railings, fibres. A network has directions
for each, and weights fitted without them err there. The scenes show no class; a teacher's answer to
them is a target all the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

ByteArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float64]

_MATERIALS = 6  # in one image, beside the backdrop's

# The axes of colours in daylight: from blue to yellow they differ three times as much.
_BLUE_TO_YELLOW = np.array([0.75, 0.1, -0.85])
_GREEN_TO_PURPLE = np.array([0.6, -0.7, 0.3])


def scenes(
    count: int, size: int | tuple[int, int], seed: int = 0, *, channels: int = 3
) -> ByteArray:
    """``count`` images, uint8 (count, height, width, channels).

    Image i depends on (seed, i), its size and its channels alone.

    Args:
        count: how many.
        size: height and width; one number is the side of square ones.
        seed: of all randomness.
        channels: three are red, green and blue; one is their luminance, as greyscale images have
            it. Of any other number each channel has a colour of its own: shapes and textures lie
            where they lie in the others, and are as bright as that channel's own palette says.
    """
    height, width = (size, size) if isinstance(size, int) else size
    images = np.empty((count, height, width, channels), np.uint8)
    for index in range(count):
        if channels == 1:
            colour = Image.fromarray(_image(height, width, _Draws(seed, index, 3)))
            images[index, ..., 0] = np.asarray(colour.convert("L"))
        else:
            images[index] = _image(height, width, _Draws(seed, index, channels))[..., :channels]
    return images


class _Draws:
    """The random numbers of one image.

    Attributes:
        generator: of all that the channels share, and of the first three.
        streams: the generator of each three channels.
    """

    def __init__(self, seed: int, index: int, channels: int) -> None:
        self.generator = np.random.default_rng((seed, index))
        further = np.random.default_rng((seed, index, 1))
        self.streams = [self.generator] + [further] * (-(-channels // 3) - 1)

    def by_channel(self, draw: Callable[[np.random.Generator], FloatArray]) -> FloatArray:
        """What ``draw`` gives for three channels, for all of them."""
        return np.concatenate([draw(stream) for stream in self.streams])


def _image(height: int, width: int, draws: _Draws) -> ByteArray:
    """uint8 (height, width, the channels rounded up to threes)."""
    generator = draws.generator
    canvas = _Canvas(2 * height, 2 * width, draws)
    canvas.draw()
    small = [each.resize((width, height), Image.Resampling.BILINEAR) for each in canvas.colours]
    image = np.concatenate([np.array(each, np.float64) for each in small], axis=-1)
    material = np.asarray(canvas.materials.resize((width, height), Image.Resampling.NEAREST))
    # Things differ in texture and shading as they do in colour.
    for index in range(_MATERIALS):
        here = (material == index)[..., None]
        image += here * _texture(height, width, draws)
        if generator.random() < 0.5:
            image *= 1 + here * generator.uniform(0, 0.5) * _slope(height, width, generator)
    behind = (material == _MATERIALS)[..., None]
    if generator.random() < 0.7:
        reach = generator.normal(0, 35) + draws.by_channel(lambda stream: stream.normal(0, 20, 3))
        image += behind * reach * _slope(height, width, generator)
    if generator.random() < 0.5:
        image += behind * _texture(height, width, draws)
    image *= 1 + generator.uniform(0, 0.4) * _slope(height, width, generator)  # one light on all
    out: ByteArray = image.round().clip(0, 255).astype(np.uint8)
    return out


_Ink = tuple[int, int, int] | int
_Fill = tuple[_Ink, ...]  # a colour for each palette, and the number of a material


class _Canvas:
    """Shapes, each with a colour of every palette and the number of its material."""

    def __init__(self, height: int, width: int, draws: _Draws) -> None:
        self.extent = np.array([width, height])
        self.size = math.sqrt(height * width)
        self.generator = draws.generator
        self._palettes = [_Palette(stream) for stream in draws.streams]
        self.colours = [
            Image.new("RGB", (width, height), palette.backdrop()) for palette in self._palettes
        ]
        self.materials = Image.new("L", (width, height), _MATERIALS)
        self._pens = [ImageDraw.Draw(each) for each in (*self.colours, self.materials)]

    def draw(self) -> None:
        """All the shapes; in half of the images those behind are out of focus."""
        shapes = list(self._layout())
        bars, upright = self.generator.uniform(0, 0.8), self.generator.random() < 0.5
        in_focus_from = self.generator.integers(0, 2 * len(shapes), endpoint=True)
        for index, (centre, radius) in enumerate(shapes):
            if index == in_focus_from > 0:
                blur = self.generator.uniform(0.005, 0.03) * self.size
                for colours in self.colours:
                    colours.paste(colours.filter(ImageFilter.GaussianBlur(blur)))
            kind = self.generator.random()
            if kind < bars:
                self._draw_bars(centre, radius, upright)
            elif kind < bars + (1 - bars) / 3:
                self._draw_ellipse(centre, radius)
            else:
                self._draw_polygon(centre, radius)

    def _layout(self) -> Iterator[tuple[FloatArray, float]]:
        """Centres (2,) and radii of shapes: on a ground drawn here, in a heap, or all over."""
        kind = self.generator.random()
        if kind < 0.25:
            self._draw_ground()
            return self._scattered(most=60)
        return self._heaped() if kind < 0.5 else self._scattered(most=400)

    def _scattered(self, most: int) -> Iterator[tuple[FloatArray, float]]:
        """Up to ``most`` shapes anywhere, the large ones first in half of the images."""
        count = int(np.exp(self.generator.uniform(np.log(3), np.log(most))))
        smallest, largest = self.generator.uniform([0.01, 0.15], [0.05, 0.6]) * self.size
        # The number of shapes above a radius falls with its square: every scale covers as much.
        drawn = self.generator.uniform(0, 1, count)
        radii = (smallest**-2 - (smallest**-2 - largest**-2) * drawn) ** -0.5
        if self.generator.random() < 0.5:
            radii = np.sort(radii)[::-1]
        for radius in radii:
            yield self.generator.uniform(-0.1, 1.1, 2) * self.extent, float(radius)

    def _heaped(self) -> Iterator[tuple[FloatArray, float]]:
        """Shapes on top of one another, as the parts of a thing are."""
        middle = self.generator.uniform(0.3, 0.7, 2) * self.extent
        spread = self.generator.uniform(0.03, 0.2) * self.size
        largest = self.generator.uniform(0.15, 0.5) * self.size
        parts = self.generator.uniform(0.1, 1, int(self.generator.integers(1, 40)))
        for part in np.sort(parts)[::-1]:
            yield middle + spread * self.generator.normal(size=2), float(largest * part**2)

    def _draw_ground(self) -> None:
        """One to four grounds with rough horizons, the nearest last."""
        width, height = self.extent
        along = np.linspace(0, width, 128)
        for horizon in np.sort(self.generator.uniform(0.2, 0.9, self.generator.integers(1, 5))):
            tilt = self.generator.normal(0, 0.05) * (along - width / 2)
            rough = self.generator.uniform(0, 0.08) * self.size * self._walk(len(along))
            edge = np.stack([along, horizon * height + tilt + rough], -1)
            below = np.array([[width, height], [0, height]])
            self._fill(np.concatenate([edge, below]), self._some_fill())

    def _draw_bars(self, centre: FloatArray, radius: float, upright: bool) -> None:
        """A long thin bar or several side by side; ``upright`` ones are level or vertical."""
        angle = self.generator.uniform(0, np.pi)
        if upright:
            angle = self.generator.choice([0, np.pi / 2]) + self.generator.normal(0, 0.03)
        length = radius * self.generator.uniform(2, 8)
        width = max(1.0, radius * self.generator.uniform(0.02, 0.3))
        count = 1 if self.generator.random() < 0.6 else int(self.generator.integers(2, 12))
        gap = width * self.generator.uniform(1.5, 5)
        ahead, aside = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        fill = self._some_fill()
        for number in range(count):
            middle = centre + aside * gap * (number - count / 2)
            corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
            self._fill(middle + corners @ np.stack([length * ahead, width * aside]), fill)

    def _draw_ellipse(self, centre: FloatArray, radius: float) -> None:
        half = radius * np.array([1, self.generator.uniform(0.4, 1)])
        box = (*map(float, centre - half), *map(float, centre + half))
        for pen, ink in zip(self._pens, self._some_fill(), strict=True):
            pen.ellipse(box, fill=ink)

    def _draw_polygon(self, centre: FloatArray, radius: float) -> None:
        corners = int(self.generator.integers(3, 7))
        angles = np.sort(self.generator.uniform(0, 2 * np.pi, corners))
        reach = self.generator.uniform(0.5, 1, corners) * radius
        around = np.stack([np.cos(angles), np.sin(angles)], -1)
        self._fill(centre + reach[:, None] * around, self._some_fill())

    def _fill(self, corners: FloatArray, fill: _Fill) -> None:
        """The polygon with these corners (n, 2)."""
        points = [(float(x), float(y)) for x, y in corners]
        for pen, ink in zip(self._pens, fill, strict=True):
            pen.polygon(points, fill=ink)

    def _some_fill(self) -> _Fill:
        colours = [palette.some_colour() for palette in self._palettes]
        return (*colours, int(self.generator.integers(_MATERIALS)))

    def _walk(self, count: int) -> FloatArray:
        """Random heights (count,) of variance 1, rough or smooth."""
        frequency = np.arange(1, count + 1)
        phases = self.generator.normal(size=count) + 1j * self.generator.normal(size=count)
        falling = frequency ** -self.generator.uniform(0.8, 2)
        # Twice as long, and only half of it: it need not end where it began.
        heights = np.fft.irfft(np.concatenate([[0], phases * falling]))
        out: FloatArray = (heights / heights.std())[:count]
        return out


class _Palette:
    """Colours that go together."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator
        self._base = generator.uniform(30, 225) + self._tint(25)
        self._chroma = generator.uniform(5, 60)

    def backdrop(self) -> tuple[int, int, int]:
        """Black or white, a colour of its own, or the palette's."""
        kind = self.generator.random()
        if kind < 0.12:
            lightness = self.generator.choice([0.0, 255.0]) * self.generator.uniform(0.9, 1)
            return _bytes(lightness + self.generator.normal(0, 6, 3))
        if kind < 0.4:
            return _bytes(self.generator.uniform(60, 235) + self._tint(45))
        return _bytes(self._base)

    def some_colour(self) -> tuple[int, int, int]:
        # Things in one light differ in lightness more than in colour.
        return _bytes(self._base + self._tint(self._chroma) + self.generator.normal(0, 55))

    def _tint(self, strength: float) -> FloatArray:
        """A random change of colour (3,)."""
        yellow, purple = self.generator.normal(0, strength, 2)
        tint: FloatArray = yellow * _BLUE_TO_YELLOW + purple / 3 * _GREEN_TO_PURPLE
        return tint


def _texture(height: int, width: int, draws: _Draws) -> FloatArray:
    """Noise whose spectrum falls as a power of the frequency, (height, width, the channels rounded
    up to threes); often none at all.

    In two of five it is stretched, as hair, wood and water are.
    """
    generator = draws.generator
    kind = generator.random()
    if kind < 0.35:
        return np.zeros((height, width, 1))
    strength = generator.uniform(1, 6) if kind < 0.6 else generator.uniform(5, 30)
    across, down = np.fft.rfftfreq(width)[None, :], np.fft.fftfreq(height)[:, None]
    if generator.random() < 0.4:
        angle, stretch = generator.uniform(0, np.pi), generator.uniform(2, 12)
        cos, sin = np.cos(angle), np.sin(angle)
        across, down = cos * across + sin * down, stretch * (cos * down - sin * across)
    falling = (across**2 + down**2 + 1e-4) ** -generator.uniform(0.2, 0.9)
    phases = generator.normal(size=falling.shape) + 1j * generator.normal(size=falling.shape)
    noise = np.fft.irfft2(phases * falling, s=(height, width))
    tint = draws.by_channel(lambda stream: stream.uniform(0.6, 1.4, 3))
    out: FloatArray = noise[..., None] / noise.std() * strength * tint
    return out


def _slope(height: int, width: int, generator: np.random.Generator) -> FloatArray:
    """From about -1 to 1 (height, width, 1) in a straight line from one side to another."""
    angle = generator.uniform(0, 2 * np.pi)
    down, across = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    slope: FloatArray = np.cos(angle) * down + np.sin(angle) * across
    return slope[..., None]


def _bytes(values: FloatArray) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in values.clip(0, 255))
    return red, green, blue
