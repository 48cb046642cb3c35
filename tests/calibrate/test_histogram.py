"""Histograms in constant memory, against numpy on all values at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from activations import (
    fast,
    values,
)
from hypothesis import given
from hypothesis import strategies as st

from mimiq.calibrate.histogram import BINS, StreamingHistogram


@fast
@given(x=values, cuts=st.lists(st.integers(0, 5000), max_size=4), seed=st.integers(0, 99))
def test_histogram_depends_on_the_values_alone(x: np.ndarray, cuts: list[int], seed: int) -> None:
    whole, parts = StreamingHistogram(), StreamingHistogram()
    whole.update(torch.from_numpy(x))
    shuffled = np.random.default_rng(seed).permutation(x)
    for part in np.split(shuffled, sorted(min(cut, len(x)) for cut in cuts)):
        parts.update(torch.from_numpy(part))
    one, other = whole.snapshot(), parts.snapshot()
    np.testing.assert_array_equal(one.counts, other.counts)
    assert (one.width, one.low, one.high) == (other.width, other.low, other.high)


@fast
@given(x=values)
def test_histogram_counts_are_numpys(x: np.ndarray) -> None:
    streaming = StreamingHistogram()
    for part in np.array_split(x, min(3, len(x))):
        streaming.update(torch.from_numpy(part))
    seen = streaming.snapshot()
    bins = np.floor(x.astype(np.float64) / seen.width).astype(np.int64) + BINS
    np.testing.assert_array_equal(seen.counts, np.bincount(bins, minlength=2 * BINS))
    assert seen.low == x.min()
    assert seen.high == x.max()
    assert seen.width <= max(np.abs(x).max(), 2.0**-101) / (BINS / 2)


def test_histogram_of_zeros_fixes_no_range() -> None:
    streaming = StreamingHistogram()
    streaming.update(torch.zeros(5))
    streaming.update(torch.tensor([1e-6]))
    assert streaming.snapshot().width == 2.0**-19 / BINS


def test_histogram_memory_is_constant() -> None:
    streaming = StreamingHistogram()
    for power in range(-60, 60):
        streaming.update(torch.tensor([0.0, -(2.0**power), 1.5 * 2.0**power]))
    seen = streaming.snapshot()
    assert seen.counts.shape == (2 * BINS,)
    assert seen.total == 360
    assert seen.counts[:BINS].sum() == 120  # signs survive every merge


def test_histogram_moments_are_those_of_the_values() -> None:
    x = torch.randn(50_000, generator=torch.Generator().manual_seed(0)).double()
    streaming = StreamingHistogram()
    streaming.update(x)
    seen = streaming.snapshot()
    total, first, second = seen.moments_at(np.array([np.inf]))[:, 0]
    assert total == 50_000
    assert first * seen.width == pytest.approx(x.sum().item(), abs=50_000 * seen.width / 2)
    assert second * seen.width**2 == pytest.approx(x.square().sum().item(), rel=1e-4)
    below = seen.moments_at(np.array([0.5]))[0, 0]
    assert below == pytest.approx((x < 0.5).sum().item(), abs=2)
