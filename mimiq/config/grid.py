"""The integers that a tensor is rounded to, as a value; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """The integers a tensor is rounded to.

    They are ``qmin … qmax``, and in a grid of two steps ``coarse`` more above them, ``ratio``
    apart: ``qmax + ratio, qmax + 2·ratio, …``, and ``below`` more below them. Yuan et al. (PTQ4ViT,
    ECCV 2022, section 3.2) give the outputs of softmax and GELU two steps as well; here the parts
    adjoin, so that every value goes to the nearest integer of the grid, and all are integers of one
    INT8 carrier.
    """

    qmin: int
    qmax: int
    ratio: int = 1
    coarse: int = 0
    below: int = 0

    @property
    def bottom(self) -> int:
        """The smallest integer."""
        return self.qmin - self.ratio * self.below

    @property
    def top(self) -> int:
        """The largest integer."""
        return self.qmax + self.ratio * self.coarse

    @property
    def has_two_steps(self) -> bool:
        return bool(self.coarse or self.below)

    @property
    def count(self) -> int:
        """How many integers there are."""
        return self.qmax - self.qmin + 1 + self.coarse + self.below

    @property
    def integers(self) -> tuple[int, ...]:
        """All of them, ascending."""
        lower = range(self.bottom, self.qmin, self.ratio)
        upper = range(self.qmax + self.ratio, self.top + 1, self.ratio)
        return (*lower, *range(self.qmin, self.qmax + 1), *upper)

    @staticmethod
    def signed(bits: int) -> Grid:
        """``[-2^(b-1), 2^(b-1) - 1]``: INT8, INT4."""
        return Grid(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    @staticmethod
    def weight(bits: int) -> Grid:
        """For weights: signed, but 8 bits without −128, whose products saturate AVX2 kernels."""
        return Grid(-127, 127) if bits == 8 else Grid.signed(bits)

    @staticmethod
    def shifted(bits: int, low: int) -> Grid:
        """``2^b`` integers from ``low`` on, cut to what an INT8 carrier holds."""
        return Grid(max(low, -128), min(low + 2**bits - 1, 127))
