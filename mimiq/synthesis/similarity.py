"""How alike the attention maps of a block's heads are: SSIM between heads, through Gram matrices.

Source: MimiQ (AAAI 2025, arXiv 2407.20021), inter-head attention similarity. A map is one head's
row of pre-softmax scores for one spatial query, min–max normalised over its keys to [0, 1]; for two
heads h and g, over the whole map::

    SSIM = (2 μ_h μ_g + C1)(2 σ_hg + C2) / ((μ_h² + μ_g² + C1)(σ_h² + σ_g² + C2))

SSIM needs of two maps only their means, variances and covariance. All pairs of a query come from
one H×H Gram matrix of its *raw*, centred maps, and min–max normalisation (a − lo)/r carries over to
the statistics: μ = (mean − lo)/r, σ_hg = cov_hg/(r_h r_g). So neither the normalised maps nor the
H×H×N products of the definition are ever made.

A constant map (range below :data:`CONSTANT_RANGE`) has no normalised form; it counts as all zeros
and takes no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

C1 = 0.01**2
C2 = 0.03**2
CONSTANT_RANGE = 1e-6

# Working memory for one chunk of maps: small enough for a CPU's cache, on a GPU large enough to
# fill it.
_CHUNK_BYTES = {"cpu": 2 << 20}
_CHUNK_BYTES_ELSEWHERE = 256 << 20
_KEPT = 7  # tensors a chunk keeps for the backward pass


def inter_head_loss(scores: torch.Tensor, *, prefix_tokens: int = 0) -> torch.Tensor:
    """Mean of ``1 − SSIM²`` over images, queries and all H×H pairs of heads, for one block.

    The square makes it indifferent to sign: a head may be another's negative.

    Args:
        scores: (B, H, T, T) scores before the softmax, any scale, any strides, any floating dtype;
            computed in fp32 (fp64 stays fp64).
        prefix_tokens: class and register tokens, whose leading rows and columns are left out. Same
            as passing ``scores[:, :, p:, p:]``, without the backward pass of that slicing.

    Returns:
        Scalar in the computing dtype. 0 when all heads agree up to sign, or there is one head.
    """
    loss: torch.Tensor = _InterHeadLoss.apply(scores, prefix_tokens)
    return loss


@torch.no_grad()
def inter_head_similarity(scores: torch.Tensor, *, prefix_tokens: int = 0) -> torch.Tensor:
    """Mean |SSIM| over the queries for every pair of heads: (B, H, H), ones on the diagonal.

    Args:
        scores, prefix_tokens: as for :func:`inter_head_loss`.
    """
    maps = scores[:, :, prefix_tokens:, prefix_tokens:]
    batch, heads, queries, _ = maps.shape
    total = maps.new_zeros((batch, heads, heads), dtype=_computing_dtype(scores))
    for images, rows in _chunks(maps):
        pairs = _pair_statistics(_centred(maps[images, :, rows]))
        total[images] += pairs.ssim.abs().sum(dim=1)
    return total / queries


def mean_off_diagonal(similarity: torch.Tensor) -> torch.Tensor:
    """The mean over pairs of different heads: (…, H, H) to (…). NaN for one head."""
    heads = similarity.shape[-1]
    trace = similarity.diagonal(dim1=-2, dim2=-1).sum(-1)
    if heads == 1:
        return torch.full_like(trace, torch.nan)
    return (similarity.sum((-2, -1)) - trace) / (heads * (heads - 1))


def inter_head_loss_definition(scores: torch.Tensor, *, prefix_tokens: int = 0) -> torch.Tensor:
    """:func:`inter_head_loss` as it is written down, by plain autograd: the reference for tests.

    Materialises the normalised maps and all (B, H, H, N, N) products of pairs.
    """
    maps = scores[:, :, prefix_tokens:, prefix_tokens:].to(_computing_dtype(scores))
    low = maps.amin(-1, keepdim=True)
    span = maps.amax(-1, keepdim=True) - low
    varies = span > CONSTANT_RANGE
    maps = torch.where(varies, (maps - low) / torch.where(varies, span, 1), 0)
    mean = maps.mean(-1)
    centred = maps - mean[..., None]
    covariance = (centred[:, :, None] * centred[:, None]).mean(-1)  # (B, H, H, N)
    variance = centred.square().mean(-1)
    mean_h, mean_g = mean[:, :, None], mean[:, None]
    var_h, var_g = variance[:, :, None], variance[:, None]
    ssim = (2 * mean_h * mean_g + C1) * (2 * covariance + C2)
    ssim = ssim / ((mean_h.square() + mean_g.square() + C1) * (var_h + var_g + C2))
    return (1 - ssim.square()).mean()


class _Centred(NamedTuple):
    """Raw maps of a chunk, their mean taken off, and what that and their range were."""

    maps: torch.Tensor  # (n, q, H, N), contiguous
    mean: torch.Tensor  # (n, q, H, 1)
    low: torch.Tensor  # (n, q, H, 1), of the centred map
    high: torch.Tensor


class _Pairs(NamedTuple):
    """Statistics of the normalised maps of a chunk, the two heads of a pair on the last axes."""

    inverse_range: torch.Tensor  # (n, q, H, 1)
    mean: torch.Tensor  # (n, q, H, 1)
    covariance: torch.Tensor  # (n, q, H, H)
    luminance: torch.Tensor  # (n, q, H, H), the first factor of SSIM
    mean_energy: torch.Tensor  # its denominator
    structure: torch.Tensor  # the second factor
    variance_sum: torch.Tensor  # its denominator
    ssim: torch.Tensor


class _InterHeadLoss(torch.autograd.Function):
    """The loss and its analytic gradient.

    The gradient with respect to a raw map is linear in the centred maps of the same query:
    ``coupling @ maps + offset`` plus one value each at the map's lowest and highest key, all of
    them known from the H×H statistics. The forward pass keeps those; the backward pass is one
    batched product (H×H)·(H×N).
    """

    @staticmethod
    def forward(ctx: Any, scores: torch.Tensor, prefix: int) -> torch.Tensor:
        maps = scores[:, :, prefix:, prefix:]
        batch, heads, queries, _ = maps.shape
        pairs_in_all = batch * queries * heads * heads
        squares = maps.new_zeros((), dtype=_computing_dtype(scores))
        kept = []
        for images, rows in _chunks(maps):
            centred = _centred(maps[images, :, rows])
            pairs = _pair_statistics(centred)
            squares += pairs.ssim.square().sum()
            if ctx.needs_input_grad[0]:
                kept += [centred.mean, centred.low, centred.high]
                kept += _gradient_coefficients(pairs, centred, pairs_in_all)
        ctx.prefix = prefix
        ctx.save_for_backward(scores, *kept)
        return 1 - squares / pairs_in_all

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[torch.Tensor, None]:
        scores, *kept = ctx.saved_tensors
        prefix = ctx.prefix
        maps = scores[:, :, prefix:, prefix:]
        gradient = torch.empty_like(scores, memory_format=torch.contiguous_format)
        gradient[:, :, :prefix] = 0
        gradient[:, :, prefix:, :prefix] = 0
        inner = gradient[:, :, prefix:, prefix:]
        for number, (images, rows) in enumerate(_chunks(maps)):
            mean, low, high, *coefficients = kept[_KEPT * number : _KEPT * (number + 1)]
            coupling, offset, at_low, at_high = (grad_loss * each for each in coefficients)
            centred = _heads_together(maps[images, :, rows]).sub_(mean)
            with torch.autocast(centred.device.type, enabled=False):
                out = torch.baddbmm(
                    offset.flatten(0, 1), coupling.flatten(0, 1), centred.flatten(0, 1)
                ).view(centred.shape)
            # A comparison into floats is several times faster than argmin, and shares the
            # gradient evenly among equal extremes, as amin and amax do.
            found = torch.empty_like(centred)
            for extreme, value in ((low, at_low), (high, at_high)):
                torch.eq(centred, extreme, out=found)
                out.addcmul_(found, value / found.sum(-1, keepdim=True).clamp_(min=1))
            inner[images, :, rows] = out.transpose(1, 2)
        return gradient, None


def _computing_dtype(scores: torch.Tensor) -> torch.dtype:
    return torch.float64 if scores.dtype == torch.float64 else torch.float32


def _chunks(maps: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut (B, H, N, N) maps along images, and queries where one image is already too large."""
    batch, heads, queries, keys = maps.shape
    limit = _CHUNK_BYTES.get(maps.device.type, _CHUNK_BYTES_ELSEWHERE)
    per_query = heads * keys * _computing_dtype(maps).itemsize
    queries_at_once = max(1, min(queries, limit // per_query))
    images_at_once = max(1, limit // (per_query * queries))
    for first in range(0, batch, images_at_once):
        for row in range(0, queries, queries_at_once):
            yield slice(first, first + images_at_once), slice(row, row + queries_at_once)


def _heads_together(maps: torch.Tensor) -> torch.Tensor:
    """A copy (n, q, H, N) of (n, H, q, N) in the computing dtype: a query's maps side by side."""
    batch, heads, queries, keys = maps.shape
    together = maps.new_empty((batch, queries, heads, keys), dtype=_computing_dtype(maps))
    return together.copy_(maps.transpose(1, 2))


def _centred(maps: torch.Tensor) -> _Centred:
    # Centred before the Gram matrix: E[xy] − E[x]E[y] would cancel for maps far from zero.
    together = _heads_together(maps)
    mean = together.mean(-1, keepdim=True)
    together.sub_(mean)
    return _Centred(
        together, mean, together.amin(-1, keepdim=True), together.amax(-1, keepdim=True)
    )


def _pair_statistics(centred: _Centred) -> _Pairs:
    span = centred.high - centred.low
    inverse = torch.where(span > CONSTANT_RANGE, 1 / span, 0)
    mean = -centred.low * inverse
    flat = centred.maps.flatten(0, 1)
    with torch.autocast(flat.device.type, enabled=False):  # which would round the maps to bf16
        gram = torch.bmm(flat, flat.mT).view(*span.shape[:-1], span.shape[-2])
    covariance = gram.mul_(inverse / flat.shape[-1]).mul_(inverse.mT)
    energy = mean.square()
    mean_energy = (energy + energy.mT).add_(C1)
    luminance = (mean * mean.mT).mul_(2).add_(C1).div_(mean_energy)
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    variance_sum = (variance[..., None] + variance[..., None, :]).add_(C2)
    structure = (covariance * 2).add_(C2).div_(variance_sum)
    ssim = luminance * structure
    return _Pairs(inverse, mean, covariance, luminance, mean_energy, structure, variance_sum, ssim)


def _gradient_coefficients(
    pairs: _Pairs, centred: _Centred, pairs_in_all: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the gradient of the loss needs of a chunk: coupling, offset, at_low, at_high.

    With n = (a − lo)/r the normalised map and n̂ = n − μ, the loss depends on n through μ and
    σ_hg = n̂_h·n̂_g/N, so its gradient there is g = (2/N) Σ_g ∂L/∂σ_hg n̂_g + (1/N) ∂L/∂μ_h.
    Through (a − lo)/r that becomes g/r for every key, and, as ∂n/∂lo = (n − 1)/r and
    ∂n/∂hi = −n/r, another (Σ g n − Σ g)/r at the lowest key and −(Σ g n)/r at the highest. The
    sums are Σ g = ∂L/∂μ_h and Σ g n = 2 Σ_g ∂L/∂σ_hg σ_hg + μ_h ∂L/∂μ_h.
    """
    keys = centred.maps.shape[-1]
    # ∂L/∂SSIM; every unordered pair stands twice in the H×H sum.
    by_ssim = pairs.ssim * (-2 / pairs_in_all)
    by_covariance = (2 * by_ssim).mul_(pairs.luminance).div_(pairs.variance_sum)
    by_variance = (by_ssim * pairs.ssim).div_(pairs.variance_sum).sum(-1).mul_(-2)
    by_covariance.diagonal(dim1=-2, dim2=-1).add_(by_variance)
    by_mean = (pairs.mean.mT - pairs.luminance * pairs.mean).mul_(pairs.structure)
    by_mean = by_mean.mul_(by_ssim).div_(pairs.mean_energy).sum(-1, keepdim=True).mul_(4)

    inverse = pairs.inverse_range
    sum_gn = (by_covariance * pairs.covariance).sum(-1, keepdim=True).mul_(2)
    sum_gn = sum_gn.add_(by_mean * pairs.mean)
    coupling = by_covariance.mul_(inverse * (2 / keys)).mul_(inverse.mT)
    offset = by_mean * inverse / keys
    return coupling, offset, (sum_gn - by_mean) * inverse, -sum_gn * inverse
