"""Observers against the definitions they stream: numpy on all values at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from activations import (
    GRIDS,
    demands,
    fast,
    grids,
    observed,
    squared_error,
    values,
)
from hypothesis import given
from hypothesis import strategies as st

from mimiq.calibrate.histogram import BINS
from mimiq.calibrate.observers import (
    OBSERVERS,
    SMALLEST_SCALE,
    EntropyObserver,
    MinMaxObserver,
    MSEObserver,
    PercentileObserver,
)
from mimiq.errors import BadInput
from mimiq.quantize.fake_quant import Grid

# --- the histogram --------------------------------------------------------------------------


# --- scales ---------------------------------------------------------------------------------


@fast
@given(x=values, grid=grids, parts=st.integers(1, 5))
def test_minmax_is_exact(x: np.ndarray, grid: Grid, parts: int) -> None:
    scale = observed(MinMaxObserver(), *np.array_split(x, parts)).scale(grid)
    largest = demands(x, grid).max()
    expected = max(largest, SMALLEST_SCALE) if largest > 0 else 1.0
    assert scale.dtype == torch.float32
    assert scale.shape == ()
    assert scale.item() == pytest.approx(expected, rel=1e-6)


def test_minmax_of_asymmetric_windows() -> None:
    observer = observed(MinMaxObserver(), np.array([-0.17, 4.2], np.float32))
    assert observer.scale(Grid(-1, 14)).item() == pytest.approx(4.2 / 14)
    assert observer.scale(Grid(-1, 127)).item() == pytest.approx(0.17)
    assert observer.scale(Grid(0, 127)).item() == pytest.approx(4.2 / 127)


def test_minmax_per_channel() -> None:
    x = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))
    x[:, :, 2] = 0
    observer = MinMaxObserver(axis=2)
    for part in x.split(1):
        observer.update(part)
    scale = observer.scale(Grid(-8, 7))
    assert scale.shape == (5,)
    assert scale[2] == 1
    for channel in (0, 1, 3, 4):
        alone = observed(MinMaxObserver(), x[:, :, channel].numpy()).scale(Grid(-8, 7))
        assert scale[channel] == alone


@fast
@given(x=values, grid=grids, percentile=st.sampled_from([1.0, 50.0, 90.0, 99.0, 99.99, 100.0]))
def test_percentile_is_numpys_within_half_a_bin(
    x: np.ndarray, grid: Grid, percentile: float
) -> None:
    observer = observed(PercentileObserver(percentile), *np.array_split(x, 2))
    scale = observer.scale(grid).item()
    exact = demands(x, grid)
    if exact.max() == 0:
        assert scale == 1
        return
    steps = min(grid.qmax, -grid.qmin if grid.qmin < 0 else grid.qmax)
    half_bin = observer.histogram.width / 2 / steps
    expected = np.percentile(exact, percentile)
    assert abs(scale - expected) <= half_bin + 1e-6 * expected + SMALLEST_SCALE
    if percentile == 100:
        assert scale == pytest.approx(max(expected, SMALLEST_SCALE), rel=1e-6)


def test_percentile_on_a_symmetric_grid_is_that_of_the_absolute_value() -> None:
    x = np.random.default_rng(0).standard_normal(1_000_000).astype(np.float32)
    x[:20] = 500  # so few that the 99.99th percentile does not see them
    scale = observed(PercentileObserver(99.99), x).scale(Grid(-127, 127)).item()
    assert scale * 127 == pytest.approx(np.percentile(np.abs(x), 99.99), abs=512 / BINS / 2)
    assert scale * 127 < 5


@fast
@given(x=values, grid=grids)
def test_mse_is_at_least_as_good_as_minmax(x: np.ndarray, grid: Grid) -> None:
    observer = observed(MSEObserver(), *np.array_split(x, 2))
    found = observer.scale(grid).item()
    whole = observed(MinMaxObserver(), x).scale(grid).item()
    assert SMALLEST_SCALE <= found <= whole * (1 + 1e-6)
    assert observer.error(found, grid) <= observer.error(whole, grid) * (1 + 1e-5) + 1e-30
    # On the values themselves: moving x within its bin changes |x − Q(x)| by at most the width.
    if found > SMALLEST_SCALE:
        width = observer.histogram.width
        for scale in (found, whole):
            exact = squared_error(x, scale, grid)
            slack = width * (2 * math.sqrt(exact) + width)
            assert abs(observer.error(scale, grid) - exact) <= slack + 1e-6 * exact


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("shape", ["normal", "gelu", "outliers"])
def test_mse_finds_the_best_scale_there_is(grid: Grid, shape: str) -> None:
    x = np.random.default_rng(0).standard_normal(40_000).astype(np.float32)
    if shape == "gelu":
        x = torch.nn.functional.gelu(torch.from_numpy(3 * x)).numpy()
    elif shape == "outliers":
        x[:10] *= 30
    observer = observed(MSEObserver(), x)
    found = squared_error(x, observer.scale(grid).item(), grid)
    largest = demands(x, grid).max()
    best = min(squared_error(x, largest * r, grid) for r in np.geomspace(1, 0.004, 400))
    assert found <= best * 1.002
    assert observer.error(observer.scale(grid), grid) == pytest.approx(found, rel=1e-2)


def test_mse_of_a_normal_distribution_is_the_textbooks() -> None:
    # The optimal uniform quantiser with 16 levels has step 0.335 and error 0.01154 (J. Max, 1960,
    # table II). Its levels lie at odd half steps; ours, with one at 0, is near it.
    x = np.random.default_rng(1).standard_normal(1_000_000).astype(np.float32)
    observer = observed(MSEObserver(), *np.array_split(x, 4))
    scale = observer.scale(Grid(-8, 7))
    assert scale.item() == pytest.approx(0.335, rel=0.05)
    assert observer.error(scale, Grid(-8, 7)) == pytest.approx(0.01154, rel=0.08)


def test_entropy_clips_outliers_and_keeps_what_has_none() -> None:
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(200_000).astype(np.float32)
    grid = Grid(-128, 127)
    whole = observed(EntropyObserver(), normal).scale(grid).item() * 128
    assert 2.5 < whole <= np.abs(normal).max()
    with_outliers = normal.copy()
    with_outliers[:5] = 40
    clipped = observed(EntropyObserver(), with_outliers).scale(grid).item() * 128
    assert 2.5 < clipped < 10
    uniform = rng.uniform(-1, 1, 200_000).astype(np.float32)
    assert observed(EntropyObserver(), uniform).scale(grid).item() * 128 > 0.9


def test_entropy_loss_is_the_divergence_of_its_definition() -> None:
    """Against a plain loop over the same bins."""
    x = np.random.default_rng(3).standard_t(3, 20_000).astype(np.float32)
    observer = observed(EntropyObserver(), x)
    grid = Grid(-1, 14)
    seen = observer.histogram
    counts = seen.counts.reshape(4096, -1).sum(1)
    width = seen.width * BINS / 2048
    largest = demands(x, grid).max()

    def loss(scale: float) -> float:
        steps = np.array([round((index - 2048 + 0.5) * width / scale) for index in range(4096)])
        inside = np.flatnonzero((steps >= grid.qmin) & (steps <= grid.qmax))
        p, q = counts.copy(), np.zeros(4096)
        p[inside[0]] += counts[steps < grid.qmin].sum()
        p[inside[-1]] += counts[steps > grid.qmax].sum()
        for step in range(grid.qmin, grid.qmax + 1):
            occupied = (steps == step) & (p > 0)
            q[occupied] = counts[steps == step].sum() / max(occupied.sum(), 1)
        bins = inside[p[inside] > 0]
        shares = [(p[i] / p[inside].sum(), max(q[i] / q.sum(), 1e-9)) for i in bins]
        return sum(one * math.log(one / other) for one, other in shares)

    candidates = largest * np.arange(2048, 127, -16) / 2048
    expected = candidates[np.argmin([loss(scale) for scale in candidates])]
    assert observer.scale(grid).item() == pytest.approx(expected, rel=1e-6)


# --- what all of them owe -------------------------------------------------------------------


@pytest.mark.parametrize("name", OBSERVERS)
@fast
@given(x=values, grid=grids)
def test_scale_is_positive_and_finite(name: str, x: np.ndarray, grid: Grid) -> None:
    scale = observed(OBSERVERS[name](), x).scale(grid)
    assert scale.dtype == torch.float32
    assert scale.shape == ()
    assert SMALLEST_SCALE <= scale.item() < math.inf


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("value", [0.0, -0.0, 1e-38, 3e38, -3e38, 1e-45, 7.0, -2.0])
def test_scale_of_one_repeated_value(name: str, grid: Grid, value: float) -> None:
    scale = observed(OBSERVERS[name](), np.full(8, value, np.float32)).scale(grid).item()
    assert SMALLEST_SCALE <= scale < math.inf
    if value == 0 or (value < 0 and grid.qmin == 0):
        assert scale == 1


@pytest.mark.parametrize("name", OBSERVERS)
def test_observers_do_not_depend_on_the_split_dtype_or_shape(name: str) -> None:
    x = torch.randn(4, 6, 50, generator=torch.Generator().manual_seed(0)).half()
    together, apart = OBSERVERS[name](), OBSERVERS[name]()
    together.update(x)
    apart.update(torch.empty(0))
    for part in reversed(x.float().unbind()):
        apart.update(part.T)
    for grid in GRIDS:
        assert together.scale(grid) == apart.scale(grid)


@pytest.mark.parametrize("name", OBSERVERS)
def test_a_scale_can_be_asked_for_between_updates(name: str) -> None:
    observer = observed(OBSERVERS[name](), np.linspace(-1, 1, 1000, dtype=np.float32))
    before = observer.scale(GRIDS[0])
    observer.update(torch.linspace(-3, 3, 10_000))
    assert observer.scale(GRIDS[0]) > 1.5 * before


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_observers_refuse_what_is_not_finite(name: str, bad: float) -> None:
    observer = OBSERVERS[name]()
    with pytest.raises(BadInput, match="NaN or infinity"):
        observer.update(torch.tensor([0.0, bad, 1.0]))


@pytest.mark.parametrize("name", OBSERVERS)
def test_observers_refuse_to_guess(name: str) -> None:
    with pytest.raises(BadInput, match="No activation was observed"):
        OBSERVERS[name]().scale(GRIDS[0])


@pytest.mark.parametrize("percentile", [0, -1, 100.1, math.nan])
def test_bad_percentile(percentile: float) -> None:
    with pytest.raises(BadInput, match="Percentile"):
        PercentileObserver(percentile)


# --- weights --------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", OBSERVERS)
def test_cuda_gives_the_same_scales(name: str) -> None:
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0)) ** 3
    here, there = OBSERVERS[name](), OBSERVERS[name]()
    for part in x.split(30_000):
        here.update(part)
        there.update(part.cuda())
    for grid in GRIDS:
        assert there.scale(grid).is_cuda
        assert there.scale(grid).item() == here.scale(grid).item()
