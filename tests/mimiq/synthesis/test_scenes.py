"""Random scenes: reproducible, varied, and with the spectrum of photographs."""

from __future__ import annotations

import numpy as np
import pytest

from mimiq.synthesis.scenes import scenes


def test_an_image_depends_on_its_seed_and_number_alone() -> None:
    images = scenes(4, 32, seed=3)
    assert images.shape == (4, 32, 32, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(scenes(2, 32, seed=3), images[:2])
    assert not np.array_equal(scenes(1, 32, seed=4), images[:1])
    assert len({image.tobytes() for image in images}) == 4


def test_they_vary_in_lightness_contrast_and_colour() -> None:
    images = scenes(48, 64).astype(np.float64)
    lightness, contrast = images.mean((1, 2, 3)), images.std((1, 2)).mean(1)
    colour = images.mean((1, 2)).std(1)
    assert lightness.std() > 20
    assert contrast.min() > 1  # plain ones, but none is blank
    assert contrast.max() > 2 * np.median(contrast) > 40
    assert colour.max() > 3 * colour.min()


def test_the_spectrum_falls_as_that_of_photographs() -> None:
    """Power falls with about the square of the frequency: exponents from 1.5 to 3 are natural."""
    size = 128
    grey = scenes(24, size, seed=1).mean(3)
    grey -= grey.mean((1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(grey)) ** 2).mean(0)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size))) * size
    bands = [(4, 6), (30, 40)]
    low, high = (power[(radius >= a) & (radius < b)].mean() for a, b in bands)
    exponent = np.log(low / high) / np.log(35 / 5)
    assert exponent == pytest.approx(2.2, abs=0.8)


def test_some_of_what_they_show_is_plain_and_some_is_textured() -> None:
    grey = scenes(48, 128, seed=2).astype(np.float64).mean(3)
    patches = grey.reshape(48, 8, 16, 8, 16).std((2, 4))
    assert 0.1 < (patches < 2).mean() < 0.6
    assert (patches > 10).mean() > 0.1


def test_colours_differ_most_from_blue_to_yellow() -> None:
    colours = scenes(48, 64, seed=3).astype(np.float64).reshape(-1, 3)
    red, green, blue = (colours - colours.mean(1, keepdims=True)).T
    yellow, purple = (red + green) / 2 - blue, (red + blue) / 2 - green
    assert yellow.std() > 1.5 * purple.std()


@pytest.mark.parametrize("size", [(24, 96), (96, 24), (1, 40)])
def test_any_height_and_width(size: tuple[int, int]) -> None:
    images = scenes(6, size, seed=3)
    assert images.shape == (6, *size, 3)
    assert len({image.tobytes() for image in images}) == 6
    assert images.std((1, 2, 3)).max() > 20


def test_wide_images_have_square_pixels() -> None:
    """What they show is as rough from left to right as from top to bottom."""
    grey = scenes(48, (32, 128), seed=1).astype(np.float64).mean(3)
    across, down = (np.abs(np.diff(grey, axis=axis)).mean() for axis in (2, 1))
    assert 0.6 < across / down < 1.3


def test_one_channel_is_the_luminance_of_the_colours() -> None:
    grey, colour = scenes(4, 32, seed=3, channels=1), scenes(4, 32, seed=3)
    assert grey.shape == (4, 32, 32, 1)
    wanted = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[..., 0] - wanted).max() <= 1


@pytest.mark.parametrize("channels", [2, 4, 8])
def test_every_channel_has_a_colour_of_its_own(channels: int) -> None:
    images = scenes(24, 48, seed=3, channels=channels)
    assert images.shape == (24, 48, 48, channels)
    shared = min(channels, 3)
    assert np.array_equal(images[..., :shared], scenes(24, 48, seed=3)[..., :shared])
    flat = images.reshape(-1, channels).T.astype(np.float64)
    likeness = np.corrcoef(flat)[np.triu_indices(channels, 1)]
    assert np.abs(likeness).max() < 0.99  # none is a copy of another
    # But edges lie where they lie in the others.
    edges = np.abs(np.diff(images.astype(np.float64), axis=2)).reshape(-1, channels).T
    assert np.corrcoef(edges)[np.triu_indices(channels, 1)].min() > 0.15
