"""Rounding weights one input column at a time, each column making up for the error of the last.

Frantar et al., GPTQ, ICLR 2023, algorithm 1, on the inputs that the quantised network itself
produces for the calibration images.
"""

from __future__ import annotations

import torch
from torch import nn

from mimiq.fake_quant import Quantizer, QuantLinear, quant_layers
from mimiq.models.family import Family
from mimiq.precision import Precision
from mimiq.sampling import watch_inputs

_DAMPING = 0.01  # of the mean diagonal of the Hessian, as published


@torch.no_grad()
def compensate_rounding(
    family: Family,
    module: nn.Module,
    precision: Precision,
    images: torch.Tensor,
    batch_size: int = 32,
) -> None:
    """Move the weights of every Linear below 8 bits in place onto its grid, block by block.

    Args:
        module: quantisers in place, scales set.
        images: (B, 3, S, S), normalised.
    """
    names = {layer: name for name, layer in quant_layers(module).items()}
    blocks = family.blocks(module)
    embed = family.embed(module)
    tokens = [embed(batch) for batch in images.split(batch_size)]
    for block in blocks:
        # Layers of one block are done in the order in which data meets them.
        for layer in (part for part in block.modules() if isinstance(part, QuantLinear)):
            bits = precision.of(names[layer]).weight_bits
            if bits is None or bits >= 8:
                continue
            hessian = _input_hessian(block, layer, tokens)
            layer.weight.copy_(gptq(layer.weight, hessian, layer.weight_quantizer))
        tokens = [block(batch) for batch in tokens]


def _input_hessian(
    block: nn.Module, layer: QuantLinear, tokens: list[torch.Tensor]
) -> torch.Tensor:
    """XᵀX (K, K) over the layer's quantised inputs."""
    size = layer.in_features
    total = torch.zeros(size, size, device=layer.weight.device)

    def see(_name: str, x: torch.Tensor) -> None:
        flat = layer.input_quantizer(x).reshape(-1, size).float()
        total.add_(flat.T @ flat)

    with watch_inputs({"": layer}, see):
        for batch in tokens:
            block(batch)
    return total


@torch.no_grad()
def gptq(weight: torch.Tensor, hessian: torch.Tensor, quantizer: nn.Module) -> torch.Tensor:
    """Weights (out, in) on the quantiser's grid with a small error of the layer's output.

    Args:
        weight: (out, in).
        hessian: (in, in), XᵀX of the layer's inputs.
        quantizer: per tensor, per output channel or block-wise over the input axis.
    """
    if not isinstance(quantizer, Quantizer):
        return weight
    w = weight.clone().float()
    hessian = hessian.clone()
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    hessian.diagonal().add_(_DAMPING * hessian.diagonal().mean())
    # The input columns with the largest inputs first: their errors find the most columns to go to.
    order = hessian.diagonal().argsort(descending=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian[order][:, order]))
    upper = torch.linalg.cholesky(inverse, upper=True)
    scale = _column_scales(quantizer, w)[:, order]
    w = w[:, order]
    out = torch.empty_like(w)
    grid = quantizer.grid
    for i in range(w.shape[1]):
        step = scale[:, i]
        out[:, i] = (w[:, i] / step).round().clamp(grid.qmin, grid.qmax) * step
        error = (w[:, i] - out[:, i]) / upper[i, i]
        w[:, i + 1 :] -= error.unsqueeze(1) * upper[i, i + 1 :].unsqueeze(0)
    return out[:, order.argsort()].to(weight.dtype)


def _column_scales(quantizer: Quantizer, weight: torch.Tensor) -> torch.Tensor:
    """The scale of each element, shape (out, in)."""
    scale = quantizer.scale
    if quantizer.block_size:
        return scale.repeat_interleave(quantizer.block_size, dim=1)
    if quantizer.axis == 0:
        scale = scale.unsqueeze(1)
    return scale.expand_as(weight)
