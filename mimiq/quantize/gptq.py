"""Rounding weights one input column at a time, each column making up for the error of the last.

Frantar et al., GPTQ, ICLR 2023, algorithm 1.
"""

from __future__ import annotations

import torch

from mimiq.quantize.fake_quant import Grid, Quantizer

_DAMPING = 0.01  # of the mean diagonal of the Hessian, as published
_COLUMNS = 64  # whose errors reach the later ones together, in one product


@torch.no_grad()
def gptq(
    weight: torch.Tensor, hessian: torch.Tensor, scale: torch.Tensor, grid: Grid
) -> torch.Tensor:
    """Weights (out, in) on the grid with a small error of the layer's output.

    Rows are rounded each for itself, so those of several weights of the same inputs may be stacked.

    Args:
        weight: (out, in).
        hessian: (in, in), XᵀX of the layer's inputs.
        scale: of each element, (out, in), as :func:`element_scales` gives it.
        grid: the integers.
    """
    w = weight.clone().float()
    hessian = hessian.clone()
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    hessian.diagonal().add_(_DAMPING * hessian.diagonal().mean())
    # The input columns with the largest inputs first: their errors find the most columns to go to.
    order = hessian.diagonal().argsort(descending=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[order][:, order]))
    upper = torch.linalg.cholesky(inverse, upper=True)
    # Input columns as rows, which are contiguous.
    scale, w = scale.T[order], w.T[order].contiguous()
    for start in range(0, len(w), _COLUMNS):
        end = min(start + _COLUMNS, len(w))
        errors = torch.empty_like(w[start:end])
        for i in range(start, end):
            rounded = (w[i] / scale[i]).round_().clamp_(grid.qmin, grid.qmax).mul_(scale[i])
            errors[i - start] = (w[i] - rounded) / upper[i, i]
            w[i] = rounded
            w[i + 1 : end].addr_(upper[i, i + 1 : end], errors[i - start], alpha=-1)
        w[end:].addmm_(upper[start:end, end:].T, errors, alpha=-1)
    return w[order.argsort()].T.contiguous().to(weight.dtype)


def element_scales(quantizer: Quantizer, weight: torch.Tensor) -> torch.Tensor:
    """The scale of each element of ``weight``, (out, in), by its own quantiser.

    The quantiser is per tensor, per output channel or block-wise over the input axis.
    """
    scale = quantizer.scale
    if quantizer.block_size:
        return scale.repeat_interleave(quantizer.block_size, dim=1)
    if quantizer.axis == 0:
        scale = scale.unsqueeze(1)
    return scale.expand_as(weight)
