"""Total variation as a sum of norms of neighbour differences, with its gradient written out.

Autograd through four differences of slices makes some forty passes over freshly allocated memory,
a tenth of a synthesis step on a CPU; here an image stays in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

_Window = tuple[slice, slice]
_ALL, _NOT_FIRST, _NOT_LAST = slice(None), slice(1, None), slice(None, -1)

# The two (rows, columns) windows whose difference each direction is.
_DIRECTIONS: tuple[tuple[_Window, _Window], ...] = (
    ((_ALL, _NOT_FIRST), (_ALL, _NOT_LAST)),
    ((_NOT_FIRST, _ALL), (_NOT_LAST, _ALL)),
    ((_NOT_FIRST, _NOT_FIRST), (_NOT_LAST, _NOT_LAST)),
    ((_NOT_FIRST, _NOT_LAST), (_NOT_LAST, _NOT_FIRST)),
)
_CHUNK_BYTES = {"cpu": 1 << 20}
_CHUNK_BYTES_ELSEWHERE = 256 << 20


def total_variation(
    images: torch.Tensor, *, batch_meant: int, diagonal_weight: float = math.sqrt(0.5)
) -> torch.Tensor:
    """Sum of the L2 norms of the horizontal, vertical and both diagonal neighbour differences.

    The published losses take each norm over a whole batch of ``batch_meant`` images, so its value,
    and its pull on one image against losses that average over the batch, depend on the batch size.
    Each norm is multiplied by √(batch_meant / B): at B = batch_meant that is the published loss,
    and at any other B its value and the balance of an image's gradients stay the same.

    Args:
        images: (B, C, H, W).
        batch_meant: the batch size for which the loss's weight was given.
        diagonal_weight: factor of the two diagonal norms (their pixels are √2 apart).

    Returns:
        Scalar. The gradient of a norm that is zero counts as zero.
    """
    scale = math.sqrt(batch_meant / len(images))
    weights = (scale, scale, scale * diagonal_weight, scale * diagonal_weight)
    value: torch.Tensor = _TotalVariation.apply(images, weights)
    return value


class _TotalVariation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, weights: tuple[float, ...]) -> torch.Tensor:
        squares = images.new_zeros(len(_DIRECTIONS))
        for part in _parts(images):
            for direction, (ahead, behind) in enumerate(_DIRECTIONS):
                difference = part[:, :, *ahead] - part[:, :, *behind]
                squares[direction] += torch.linalg.vector_norm(difference).square()
        norms = squares.sqrt()
        weight = images.new_tensor(weights)
        ctx.save_for_backward(images, torch.where(norms > 0, weight / norms, 0))
        return norms @ weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_value: torch.Tensor) -> tuple[torch.Tensor, None]:
        images, weight_by_norm = ctx.saved_tensors
        factors = (weight_by_norm * grad_value).unbind()
        gradient = torch.zeros_like(images)
        for part, out in zip(_parts(images), _parts(gradient), strict=True):
            for factor, (ahead, behind) in zip(factors, _DIRECTIONS, strict=True):
                difference = (part[:, :, *ahead] - part[:, :, *behind]).mul_(factor)
                out[:, :, *ahead].add_(difference)
                out[:, :, *behind].sub_(difference)
        return gradient, None


def _parts(images: torch.Tensor) -> Iterator[torch.Tensor]:
    limit = _CHUNK_BYTES.get(images.device.type, _CHUNK_BYTES_ELSEWHERE)
    yield from torch.split(images, max(1, limit // (images[0].numel() * images.itemsize)))
