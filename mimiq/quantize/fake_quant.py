"""Fake quantisation: one custom operator, its gradients, and the modules that carry its scales.

``mimiq::fake_quantize`` rounds to the integer grid and back. It is the only quantisation operator
in the simulated network, and the exporter translates each of its calls into one
QuantizeLinear/DequantizeLinear pair, so that what was tuned is what is deployed.

Rounding is to nearest, ties to even, as in ONNX. The zero point is 0 everywhere (TensorRT takes no
other); a grid is a window ``[qmin, qmax]`` of integers, which need not be symmetric. Where the
window of a Linear's input leaves INT8, as [-16, 239] does for the output of GELU,
:func:`mimiq.quantize.layers.freeze` moves it back by a constant that it takes from the input and
gives to the bias.

With few bits a grid may have a second, coarser step beyond its ends (:class:`Grid`): a softmax of
two hundred tokens has most of its values near 1/200 and a few near 1, and sixteen evenly spaced
integers hold one or the other. Each step is a pair of its own then.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mimiq.config.grid import Grid as Grid
from mimiq.config.precision import Block, Granularity, PerChannel, PerTensor
from mimiq.quantize import kernels as kernels


@torch.library.custom_op("mimiq::fake_quantize", mutates_args=())
def fake_quantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    qmin: int,
    qmax: int,
    axis: int,
    block_size: int,
    ratio: int = 1,
    coarse: int = 0,
    below: int = 0,
) -> torch.Tensor:
    """``clamp(round(x / scale), qmin, qmax) * scale``; of two steps, the nearest of the grid.

    Args:
        x: any floating-point tensor.
        scale: fp32. Shape () per tensor; (x.shape[axis],) per channel; for blocks (two-dimensional
            ``x`` and ``axis`` 1) (x.shape[0], x.shape[1] / block_size).
        qmin, qmax, ratio, coarse, below: the :class:`Grid`.
        axis: the channel's or the block's axis; -1 for per tensor.
        block_size: 0 unless block-wise.

    Returns:
        Same shape and dtype as ``x``.
    """
    rows = scale_groups(x, axis, block_size)
    grid = Grid(qmin, qmax, ratio, coarse, below)
    rounded = kernels.forward(rows, scale.reshape(-1, 1), grid, x.dtype)
    return _ungrouped(rounded, x, axis, block_size)


@fake_quantize.register_fake
def _(
    x: torch.Tensor,
    scale: torch.Tensor,
    qmin: int,
    qmax: int,
    axis: int,
    block_size: int,
    ratio: int = 1,
    coarse: int = 0,
    below: int = 0,
) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def scale_groups(x: torch.Tensor, axis: int, block_size: int) -> torch.Tensor:
    """``x`` as (scales, elements that share a scale); arguments as :func:`fake_quantize`'s."""
    if axis < 0:
        return x.reshape(1, -1)
    if block_size:
        return x.reshape(-1, block_size)
    return x.movedim(axis, 0).flatten(1)


def _ungrouped(groups: torch.Tensor, x: torch.Tensor, axis: int, block_size: int) -> torch.Tensor:
    """What :func:`scale_groups` made of a tensor like ``x``, in its shape again; contiguous."""
    if axis <= 0 or block_size:
        return groups.view(x.shape)
    return groups.view(x.movedim(axis, 0).shape).movedim(0, axis).contiguous()


class _Trained(torch.autograd.Function):
    """:func:`fake_quantize` with gradients, for training: the operator's own would cost more."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        scale: torch.Tensor,
        grid: Grid,
        axis: int,
        block_size: int,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        ctx.grid, ctx.axis, ctx.block_size = grid, axis, block_size
        rows = scale_groups(x, axis, block_size).contiguous()
        ctx.save_for_backward(rows, scale)
        rounded = kernels.forward(rows, scale.reshape(-1, 1), grid, dtype)
        return _ungrouped(rounded, x, axis, block_size)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Straight through inside the grid for x; the LSQ gradient for the scale.

        d/ds is ``round(x/s) - x/s`` inside the grid and its least or greatest integer at its ends
        and beyond, scaled by ``1 / sqrt(n · greatest)`` for n elements a scale (Esser et al., LSQ,
        ICLR 2020, sections 2.1, 2.2).
        """
        rows, scale = ctx.saved_tensors
        grid: Grid = ctx.grid
        grad_rows, slope = kernels.backward(
            scale_groups(grad, ctx.axis, ctx.block_size),
            rows,
            scale.reshape(-1, 1),
            grid,
            ctx.needs_input_grad[1],
        )
        grad_x = _ungrouped(grad_rows, grad, ctx.axis, ctx.block_size)
        if slope is None:
            return grad_x, *(None,) * 5
        grad_scale = slope / math.sqrt(rows.shape[1] * max(grid.top, 1))
        return grad_x, grad_scale.reshape(scale.shape), *(None,) * 4


def fake_quantize_to(
    x: torch.Tensor, scale: torch.Tensor, grid: Grid, axis: int = -1, block_size: int = 0
) -> torch.Tensor:
    """:func:`fake_quantize` to a :class:`Grid`, with gradients for ``x`` and ``scale``.

    Where these are wanted under autocast, the result has autocast's type, in which whatever
    multiplies it would take it anyway.
    """
    if torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad):
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        trained: torch.Tensor = _Trained.apply(x, scale, grid, axis, block_size, dtype)
        return trained
    out: torch.Tensor = fake_quantize(
        x, scale, grid.qmin, grid.qmax, axis, block_size, grid.ratio, grid.coarse, grid.below
    )
    return out


class Quantizer(nn.Module):
    """Fake-quantises its input with a positive scale, learned through its logarithm.

    The logarithm keeps the scale positive and makes one learning rate fit scales that differ by
    orders of magnitude.

    Attributes:
        grid: the integers it rounds to.
        axis, block_size: as in :func:`fake_quantize`.
        log_scale: fp32 parameter of the scale's shape.
    """

    def __init__(
        self, scale: torch.Tensor, grid: Grid, axis: int = -1, block_size: int = 0
    ) -> None:
        super().__init__()
        self.grid = grid
        self.axis = axis
        self.block_size = block_size
        self.log_scale = nn.Parameter(scale.detach().float().log())

    @property
    def scale(self) -> torch.Tensor:
        return self.log_scale.exp()

    def set_scale(self, scale: torch.Tensor) -> None:
        with torch.no_grad():
            self.log_scale.copy_(scale.log())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return fake_quantize_to(x, self.scale, self.grid, self.axis, self.block_size)

    def extra_repr(self) -> str:
        return f"{self.grid}, axis={self.axis}, block={self.block_size}"


class FrozenQuantizer(nn.Module):
    """A quantiser whose scale is a constant: the form that is exported.

    Its window lies in INT8. What had to be taken from the input for that, ``offset``, is missing
    from the output as well.
    """

    scale: torch.Tensor

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        grid = quantizer.grid
        steps = max(grid.top - 127, 0) + min(grid.bottom + 128, 0)
        self.grid = replace(grid, qmin=grid.qmin - steps, qmax=grid.qmax - steps)
        self.axis = quantizer.axis
        self.block_size = quantizer.block_size
        self.register_buffer("scale", quantizer.scale.detach().clone())
        self.offset = steps * float(self.scale) if steps else 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.offset:
            x = x - self.offset
        return fake_quantize_to(x, self.scale, self.grid, self.axis, self.block_size)


def weight_axis(granularity: Granularity) -> tuple[int, int]:
    """(axis, block_size) of a weight of shape (out, in, …) for :func:`fake_quantize`."""
    match granularity:
        case PerTensor():
            return -1, 0
        case PerChannel():
            return 0, 0
        case Block(size):
            return 1, size
