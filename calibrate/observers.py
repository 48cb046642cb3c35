"""Observers: activation ranges gathered batch by batch, in constant memory.

An observer sees activations through :meth:`Observer.update` and names the scale for a grid of
integers (:class:`mimiq.config.grid.Grid`) with zero point 0 through :meth:`Observer.scale`. It
need not be symmetric: ``[0, 127]`` for probabilities, ``[-1, 14]`` for the output of GELU. What
every observer asks of a value is its *demand*: the smallest scale at which the grid reaches it,
``x / top`` for x > 0 and ``x / bottom`` for x < 0. A value on a side where the grid has no integer
demands nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch

from mimiq.calibrate.histogram import (
    BINS,
    FloatArray,
    Histogram,
    StreamingHistogram,
    not_finite,
    nothing_observed,
)
from mimiq.errors import BadInput
from mimiq.quantize.fake_quant import Grid

# Below this, values are all noise; a power of two that fp16 still holds.
SMALLEST_SCALE = 2.0**-24

_ENTROPY_BINS = 2048  # a side, as TensorRT's calibrator
_ENTROPY_RATIOS = np.arange(_ENTROPY_BINS, 127, -16) / _ENTROPY_BINS


class Observer(Protocol):
    """Gathers a range. Updates only count; the search for a scale happens when it is asked for."""

    def update(self, x: torch.Tensor) -> None:
        """Take one batch of activations, of any shape, floating-point dtype and device.

        Raises:
            BadInput: when an element is NaN or infinite.
        """

    def scale(self, grid: Grid) -> torch.Tensor:
        """fp32 scale, positive and finite; 1 where every value seen demands nothing.

        Raises:
            BadInput: when nothing was observed.
        """


class MinMaxObserver:
    """The exact range: no value is clipped.

    Args:
        axis: the channels' axis for one scale a channel, shape (channels,); None for one scale.
    """

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis
        self.minimum: torch.Tensor | None = None
        self.maximum: torch.Tensor | None = None

    @torch.no_grad()
    def update(self, x: torch.Tensor) -> None:
        if x.numel() == 0:
            return
        x = x.detach().float()
        if self.axis is None:
            low, high = torch.aminmax(x)
        else:
            low, high = torch.aminmax(x.movedim(self.axis, 0).flatten(1), dim=1)
        if not torch.isfinite(high - low).all():
            raise not_finite()
        if self.minimum is not None and self.maximum is not None:
            low, high = torch.minimum(low, self.minimum), torch.maximum(high, self.maximum)
        self.minimum, self.maximum = low, high

    def scale(self, grid: Grid) -> torch.Tensor:
        if self.minimum is None or self.maximum is None:
            raise nothing_observed()
        return positive(demand(self.minimum, self.maximum, grid))


class _HistogramObserver:
    """What the three below share: a histogram, and a search over it."""

    def __init__(self) -> None:
        self._stream = StreamingHistogram()
        self._snapshot: Histogram | None = None

    def update(self, x: torch.Tensor) -> None:
        self._snapshot = None
        self._stream.update(x)

    @property
    def histogram(self) -> Histogram:
        """What was counted so far."""
        if self._snapshot is None:
            self._snapshot = self._stream.snapshot()
        return self._snapshot

    def scale(self, grid: Grid) -> torch.Tensor:
        seen = self.histogram
        largest = _largest_demand(seen, grid)
        found = self._search(seen, grid, largest) if largest > 0 else 1.0
        return torch.tensor(
            max(found, SMALLEST_SCALE), dtype=torch.float32, device=self._stream.device
        )

    def _search(self, seen: Histogram, grid: Grid, largest: float) -> float:
        raise NotImplementedError


class PercentileObserver(_HistogramObserver):
    """The scale whose range holds ``percentile`` per cent of the values.

    It is ``numpy.percentile`` of the values' demands (for a symmetric grid: of |x| / qmax), off by
    at most half a bin: ``width / 2`` over the smaller of |qmin| and qmax, where ``width`` is at
    most max|x| / 8192. 100 gives the exact range.

    Raises:
        BadInput: a percentile outside (0, 100].
    """

    def __init__(self, percentile: float = 99.99) -> None:
        if not 0 < percentile <= 100:
            raise BadInput(
                f"Percentile {percentile} is out of range.", "Use one in (0, 100], such as 99.99."
            )
        super().__init__()
        self.percentile = percentile

    def _search(self, seen: Histogram, grid: Grid, largest: float) -> float:
        occupied = np.flatnonzero(seen.counts)
        demands = np.minimum(_demands(seen.centres[occupied], grid), largest)
        order = np.argsort(demands, kind="stable")
        cumulative = np.cumsum(seen.counts[occupied][order])

        def order_statistic(rank: float) -> float:
            if rank >= seen.total - 1:
                return largest
            return float(demands[order[np.searchsorted(cumulative, rank, side="right")]])

        rank = (seen.total - 1) * self.percentile / 100
        below = np.floor(rank)
        lower, upper = order_statistic(below), order_statistic(below + 1)
        return float(lower + (rank - below) * (upper - lower))


class MSEObserver(_HistogramObserver):
    """The scale of least expected squared error, rounding and clipping together.

    The error is integrated exactly over a density that is uniform within each bin. Candidates lie
    between the exact range and 1/256 of it, 4 % apart, then 0.3 % apart around the best.
    """

    def _search(self, seen: Histogram, grid: Grid, largest: float) -> float:
        candidates = largest * np.geomspace(1, 1 / 256, 142)
        best = int(np.argmin(_squared_errors(seen, candidates, grid)))
        around = candidates[[max(best - 1, 0), min(best + 1, len(candidates) - 1)]]
        finer = np.append(np.geomspace(around[0], around[1], 27), candidates[best])
        return float(finer[np.argmin(_squared_errors(seen, finer, grid))])

    def error(self, scale: torch.Tensor | float, grid: Grid) -> float:
        """Expected squared error of one element at this scale."""
        return float(_squared_errors(self.histogram, np.asarray([float(scale)]), grid)[0])


class EntropyObserver(_HistogramObserver):
    """The scale whose clipped distribution loses least information, after TensorRT's calibrator.

    Minimises the Kullback-Leibler divergence between the distribution clipped to the grid's range
    (what lies outside counted in the outermost bins) and the same distribution with every integer's
    mass spread evenly over its occupied bins (S. Migacz, "8-bit inference with TensorRT", GTC
    2017). Unlike there, signs are kept and bins belong to the integer they round to, so that any
    window of one step will do. Meant for 7 and 8 bits: with few levels it clips far too much.
    """

    def _search(self, seen: Histogram, grid: Grid, largest: float) -> float:
        counts = seen.counts.reshape(2 * _ENTROPY_BINS, -1).sum(1)
        width = seen.width * (BINS // _ENTROPY_BINS)
        centres = (np.arange(-_ENTROPY_BINS, _ENTROPY_BINS, dtype=np.float64) + 0.5) * width
        candidates = largest * _ENTROPY_RATIOS
        # A range within one bin cannot be told from another.
        candidates = candidates[candidates * max(grid.qmax, -grid.qmin) >= width]
        if not len(candidates):
            return largest
        losses = [_information_lost(counts, centres, float(scale), grid) for scale in candidates]
        return float(candidates[int(np.argmin(losses))])


ObserverFactory = Callable[[], Observer]

# For the command line alone; from Python, pass the class or a partial of it.
OBSERVERS: dict[str, ObserverFactory] = {
    "minmax": MinMaxObserver,
    "percentile": PercentileObserver,
    "mse": MSEObserver,
    "entropy": EntropyObserver,
}


def demand(low: torch.Tensor, high: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The largest demand of values between ``low`` and ``high``, at least 0."""
    above = high / grid.top if grid.top > 0 else torch.zeros_like(high)
    below = low / grid.bottom if grid.bottom < 0 else torch.zeros_like(low)
    return torch.maximum(above, below).clamp(min=0)


def positive(demand: torch.Tensor) -> torch.Tensor:
    # A scale of 1 rather than a tiny one: values that appear later are then not all clipped to 0.
    return torch.where(demand > 0, demand.clamp(min=SMALLEST_SCALE), torch.ones_like(demand))


def _demands(x: FloatArray, grid: Grid) -> FloatArray:
    above = x / grid.top if grid.top > 0 else np.zeros_like(x)
    below = x / grid.bottom if grid.bottom < 0 else np.zeros_like(x)
    return np.maximum(np.maximum(above, below), 0.0)


def _largest_demand(seen: Histogram, grid: Grid) -> float:
    return float(_demands(np.asarray([seen.low, seen.high]), grid).max())


def _squared_errors(seen: Histogram, scales: FloatArray, grid: Grid) -> FloatArray:
    """Expected squared error of one element at each of the scales: shape (scales,).

    The values that round to an integer q lie between the middles of q and its neighbours, times s,
    without end at the least and the greatest. Over such a cell the squared error is
    ∫x² − 2qs∫x + q²s²∫1, three differences of cumulative moments.
    """
    levels = np.asarray(grid.integers, dtype=np.float64)
    borders = scales[:, None] * (levels[:-1] + levels[1:]) / 2
    left_end, right_end = np.full((2, len(scales), 1), BINS * seen.width)
    cells = np.concatenate([-left_end, borders, right_end], axis=1)
    mass, first, second = np.diff(seen.moments_at(cells), axis=2)
    values = scales[:, None] * levels / seen.width
    squared = (second - 2 * values * first + values**2 * mass).sum(1)
    out: FloatArray = np.maximum(squared, 0.0) * (seen.width**2 / seen.total)
    return out


def _information_lost(counts: FloatArray, centres: FloatArray, scale: float, grid: Grid) -> float:
    """KL divergence, in nats, of the quantised from the clipped distribution."""
    steps = np.rint(centres / scale)
    inside = (steps >= grid.qmin) & (steps <= grid.qmax)
    first, last = np.flatnonzero(inside)[[0, -1]]
    kept = counts[first : last + 1]
    reference = kept.copy()
    reference[0] += counts[:first].sum()
    reference[-1] += counts[last + 1 :].sum()
    level = (steps[first : last + 1] - grid.qmin).astype(np.int64)
    occupied = reference > 0
    mass = np.bincount(level, kept, minlength=grid.qmax - grid.qmin + 1)
    if not mass.any():
        return math.inf
    share = np.bincount(level, occupied, minlength=grid.qmax - grid.qmin + 1)
    quantized = mass[level[occupied]] / share[level[occupied]]
    p = reference[occupied] / reference.sum()
    q = quantized / quantized.sum()
    # An outermost bin that only clipped values fill has no mass of its own: a loss, not infinity.
    return float(np.sum(p * np.log(p / np.maximum(q, 1e-9))))
