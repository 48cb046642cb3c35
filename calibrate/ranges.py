"""Activation ranges: which points of a network are observed, and the scale each one gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import nn

from mimiq.calibrate.observers import OBSERVERS, MinMaxObserver, MSEObserver, Observer
from mimiq.calibrate.output_error import SLACK, OutputErrorObserver
from mimiq.config.precision import Precision
from mimiq.models.attention import ExplicitAttention
from mimiq.models.family import Family
from mimiq.quantize.fake_quant import Grid, Quantizer, fake_quantize_to
from mimiq.quantize.layers import QuantConv2d, QuantLinear, without_columns

ObserverName = Literal["minmax", "percentile", "mse", "entropy", "output"]

# Of a grid of two steps: the share of the integers of one sign that the coarse step takes, and how
# many fine steps it holds. Values on one side have longer tails than those around zero.
_COARSE_SHARES = (0.4, 0.5, 0.6, 0.7)
_RATIOS = (2, 3, 4, 6, 8, 12, 15)
_TWO_SIDED_SHARES = (0.25, 0.4, 0.5, 0.6)
_TWO_SIDED_RATIOS = (2, 3, 4)
_WORTH_A_SUBTRACTION = 0.5  # of the error of INT8's own window


@torch.no_grad()
def activation_quantizers(
    family: Family,
    module: nn.Module,
    precision: Precision,
    images: torch.Tensor,
    observer: ObserverName = "output",
    batch_size: int = 16,
    *,
    two_steps: bool = True,
) -> None:
    """Fill every activation's quantiser point of ``module`` in place.

    One pass over ``images`` (B, C, H, W); memory does not grow with their number. Weight quantisers
    that are already there take part, so that the ranges are those of the quantised network.

    Args:
        observer: ``output`` judges the inputs of Linears by the error of the output.
        two_steps: below 7 bits let activations have grids of two steps where those fit better.
    """
    points = list(_points(family, module, precision))
    seen = [_observer_for(observer, parent, width) for parent, _, width in points]
    searches = {
        attention: _ProbsSearch(
            _probs_grids(bits, two_steps, attention.mixes_heads),
            attention.windows,
            attention.mixes_heads,
        )
        for attention, bits in _attentions(family, module, precision)
    }
    with ExitStack() as hooks:
        for (parent, attribute, _), one in zip(points, seen, strict=True):
            point = getattr(parent, attribute)
            outliers = parent.outliers if isinstance(parent, QuantLinear) else ()
            hooks.callback(point.register_forward_pre_hook(_updating(one, outliers)).remove)
        for attention, search in searches.items():
            hooks.enter_context(search.watching(attention))
        for start in range(0, len(images), batch_size):
            module(images[start : start + batch_size])
    for (parent, attribute, width), one in zip(points, seen, strict=True):
        scale, grid = _scale_and_grid(one, width, two_steps)
        setattr(parent, attribute, Quantizer(scale.to(images.device), grid))
    for attention, search in searches.items():
        scale, grid = search.best()
        attention.probs_quantizer = Quantizer(scale.to(images.device), grid)


class _ProbsSearch:
    """The softmax output's scale with the least error of what the heads put out.

    Of some 200 probabilities most are far below 1/127: a scale that covers 1 rounds them away, and
    a small one cuts the few peaks. Which matters more depends on the values v that they weigh, so
    the candidates are judged by ``softmax · v``. With fewer than 8 bits no single step serves both.
    """

    def __init__(self, grids: list[Grid], windows: int, mixed: bool = False) -> None:
        self._rows = 2 * windows  # two images a batch: each has heads × tokens² probabilities
        self._every = 1 if len(grids) == 1 else 4  # of many grids, every fourth query tells enough
        most = 8 if mixed else 1  # what heads that are mixed may reach
        self.candidates = [  # down to 1/16 of the scale that covers 1
            (most / grid.top / 2 ** (step / 4), grid)
            for grid in grids
            for step in range(29 if mixed else 17)
        ]
        self.errors = torch.zeros(len(self.candidates), dtype=torch.float64)
        self._v: torch.Tensor | None = None

    def watching(self, attention: ExplicitAttention) -> ExitStack:
        """A context in which every forward of ``attention`` counts."""
        hooks = ExitStack()
        hooks.callback(attention.v_quantizer.register_forward_hook(self._see_v).remove)
        hooks.callback(attention.probs_quantizer.register_forward_hook(self._see_probs).remove)
        return hooks

    def best(self) -> tuple[torch.Tensor, Grid]:
        grid = self.candidates[int(self.errors.argmin())][1]
        # The largest of those scales that are about as good: real attention has higher peaks.
        good = self.errors <= SLACK * self.errors.min()
        scales = [
            s for (s, g), fits in zip(self.candidates, good, strict=True) if fits and g == grid
        ]
        return torch.tensor(max(scales)), grid

    def _see_v(self, _module: nn.Module, _inputs: Any, v: torch.Tensor) -> None:
        self._v = v

    def _see_probs(self, _module: nn.Module, _inputs: Any, probs: torch.Tensor) -> None:
        assert self._v is not None
        probs = probs[: self._rows, :, :: self._every].float()
        v = self._v[: self._rows].float()
        for index, (scale, grid) in enumerate(self.candidates):
            rounded = fake_quantize_to(probs, torch.tensor(scale, device=probs.device), grid)
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


def _updating(
    observer: Observer, outliers: tuple[int, ...]
) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
    def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        x = inputs[0]
        if outliers:  # whose integers meet no weight
            x = without_columns(x, outliers)
        observer.update(x)

    return hook


def _scale_and_grid(observer: Observer, bits: int, two_steps: bool) -> tuple[torch.Tensor, Grid]:
    """The scale, and the grid that fits best: a window of integers, or one with two steps.

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
    lows = (-64, -32, -16, -8) if bits == 8 else range(symmetric.qmin + 1, 1)
    windows = [Grid(low, low + 2**bits - 1) for low in lows]
    best, least = _best_grid(observer, windows, best, least)
    low = best[1].qmin
    if two_steps and low < symmetric.qmin // 2:
        best, least = _best_grid(observer, two_sided_grids(bits), best, least)
    elif two_steps:
        lows = range(max(low - 2, symmetric.qmin), min(low + 1, 0) + 1)
        grids = [grid for low in lows for grid in two_step_grids(bits, low)]
        best, least = _best_grid(observer, grids, best, least)
    return best


def _best_grid(
    observer: MSEObserver | OutputErrorObserver,
    grids: Iterable[Grid],
    best: tuple[torch.Tensor, Grid],
    least: float,
) -> tuple[tuple[torch.Tensor, Grid], float]:
    """Scale and grid of the least error, and that error; what they were where none is better."""
    for grid in grids:
        scale = observer.scale(grid)
        if (error := observer.error(scale, grid)) < least:
            best, least = (scale, grid), error
    return best, least


def _probs_grids(bits: int, two_steps: bool, mixed: bool = False) -> list[Grid]:
    if mixed:
        return [Grid.signed(bits)]
    return [Grid.shifted(bits, 0), *(two_step_grids(bits, 0) if two_steps else ())]


def two_step_grids(bits: int, low: int) -> list[Grid]:
    """Grids of 2^bits integers from ``low`` on, a share of them further apart; all within INT8.

    None for 7 bits and more, which leave no room for a coarse step in INT8.
    """
    above = 2**bits - 1 + low
    grids = [
        Grid(low, above - coarse, ratio, coarse)
        for coarse in sorted({round(share * above) for share in _COARSE_SHARES})
        for ratio in _RATIOS
    ]
    return [grid for grid in grids if grid.top <= 127 and 0 < grid.coarse < above]


def two_sided_grids(bits: int) -> list[Grid]:
    """Grids of 2^bits integers around 0, a share of them further apart at both ends.

    None for 7 bits and more, of which few would be gained.
    """
    half = 2 ** (bits - 1)
    return [
        Grid(coarse - half, half - coarse - 1, ratio, coarse, coarse)
        for coarse in sorted({max(1, round(share * half)) for share in _TWO_SIDED_SHARES})
        for ratio in _TWO_SIDED_RATIOS
        if bits < 7 and coarse < half
    ]
