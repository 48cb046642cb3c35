"""The figures of benchmarks/features.py."""

from __future__ import annotations

import numpy as np
import pytest
from features import compared


def test_cosines_ignore_length_and_the_error_does_not() -> None:
    expected = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    found = compared(2 * expected, expected)
    assert found["mean"] == pytest.approx(1)
    assert found["least"] == pytest.approx(1)
    assert found["error"] == pytest.approx(1, rel=0.05)


def test_one_image_that_is_wrong_shows_in_the_least() -> None:
    expected = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
    changed = expected.copy()
    changed[7] *= -1
    found = compared(changed, expected)
    assert found["least"] == pytest.approx(-1)
    assert found["percentile_5"] == pytest.approx(1)
    assert found["mean"] == pytest.approx(38 / 40)
