"""The arithmetic of fake quantisation on rows of one scale each, compiled where that pays.

A step of training passes a hundred million activations through quantisers, and in eager mode each
direction is half a dozen passes over memory. :func:`compiled` has the same functions compiled to
one pass a direction for as long as it lasts, if this host has what compiling takes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from mimiq.config.grid import Grid
from mimiq.libraries import hushed

_log = logging.getLogger(__name__)

# Those of a Grid, which the compiler would take for constants.
_Numbers = tuple[int, int, int, int, int]


def _forward(
    x: torch.Tensor, scale: torch.Tensor, grid: _Numbers, dtype: torch.dtype
) -> torch.Tensor:
    return _to_grid(x.float().div(scale), grid).mul_(scale).to(dtype)


def _backward(
    grad: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, grid: _Numbers, wants_slope: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    qmin, qmax, ratio, coarse, below = grid
    grad = grad.float()
    steps = x.float().div(scale)
    # Zero outside, as torch.where would make it, which on a CPU takes twenty times as long.
    inside = torch.ops.aten.hardtanh_backward(
        grad, steps, qmin - ratio * below, qmax + ratio * coarse
    )
    if not wants_slope:
        return inside.to(x.dtype), None
    # Σ g·(round(q) − q) over elements inside the grid and Σ g·round(q) over those outside.
    within = _dot(inside, steps)
    slope = _dot(grad, _to_grid(steps, grid)) - within
    return inside.to(x.dtype), slope


def _to_grid(steps: torch.Tensor, grid: _Numbers) -> torch.Tensor:
    """``steps``, x / scale, rounded to the grid in place."""
    qmin, qmax, ratio, coarse, below = grid
    if not (coarse or below):
        return steps.round_().clamp_(qmin, qmax)
    fine = steps.clamp(qmin, qmax)
    outside = steps.sub_(fine).div_(ratio).round_().clamp_(-below, coarse)
    return fine.round_().add_(outside, alpha=ratio)


def _dot(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Row by row, (rows,)."""
    if len(first) == 1:
        return torch.dot(first[0], second[0]).unsqueeze(0)
    return (first * second).sum(1)


_EAGER = (_forward, _backward)
_kernels: tuple[Callable[..., Any], Callable[..., Any]] = _EAGER


def forward(x: torch.Tensor, scale: torch.Tensor, grid: Grid, dtype: torch.dtype) -> torch.Tensor:
    """``x`` (rows, elements) rounded to the grid and back, as ``dtype``; scale fp32 (rows, 1)."""
    with _alike(x):
        out: torch.Tensor = _kernels[0](_bare(x), _bare(scale), _numbers(grid), dtype)
    return out


def backward(
    grad: torch.Tensor, x: torch.Tensor, scale: torch.Tensor, grid: Grid, wants_slope: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(gradient of ``x``, of the scale before normalisation (rows,) in fp32 if wanted)."""
    with _alike(x):
        grads: tuple[torch.Tensor, torch.Tensor | None] = _kernels[1](
            _bare(grad), _bare(x), _bare(scale), _numbers(grid), wants_slope
        )
    return grads


@contextmanager
def compiled(device: torch.device) -> Iterator[bool]:
    """While it lasts :func:`forward` and :func:`backward` are compiled, if this host can.

    Up to 64 variants are compiled, one for each type, form and kind of grid; seven or so are usual.

    Yields:
        Whether they are. Compiling takes some twenty seconds the first time, and needs a C++
        compiler; whatever keeps it from working, or from giving what eager mode gives, leaves
        eager mode.
    """
    global _kernels
    before = _kernels
    # On import it warns about a CUDA toolkit without a GPU, of which no user asked.
    try:
        with hushed("torch.utils.cpp_extension"):
            forward, backward = (torch.compile(f, dynamic=True) for f in (_forward, _backward))
            _kernels = (forward, backward)
            works = _gives_what_eager_gives(device)
    except Exception as error:
        # No compiler, one that fails, a full disk, a platform without it: it is only for speed.
        _log.info("Quantisers run in eager mode; compiling them failed: %s", error)
        works = False
    if not works:
        _kernels = before
    try:
        patch = torch._dynamo.config.patch(recompile_limit=64, suppress_errors=True)
        with patch if works else nullcontext():
            yield works
    finally:
        _kernels = before


def _gives_what_eager_gives(device: torch.device) -> bool:
    # One scale and one a row, which are compiled apart: compiled code is kept on disk, and what was
    # made for other vector instructions may be taken from there and compute nonsense.
    x = torch.linspace(-3, 3, 4096, device=device)
    grids = (Grid(-100, 99), Grid(-60, 59, 2, 40, 40))
    return all(
        _alike_on(x.reshape(rows, -1), torch.full((rows, 1), 0.0173, device=device), grid)
        for rows in (1, 64)
        for grid in grids
    )


def _alike_on(x: torch.Tensor, scale: torch.Tensor, grid: Grid) -> bool:
    numbers = _numbers(grid)
    apart = forward(x, scale, grid, x.dtype).sub(_forward(x, scale, numbers, x.dtype)).abs()
    # A GPU may divide less exactly, and a value on a threshold then goes to the other side.
    if not bool((apart < 1.01 * grid.ratio * scale).all()) or int((apart > 0).sum()) > 4:
        return False
    grads, slope = backward(x, x, scale, grid, True)
    wanted, wanted_slope = _backward(x, x, scale, numbers, True)
    assert slope is not None
    assert wanted_slope is not None
    # A row's slope is a difference of sums, of which little may be left.
    slack = 1e-3 * float(wanted_slope.abs().max())
    close = torch.allclose(grads, wanted, rtol=1e-3)
    return close and torch.allclose(slope, wanted_slope, rtol=0, atol=slack)


@contextmanager
def _alike(x: torch.Tensor) -> Iterator[None]:
    """What compiled code is specialised on, the same everywhere: no gradients, no autocast."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        yield


def _bare(tensor: torch.Tensor) -> torch.Tensor:
    """The values alone: no view, no request for gradients, of which each would be compiled anew."""
    return tensor.contiguous().data


def _numbers(grid: Grid) -> _Numbers:
    return grid.qmin, grid.qmax, grid.ratio, grid.coarse, grid.below
