"""Activation ranges: which points of a network are observed, and the scale each one gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Literal

import torch
from torch import nn

from mimiq.calibrate.observers import OBSERVERS, MSEObserver, Observer
from mimiq.fake_quant import Grid, QuantConv2d, QuantLinear, Quantizer
from mimiq.models.family import Family
from mimiq.precision import Precision

ObserverName = Literal["minmax", "percentile", "mse", "entropy"]

# The softmax output lies in [0, 1]. TensorRT fuses INT8 attention for this scale.
_PROBS_INT8 = 1 / 127


@torch.no_grad()
def activation_quantizers(
    family: Family,
    module: nn.Module,
    precision: Precision,
    images: torch.Tensor,
    observer: ObserverName = "percentile",
    batch_size: int = 16,
) -> None:
    """Fill every activation's quantiser point of ``module`` in place.

    One pass over ``images`` (B, 3, S, S); memory does not grow with their number. Weight quantisers
    that are already there take part, so that the ranges are those of the quantised network.
    """
    points = list(_points(family, module, precision))
    observers = [_observer_for(observer, bits) for _, _, bits in points]
    with ExitStack() as stack:
        for (parent, attribute, _), seen in zip(points, observers, strict=True):
            stack.callback(
                getattr(parent, attribute).register_forward_pre_hook(_updating(seen)).remove
            )
        for batch in images.split(batch_size):
            module(batch)
    for (parent, attribute, bits), seen in zip(points, observers, strict=True):
        if attribute == "probs_quantizer" and bits == 8:
            scale, grid = torch.tensor(_PROBS_INT8), Grid(0, 127)
        else:
            scale, grid = _scale_and_grid(seen, bits)
        setattr(parent, attribute, Quantizer(scale.to(images.device), grid))


def _points(
    family: Family, module: nn.Module, precision: Precision
) -> Iterator[tuple[nn.Module, str, int]]:
    """(parent, attribute, bits) of every quantiser point that the precision asks for."""
    for name, layer in module.named_modules():
        bits = precision.of(name).activation_bits
        if isinstance(layer, QuantLinear | QuantConv2d) and bits is not None:
            yield layer, "input_quantizer", bits
    if precision.attention_bits is not None:
        for attention in family.attentions(module):
            for point in ("q", "k", "v", "probs"):
                yield attention, f"{point}_quantizer", precision.attention_bits


def _observer_for(name: ObserverName, bits: int) -> Observer:
    # With few levels the trade between clipping and rounding decides; percentiles know nothing of it.
    return OBSERVERS[name]() if bits >= 7 else MSEObserver()


def _updating(observer: Observer):  # type: ignore[no-untyped-def]
    def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        observer.update(inputs[0])

    return hook


def _scale_and_grid(observer: Observer, bits: int) -> tuple[torch.Tensor, Grid]:
    """The scale, and for fewer bits than INT8 carries also the window of integers that fits best.

    A window such as [−1, 14] for the output of GELU spends its levels where the values are, and its
    zero point is still 0.
    """
    if bits == 8 or not isinstance(observer, MSEObserver):
        grid = Grid.signed(bits)
        return observer.scale(grid), grid
    windows = [Grid.shifted(bits, low) for low in range(-(2 ** (bits - 1)), 1)]
    scales = [observer.scale(grid) for grid in windows]
    errors = [observer.error(scale, grid) for scale, grid in zip(scales, windows, strict=True)]
    best = min(range(len(windows)), key=errors.__getitem__)
    return scales[best], windows[best]
