"""Linears and convolutions that compute through quantisers, and how they are frozen for export."""

from __future__ import annotations

from functools import reduce

import torch
from torch import nn

from mimiq.quantize.fake_quant import FrozenQuantizer, Quantizer


class QuantLinear(nn.Module):
    """A Linear whose weight, and perhaps input, pass through quantisers.

    A few input columns may be *outliers*, computed in floating point beside the integers, as
    Dettmers et al. (LLM.int8(), NeurIPS 2022, section 3.2) do, but for columns that are known
    beforehand. The integer weights are zero there, so that it does not matter how far the input
    saturates.

    Attributes:
        input_quantizer: an identity for floating-point activations.
        outliers: indices of the outlier columns, ascending.
        outlier_weight: fp32 (len(outliers), out), their weights; None where there are none.
    """

    def __init__(
        self, linear: nn.Linear, weight_quantizer: nn.Module, outliers: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.weight = linear.weight
        self.bias = linear.bias
        self.input_quantizer: nn.Module = nn.Identity()
        self.weight_quantizer = weight_quantizer
        self.outliers = outliers
        self.outlier_weight: nn.Parameter | None = None
        if outliers:
            columns = list(outliers)
            self.outlier_weight = nn.Parameter(
                linear.weight.detach()[:, columns].T.clone(), linear.weight.requires_grad
            )
            self.weight = nn.Parameter(without_columns(linear.weight.detach(), outliers), False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        if self.outliers and weight.requires_grad:
            weight = without_columns(weight, self.outliers)  # training must not fill them
        out = nn.functional.linear(
            self.input_quantizer(x), self.weight_quantizer(weight), self.bias
        )
        return out if self.outlier_weight is None else out + self.outlier_product(x)

    def outlier_product(self, x: torch.Tensor) -> torch.Tensor:
        """What the outlier columns of ``x`` (…, in) add to the output (…, out).

        One product a column: TensorRT fuses these with what surrounds them, where a small matrix
        product would be a kernel of its own.
        """
        assert self.outlier_weight is not None
        products = [
            x[..., column : column + 1] * row
            for column, row in zip(self.outliers, self.outlier_weight, strict=True)
        ]
        total: torch.Tensor = reduce(torch.add, products)
        return total


def without_columns(x: torch.Tensor, columns: tuple[int, ...]) -> torch.Tensor:
    """A copy of ``x`` (…, in), a Linear's weight or its input, with these columns zero."""
    return x.index_fill(-1, torch.tensor(columns, dtype=torch.long, device=x.device), 0.0)


class QuantConv2d(nn.Module):
    """A convolution whose weight, and perhaps input, pass through quantisers."""

    def __init__(self, conv: nn.Conv2d, weight_quantizer: nn.Module) -> None:
        super().__init__()
        self.stride, self.padding = conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups
        self.weight = conv.weight
        self.bias = conv.bias
        self.input_quantizer: nn.Module = nn.Identity()
        self.weight_quantizer = weight_quantizer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(
            self.input_quantizer(x),
            self.weight_quantizer(self.weight),
            self.bias,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


QuantLayer = QuantLinear | QuantConv2d


def quant_layers(module: nn.Module) -> dict[str, QuantLayer]:
    """Every quantised Linear and convolution by module name."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, QuantLinear | QuantConv2d)
    }


def freeze(module: nn.Module) -> nn.Module:
    """Replace every :class:`Quantizer` in place by its frozen form, for export.

    Raises:
        ValueError: for a window outside INT8 anywhere but at a Linear's input.
    """
    for child_name, child in module.named_children():
        if isinstance(child, Quantizer):
            frozen = FrozenQuantizer(child)
            setattr(module, child_name, frozen)
            if frozen.offset:
                _give_to_bias(module, child_name, frozen.offset)
        else:
            freeze(child)
    return module


@torch.no_grad()
def _give_to_bias(layer: nn.Module, point: str, offset: float) -> None:
    if not isinstance(layer, QuantLinear) or point != "input_quantizer":
        raise ValueError(f"{point} of a {type(layer).__name__} cannot leave INT8")
    moved = offset * layer.weight_quantizer(layer.weight).sum(1)
    layer.bias = nn.Parameter(moved if layer.bias is None else layer.bias + moved, False)
