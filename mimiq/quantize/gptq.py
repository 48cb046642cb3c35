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
    """Weights (…, out, in) on the grid with a small error of the layer's output.

    Rows are rounded each for itself, so those of several weights of the same inputs may be stacked.
    Weights of several inputs go side by side along the first dimensions: a column of all of them
    costs little more than one of one.

    Args:
        weight: (…, out, in).
        hessian: (…, in, in), XᵀX of the layer's inputs.
        scale: of each element, (…, out, in), as :func:`element_scales` gives it.
        grid: the integers.
    """
    order, upper = _factors(hessian.reshape(-1, *hessian.shape[-2:]))
    scale, w = (_columns(x, order) for x in (scale.expand_as(weight), weight))
    # By column, with what its error does to the later ones: (in, B, in).
    steps, diagonal = upper.transpose(0, 1), upper.diagonal(dim1=-2, dim2=-1).T[..., None]
    for start in range(0, len(w), _COLUMNS):
        end = min(start + _COLUMNS, len(w))
        errors = torch.empty_like(w[start:end])
        for i in range(start, end):
            column, step = w[i], scale[i]
            rounded = (column / step).round_().clamp_(grid.qmin, grid.qmax).mul_(step)
            error = torch.sub(column, rounded, out=errors[i - start]).div_(diagonal[i])
            column.copy_(rounded)
            w[i + 1 : end].addcmul_(steps[i, :, i + 1 : end].T[..., None], error, value=-1)
        for index, each in enumerate(upper):
            w[end:, index].addmm_(each[start:end, end:].T, errors[:, index], alpha=-1)
    back = order.argsort(-1)
    rounded = w.permute(1, 2, 0).gather(-1, back[:, None].expand(-1, w.shape[-1], -1))
    return rounded.reshape(weight.shape).to(weight.dtype)


def _factors(hessian: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(order of the columns (B, in), upper U with UᵀU the inverse in that order (B, in, in))."""
    hessian = hessian.clone()
    diagonal = hessian.diagonal(dim1=-2, dim2=-1)
    diagonal.masked_fill_(diagonal == 0, 1)
    diagonal.add_(_DAMPING * diagonal.mean(-1, keepdim=True))
    # The input columns with the largest inputs first: their errors find the most columns to go to.
    order = diagonal.argsort(dim=-1, descending=True)
    # Backwards, so that the factor, turned round, is an upper one R with H = RRᵀ: U is its inverse.
    last = order.flip(-1)
    backwards = torch.stack([each[by[:, None], by] for each, by in zip(hessian, last, strict=True)])
    factor = torch.linalg.cholesky(backwards).flip(-2, -1)
    identity = torch.eye(factor.shape[-1]).to(factor)
    return order, torch.linalg.solve_triangular(factor, identity, upper=True)


def _columns(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """(in, B, out) of (…, out, in), the columns of each of the B in its order; contiguous, fp32."""
    x = x.reshape(-1, *x.shape[-2:]).float()
    return x.gather(-1, order[:, None].expand(-1, x.shape[1], -1)).permute(2, 0, 1).contiguous()


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
