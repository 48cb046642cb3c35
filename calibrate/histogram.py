"""A streaming histogram of activations that keeps the sign and needs no range beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from mimiq.errors import BadInput

FloatArray = npt.NDArray[np.float64]

BINS = 2**14  # a side: 256 KiB of counts, and a relative resolution of the largest value of 1e-4
_LOWEST_EXPONENT = -100


@dataclass(frozen=True, eq=False)
class Histogram:
    """A snapshot: counts in ``2·BINS`` bins of equal width around 0, as float64.

    Bin i covers ``[(i - BINS)·width, (i + 1 - BINS)·width)``.

    Attributes:
        counts: float64 (2·BINS,), whole numbers.
        width: of a bin; a power of two, at most max|x| / (BINS/2), or 2^-114 for smaller values.
        low, high: exact minimum and maximum.
    """

    counts: FloatArray
    width: float
    low: float
    high: float

    @cached_property
    def total(self) -> float:
        return float(self.counts.sum())

    @cached_property
    def centres(self) -> FloatArray:
        return (np.arange(-BINS, BINS, dtype=np.float64) + 0.5) * self.width

    @cached_property
    def moments(self) -> FloatArray:
        """(3, 2·BINS + 1): integrals of 1, u and u² from the left up to each bin edge.

        In units u = x / width, the density uniform within each bin.
        """
        edges = np.arange(-BINS, BINS + 1, dtype=np.float64)
        left, right = edges[:-1], edges[1:]
        mass = self.counts * np.stack(
            [np.ones_like(left), (left + right) / 2, (right**3 - left**3) / 3]
        )
        out: FloatArray = np.pad(np.cumsum(mass, axis=1), ((0, 0), (1, 0)))
        return out

    def moments_at(self, x: FloatArray) -> FloatArray:
        """(3, *x.shape): :attr:`moments` at positions x between the edges too."""
        u = np.clip(x / self.width, -BINS, BINS)
        index = np.minimum(np.floor(u), BINS - 1)
        bins = index.astype(np.int64) + BINS
        inside = np.stack([u - index, (u**2 - index**2) / 2, (u**3 - index**3) / 3])
        out: FloatArray = self.moments[:, bins] + self.counts[bins] * inside
        return out


class StreamingHistogram:
    """Counts values batch by batch; memory is constant.

    The range is ±R with R the smallest power of two above max|x| so far. When it grows by 2^k, runs
    of 2^k bins merge into one. Bin edges are multiples of a power of two, so that ``x / width`` is
    exact in fp32 and the merged counts are those that one pass with the final range would give: the
    result depends on the values alone, not on their order or on how they were split.
    """

    def __init__(self) -> None:
        self._counts: torch.Tensor | None = None
        self._exponent = _LOWEST_EXPONENT
        self._low = math.inf
        self._high = -math.inf

    @torch.no_grad()
    def update(self, x: torch.Tensor) -> None:
        """Count every element of a floating-point tensor of any shape.

        Raises:
            BadInput: when an element is NaN or infinite.
        """
        if x.numel() == 0:
            return
        x = x.detach().float().reshape(-1)
        low, high = finite_range(x)
        self._low, self._high = min(self._low, low), max(self._high, high)
        if self._counts is None:
            self._counts = torch.zeros(2 * BINS, dtype=torch.int64, device=x.device)
        largest = max(-low, high)
        exponent = math.frexp(largest)[1]  # largest < 2**exponent
        if largest > 0 and exponent > self._exponent:
            self._counts = _merge(self._counts, exponent - self._exponent)
            self._exponent = exponent
        index = (x * (BINS * 2.0**-self._exponent)).floor_().add_(BINS)
        self._counts += torch.bincount(index.to(torch.int32), minlength=2 * BINS)

    def snapshot(self) -> Histogram:
        """The histogram so far.

        Raises:
            BadInput: when nothing was counted.
        """
        if self._counts is None:
            raise nothing_observed()
        counts = self._counts.cpu().numpy().astype(np.float64)
        return Histogram(counts, 2.0**self._exponent / BINS, self._low, self._high)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self._counts is None else self._counts.device


def finite_range(x: torch.Tensor) -> tuple[float, float]:
    """Minimum and maximum of a non-empty tensor.

    Raises:
        BadInput: when an element is NaN or infinite.
    """
    low, high = torch.stack(torch.aminmax(x)).tolist()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise not_finite()
    return low, high


def not_finite() -> BadInput:
    return BadInput(
        "The network's activations hold NaN or infinity.",
        "Check the checkpoint and the calibration images; run in fp32 if this was fp16.",
    )


def nothing_observed() -> BadInput:
    return BadInput(
        "No activation was observed at a point that is to be quantised.",
        "Calibrate with at least one image, and quantise only layers that the network runs.",
    )


def _merge(counts: torch.Tensor, doublings: int) -> torch.Tensor:
    factor = min(2**doublings, BINS)  # at most one bin a side is left; the sign always stays
    merged = torch.zeros_like(counts)
    kept = BINS // factor
    merged[BINS - kept : BINS + kept] = counts.view(-1, factor).sum(1)
    return merged
