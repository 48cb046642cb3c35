"""The scale of a Linear's input that changes the Linear's output least."""

from __future__ import annotations

import torch

from mimiq.calibrate.observers import SMALLEST_SCALE, MinMaxObserver
from mimiq.quantize.fake_quant import Grid, fake_quantize_to

ROWS = 512  # input rows that the errors are measured on
_FRACTIONS = tuple(2 ** (-step / 4) for step in range(13))  # of the exact range, down to an eighth
SLACK = 1.25  # errors up to this many times the least count as equally good


class OutputErrorObserver:
    """Chooses scale and window of an activation x by the error of ``x Wᵀ``.

    The error of x itself counts every channel alike, though some meet large weights and others
    none, and a scale that clips the few outliers which carry the signal looks good to it.

    Of the scales whose error is within a quarter of the least the largest is taken: real images
    reach further than the calibration images do, and clipping costs more than rounding.

    Args:
        weight: (N, K), as the Linear will use it.
        seed: of the choice of rows; :data:`ROWS` of all rows seen are kept, each as likely.
    """

    def __init__(self, weight: torch.Tensor, seed: int = 0) -> None:
        weight = weight.detach().float()
        # ‖e Wᵀ‖ = ‖e Rᵀ‖ for W = QR: no wider than K.
        outputs, inputs = weight.shape
        self._factor = torch.linalg.qr(weight, mode="r")[1] if outputs > inputs else weight
        self._range = MinMaxObserver()
        self._generator = torch.Generator().manual_seed(seed)
        self._rows = torch.empty(0, weight.shape[1], device=weight.device)
        self._keys = torch.empty(0)

    @torch.no_grad()
    def update(self, x: torch.Tensor) -> None:
        """See inputs (…, K)."""
        self._range.update(x)
        rows = x.detach().float().reshape(-1, x.shape[-1])
        # Reservoir: every row draws a key, and the rows of the smallest keys stay.
        keys = torch.cat([self._keys, torch.rand(len(rows), generator=self._generator)])
        kept = keys.argsort()[:ROWS]
        fresh = kept[kept >= len(self._rows)] - len(self._rows)
        old = kept[kept < len(self._rows)]
        self._keys = torch.cat([keys[old], keys[len(self._rows) + fresh]])
        self._rows = torch.cat([self._rows[old.to(x.device)], rows[fresh.to(x.device)]])

    def scale(self, grid: Grid) -> torch.Tensor:
        exact = self._range.scale(grid)
        scales = [exact * fraction for fraction in _FRACTIONS]
        errors = [self.error(scale, grid) for scale in scales]
        limit = SLACK * min(errors)
        largest = next(s for s, error in zip(scales, errors, strict=True) if error <= limit)
        return largest.clamp(min=SMALLEST_SCALE)

    def error(self, scale: torch.Tensor, grid: Grid) -> float:
        """Mean squared error of the Linear's output at this scale."""
        error = fake_quantize_to(self._rows, scale, grid).sub_(self._rows)
        return float((error @ self._factor.T).square().mean())
