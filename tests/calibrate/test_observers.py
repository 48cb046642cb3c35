"""Observers against the definitions they stream: numpy on all values at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mimiq.calibrate.histogram import BINS, StreamingHistogram
from mimiq.calibrate.observers import (
    OBSERVERS,
    SMALLEST_SCALE,
    EntropyObserver,
    MinMaxObserver,
    MSEObserver,
    Observer,
    PercentileObserver,
)
from mimiq.calibrate.weight_scale import mse_weight_scale
from mimiq.errors import BadInput
from mimiq.quantize.fake_quant import Grid, fake_quantize

GRIDS = [
    Grid(-128, 127),
    Grid(-127, 127),
    Grid(0, 127),
    Grid(-1, 14),
    Grid(-8, 7),
    Grid(-2, 1),
    Grid(-5, 4, 2, 3, 3),
    Grid(0, 6, 5, 8),
]
grids = st.sampled_from(GRIDS)
fast = settings(max_examples=60, deadline=None)

few_values = hnp.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
)


@st.composite
def many_values(draw: st.DrawFn) -> np.ndarray:
    """Shapes that activations have: normal, after GELU, after softmax, with outliers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal(draw(st.integers(100, 5000)))
    shape = draw(st.sampled_from(["normal", "gelu", "softmax", "outliers", "negative"]))
    if shape == "gelu":
        x = torch.nn.functional.gelu(torch.from_numpy(3 * x)).numpy()
    elif shape == "softmax":
        x = np.exp(4 * x - 12)
    elif shape == "outliers":
        x[:: len(x) // 3] *= 100
    elif shape == "negative":
        x = -np.abs(x)
    return (x * draw(st.sampled_from([1e-3, 1.0, 37.0]))).astype(np.float32)


values = st.one_of(few_values, many_values())


def demands(x: np.ndarray, grid: Grid) -> np.ndarray:
    """The smallest scale at which the grid reaches each value."""
    x = x.astype(np.float64)
    below = x / grid.integers[0] if grid.integers[0] < 0 else np.zeros_like(x)
    return np.maximum(np.maximum(x / grid.integers[-1], below), 0)


def squared_error(x: np.ndarray, scale: float, grid: Grid) -> float:
    x, levels = x.astype(np.float64), scale * np.asarray(grid.integers)
    nearest = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, x)]
    return float(np.mean((x - nearest) ** 2))


def observed(observer: Observer, *batches: np.ndarray) -> Any:
    for batch in batches:
        observer.update(torch.from_numpy(batch))
    return observer


# --- the histogram --------------------------------------------------------------------------


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


def weight_error(
    weight: torch.Tensor, scale: torch.Tensor, grid: Grid, axis: int, block: int
) -> Any:
    rounded = fake_quantize(weight, scale, grid.qmin, grid.qmax, axis, block)
    return (weight - rounded).square().sum()


@fast
@given(
    seed=st.integers(0, 2**31),
    bits=st.integers(2, 8),
    form=st.sampled_from([(-1, 0), (0, 0), (1, 8), (1, 0)]),
)
def test_weight_scales_are_at_least_as_good_as_minmax(
    seed: int, bits: int, form: tuple[int, int]
) -> None:
    axis, block = form
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 24, generator=generator) ** 3
    grid = Grid.signed(bits)
    scale = mse_weight_scale(weight, grid, axis, block)
    shapes = {(-1, 0): (), (0, 0): (6,), (1, 8): (6, 3), (1, 0): (24,)}
    assert scale.shape == shapes[form]
    assert scale.dtype == torch.float32
    assert (scale > 0).all()
    groups = {(-1, 0): weight.reshape(1, -1), (0, 0): weight, (1, 0): weight.T}.get(
        form, weight.reshape(-1, 8)
    )
    observer = MinMaxObserver(axis=0)
    observer.update(groups)
    exact = observer.scale(grid).reshape(scale.shape)
    found = weight_error(weight, scale, grid, axis, block)
    assert found <= weight_error(weight, exact, grid, axis, block) * (1 + 1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weight_scales_are_close_to_the_best_there_are(bits: int) -> None:
    weight = torch.randn(16, 192, generator=torch.Generator().manual_seed(0))
    grid = Grid.signed(bits)
    scale = mse_weight_scale(weight, grid, 0, 0)
    # At 8 bits the error is a jagged function of the scale, and small.
    tolerance = 1.1 if bits == 8 else 1.03
    for channel in range(16):
        row = weight[channel].numpy()
        largest = demands(row, grid).max()
        best = min(squared_error(row, largest * r, grid) for r in np.linspace(0.2, 1, 1000))
        assert squared_error(row, scale[channel].item(), grid) <= best * tolerance


def test_weight_scales_of_convolutions_half_precision_and_dead_channels() -> None:
    weight = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)).half()
    weight[5] = 0
    scale = mse_weight_scale(weight, Grid(-127, 127), 0, 0)
    assert scale.shape == (8,)
    # A dead channel can still learn on the grid that the others use.
    assert scale[5].item() == pytest.approx(weight.abs().max().item() / 127, rel=1e-6)
    assert mse_weight_scale(torch.zeros(4, 8), Grid(-8, 7), 1, 4).tolist() == [[1, 1]] * 4


def test_weight_scale_leaves_its_input_alone() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 8))
    before = weight.detach().clone()
    assert not mse_weight_scale(weight, Grid(-8, 7), 0, 0).requires_grad
    assert torch.equal(weight, before)


def test_weight_scale_refuses() -> None:
    with pytest.raises(BadInput, match="no whole blocks of 5"):
        mse_weight_scale(torch.randn(4, 8), Grid(-8, 7), 1, 5)
    with pytest.raises(BadInput, match="no whole blocks"):
        mse_weight_scale(torch.randn(4, 8), Grid(-8, 7), 0, 4)
    with pytest.raises(BadInput, match="NaN or infinity"):
        mse_weight_scale(torch.tensor([[1.0, math.nan]]), Grid(-8, 7), 0, 0)


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
