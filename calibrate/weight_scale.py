"""The scale of least squared error for weights, which are at hand as a whole."""

from __future__ import annotations

import torch

from mimiq.calibrate.observers import SMALLEST_SCALE, demand, positive
from mimiq.errors import BadInput
from mimiq.quantize.fake_quant import Grid, scale_groups


@torch.no_grad()
def mse_weight_scale(
    weight: torch.Tensor, grid: Grid, axis: int, block_size: int, candidates: int = 24
) -> torch.Tensor:
    """The scale of least squared error of each channel, block or whole weight.

    Clipping ratios from 1 down to 0.25 are tried; then scale and rounding are fitted to each other
    in turn (for fixed integers q the best scale is ⟨w, q⟩ / ⟨q, q⟩), which only lowers the error.

    Args:
        weight: floating-point; any shape per tensor and per channel, (out, in) for blocks.
        grid: the integers.
        axis, block_size: as :func:`mimiq.quantize.fake_quant.fake_quantize` takes them.
        candidates: how many clipping ratios.

    Returns:
        fp32, positive, of the scale's shape there: (), (channels,) or (out, in / block_size). An
        all-zero channel gets the scale of the whole weight's range, so that it can still learn.

    Raises:
        BadInput: when the weight holds NaN or infinity, or is not a whole number of blocks.
    """
    groups = _scale_groups(weight.detach().float(), axis, block_size)
    low, high = torch.aminmax(groups, dim=1, keepdim=True)
    if not torch.isfinite(high - low).all():
        raise BadInput("A weight holds NaN or infinity.", "Check the checkpoint.")
    exact = demand(low, high, grid)
    whole = positive(exact.amax())
    best = torch.where(exact > 0, exact, whole).clamp_(min=SMALLEST_SCALE)
    start, least = best, _group_error(groups, best, grid)
    for ratio in torch.linspace(1, 0.25, candidates)[1:].tolist():
        best, least = _keep_better(groups, grid, best, least, start * ratio)
    for _ in range(4):
        steps = groups.div(best).round_().clamp_(grid.qmin, grid.qmax)
        power = steps.square().sum(1, keepdim=True)
        fitted = (groups * steps).sum(1, keepdim=True) / power.clamp(min=1)
        best, least = _keep_better(groups, grid, best, least, fitted)
    shape = () if axis < 0 else (weight.shape[0], -1) if block_size else (-1,)
    return best.reshape(shape)


def _scale_groups(weight: torch.Tensor, axis: int, block_size: int) -> torch.Tensor:
    if block_size and (weight.ndim != 2 or axis != 1 or weight.shape[1] % block_size):
        raise BadInput(
            f"A weight of shape {tuple(weight.shape)} has no whole blocks of {block_size} along "
            f"axis {axis}.",
            "Choose a block size that divides the layer's input size.",
        )
    return scale_groups(weight, axis, block_size)


def _keep_better(
    groups: torch.Tensor,
    grid: Grid,
    best: torch.Tensor,
    least: torch.Tensor,
    scale: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    scale = scale.clamp(min=SMALLEST_SCALE)
    error = _group_error(groups, scale, grid)
    return torch.where(error < least, scale, best), torch.minimum(error, least)


def _group_error(groups: torch.Tensor, scale: torch.Tensor, grid: Grid) -> torch.Tensor:
    steps = groups.div(scale).round_().clamp_(grid.qmin, grid.qmax)
    return steps.mul_(scale).sub_(groups).square_().sum(1, keepdim=True)
