"""Activation ranges: which points of a network are observed, and the scale each one gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import nn

from mimiq.calibrate.observers import OBSERVERS, MinMaxObserver, MSEObserver, Observer
from mimiq.calibrate.output_error import SLACK, OutputErrorObserver
from mimiq.fake_quant import Grid, QuantConv2d, Quantizer, QuantLinear, fake_quantize
from mimiq.models.attention import ExplicitAttention
from mimiq.models.family import Family
from mimiq.precision import Precision

ObserverName = Literal["minmax", "percentile", "mse", "entropy", "output"]

_WORTH_A_SUBTRACTION = 0.5  # of the error of INT8's own window


@torch.no_grad()
def activation_quantizers(
    family: Family,
    module: nn.Module,
    precision: Precision,
    images: torch.Tensor,
    observer: ObserverName = "output",
    batch_size: int = 16,
) -> None:
    """Fill every activation's quantiser point of ``module`` in place.

    One pass over ``images`` (B, 3, S, S); memory does not grow with their number. Weight quantisers
    that are already there take part, so that the ranges are those of the quantised network.
    """
    points = list(_points(family, module, precision))
    seen = [_observer_for(observer, parent, width) for parent, _, width in points]
    searches = {
        attention: _ProbsSearch(Grid.shifted(bits, 0))
        for attention, bits in _attentions(family, module, precision)
    }
    with ExitStack() as hooks:
        for (parent, attribute, _), one in zip(points, seen, strict=True):
            point = getattr(parent, attribute)
            hooks.callback(point.register_forward_pre_hook(_updating(one)).remove)
        for attention, search in searches.items():
            hooks.enter_context(search.watching(attention))
        for start in range(0, len(images), batch_size):
            module(images[start : start + batch_size])
    for (parent, attribute, width), one in zip(points, seen, strict=True):
        scale, grid = _scale_and_grid(one, width)
        setattr(parent, attribute, Quantizer(scale.to(images.device), grid))
    for attention, search in searches.items():
        attention.probs_quantizer = Quantizer(search.best().to(images.device), search.grid)


class _ProbsSearch:
    """The softmax output's scale with the least error of what the heads put out.

    Of some 200 probabilities most are far below 1/127: a scale that covers 1 rounds them away, and
    a small one cuts the few peaks. Which matters more depends on the values v that they weigh, so
    the candidates are judged by ``softmax · v``.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.scales = [1 / grid.qmax / 2 ** (step / 4) for step in range(17)]  # down to 1/16 of it
        self.errors = torch.zeros(len(self.scales), dtype=torch.float64)
        self._v: torch.Tensor | None = None

    def watching(self, attention: ExplicitAttention) -> ExitStack:
        """A context in which every forward of ``attention`` counts."""
        hooks = ExitStack()
        hooks.callback(attention.v_quantizer.register_forward_hook(self._see_v).remove)
        hooks.callback(attention.probs_quantizer.register_forward_hook(self._see_probs).remove)
        return hooks

    def best(self) -> torch.Tensor:
        # The largest of those that are about as good: real attention has higher peaks.
        good = self.errors <= SLACK * self.errors.min()
        return torch.tensor(self.scales[int(good.nonzero()[0])])

    def _see_v(self, _module: nn.Module, _inputs: Any, v: torch.Tensor) -> None:
        self._v = v

    def _see_probs(self, _module: nn.Module, _inputs: Any, probs: torch.Tensor) -> None:
        assert self._v is not None
        # Two images a batch tell enough: each has heads × tokens² probabilities.
        probs, v = probs[:2].float(), self._v[:2].float()
        for index, scale in enumerate(self.scales):
            spread = torch.tensor(scale, device=probs.device)
            rounded = fake_quantize(probs, spread, self.grid.qmin, self.grid.qmax, -1, 0)
            self.errors[index] += float(((rounded - probs) @ v).square().sum())


def _points(
    family: Family, module: nn.Module, precision: Precision
) -> Iterator[tuple[nn.Module, str, int]]:
    """(parent, attribute, bits) of every quantiser point that is observed."""
    for name, layer in module.named_modules():
        bits = precision.of(name).activation_bits
        if isinstance(layer, QuantLinear | QuantConv2d) and bits is not None:
            yield layer, "input_quantizer", bits
    for attention, bits in _attentions(family, module, precision):
        for point in ("q", "k", "v"):
            yield attention, f"{point}_quantizer", bits


def _attentions(
    family: Family, module: nn.Module, precision: Precision
) -> Iterator[tuple[ExplicitAttention, int]]:
    """The attentions that are quantised, and to how many bits."""
    names = {part: name for name, part in module.named_modules()}
    for attention in family.attentions(module):
        if (bits := precision.attention_of(names[attention])) is not None:
            yield attention, bits


def _observer_for(name: ObserverName, parent: nn.Module, bits: int) -> Observer:
    if name == "output":
        if isinstance(parent, QuantLinear):
            return OutputErrorObserver(parent.weight_quantizer(parent.weight))
        return MinMaxObserver() if bits >= 7 else MSEObserver()
    # With few levels the trade between clipping and rounding decides, of which percentiles know
    # nothing.
    return OBSERVERS[name]() if bits >= 7 else MSEObserver()


def _updating(observer: Observer) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
    def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        observer.update(inputs[0])

    return hook


def _scale_and_grid(observer: Observer, bits: int) -> tuple[torch.Tensor, Grid]:
    """The scale, and the window of integers that fits best.

    A window such as [−1, 14] for the output of GELU spends its levels where the values are, and its
    zero point is still 0. At 8 bits a window leaves what INT8 carries and costs a subtraction: it
    must gain something.
    """
    symmetric = Grid.signed(bits)
    scale = observer.scale(symmetric)
    if not isinstance(observer, MSEObserver | OutputErrorObserver):
        return scale, symmetric
    best, least = (scale, symmetric), observer.error(scale, symmetric)
    least *= _WORTH_A_SUBTRACTION if bits == 8 else 1
    for low in (-64, -32, -16, -8) if bits == 8 else range(symmetric.qmin + 1, 1):
        grid = Grid(low, low + 2**bits - 1)
        scale = observer.scale(grid)
        if (error := observer.error(scale, grid)) < least:
            best, least = (scale, grid), error
    return best
