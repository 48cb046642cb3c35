"""Outlier columns: the few inputs of a Linear that would ruin its integers, found by output error.

Trained vision transformers have massive activations (Sun et al., COLM 2024): one hidden unit
thirty times as large as all others, at a few tokens of every image. One scale for the tensor then
leaves the other units a handful of integers, and the rounding error of the unit's own weights
counts thirty times. Such a column is computed in floating point beside the integers
(:class:`mimiq.quantize.layers.QuantLinear`), which leaves the function as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from mimiq.calibrate.weight_scale import mse_weight_scale
from mimiq.config.precision import LayerPrecision, Precision
from mimiq.models import quantizable_layers
from mimiq.models.family import Family
from mimiq.quantize.fake_quant import Grid, fake_quantize_to, weight_axis
from mimiq.quantize.hooks import evenly_spread
from mimiq.quantize.importance import weighed_inputs
from mimiq.quantize.layers import without_columns

IMAGES = 64  # at most; massive activations stand at the same units in every image
MOST = 8  # columns a Linear: each is a product of its own
SHARE = 0.05  # of a network's Linears, one at least
WORTH = 0.05  # of the error of all Linears together must go
_HALF = 0.5  # of the Linear's own must
_SLACK = 1.25  # errors up to this many times the least count as equally good
_FRACTIONS = (1.0, 0.7, 0.5, 0.35, 0.25)  # of the exact range, as a scale may be
_ROWS = 64  # of each batch's that are kept


@dataclass(frozen=True)
class Outliers:
    """The outlier columns of one Linear.

    Attributes:
        layer: module name.
        columns: indices of its inputs, ascending.
        error: of the logits, over their variance, that rounding this Linear to nearest causes; to
            first order, see :func:`mimiq.quantize.importance.weighed_inputs`.
        left: the same with the columns in floating point.
    """

    layer: str
    columns: tuple[int, ...]
    error: float
    left: float


@dataclass(frozen=True)
class Survey:
    """What rounding would do to each Linear alone.

    Attributes:
        errors: of the logits, over their variance, that rounding each Linear to nearest causes to
            first order, outlier columns in floating point; by module name.
        outliers: the Linears that lose most to a few of their inputs, worst first.
    """

    errors: Mapping[str, float]
    outliers: tuple[Outliers, ...]

    @property
    def columns(self) -> dict[str, tuple[int, ...]]:
        """The outlier columns by the Linear's name."""
        return {found.layer: found.columns for found in self.outliers}


def survey(
    family: Family,
    module: nn.Module,
    precision: Precision,
    images: torch.Tensor,
    *,
    find: bool = True,
) -> Survey:
    """Look for the Linears that lose most to a few of their inputs: at most one in twenty.

    What quantised heads put out stays whole: TensorRT would not fuse that attention any more.

    Args:
        family: of the network.
        module: the network in floating point, in the basis it will be quantised in.
        precision: which of its Linears are quantised, and how.
        images: (B, C, H, W), normalised.
        find: whether any column may be an outlier.
    """
    linears = {
        name: layer
        for name, layer in quantizable_layers(module).items()
        if isinstance(layer, nn.Linear) and not precision.of(name).is_float
    }
    names = {part: name for name, part in module.named_modules()}
    heads = {
        names[attention.proj]
        for attention in family.attentions(module)
        if precision.attention_of(names[attention]) is not None
    }
    if not linears:
        return Survey({}, ())
    seen = {name: _Inputs(layer.weight) for name, layer in linears.items()}
    chosen = images[evenly_spread(len(images), IMAGES)]
    weighed_inputs(module, linears, chosen, lambda name, x, w: seen[name].update(x, w))
    with torch.no_grad():
        errors = {
            name: _error(layer.weight.float(), precision.of(name), seen[name], ())
            for name, layer in linears.items()
        }
        least = WORTH * sum(errors.values())
        found = [
            outliers
            for name, layer in linears.items()
            if find
            and name not in heads
            and errors[name] > least
            and (outliers := _worth_it(name, layer, precision.of(name), seen[name], errors[name]))
            and outliers.error - outliers.left > least
        ]
    found.sort(key=lambda outliers: outliers.left - outliers.error)
    found = found[: max(1, math.floor(SHARE * len(linears)))]
    return Survey(errors | {each.layer: each.left for each in found}, tuple(found))


class _Inputs:
    """What is kept of a Linear's inputs, every row weighed by what its errors do to the logits.

    Attributes:
        largest: fp32 (in,), the largest magnitude of each column.
        power: fp32 (in,), the weighed sum of each column's squares.
        rows, weights: some rows (n, in), and for each (n,) the weight of those it stands for.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        self.largest = torch.zeros(weight.shape[1], device=weight.device)
        self.power = torch.zeros_like(self.largest)
        self._rows: list[torch.Tensor] = []
        self._weights: list[torch.Tensor] = []

    def update(self, rows: torch.Tensor, weights: torch.Tensor) -> None:
        self.largest = torch.maximum(self.largest, rows.abs().amax(0))
        self.power += weights @ rows.square()
        chosen = torch.as_tensor(evenly_spread(len(rows), _ROWS), device=rows.device)
        self._rows.append(rows[chosen])
        self._weights.append(weights[chosen] * (len(rows) / len(chosen)))

    @property
    def rows(self) -> torch.Tensor:
        return torch.cat(self._rows)

    @property
    def weights(self) -> torch.Tensor:
        return torch.cat(self._weights)


def _worth_it(
    name: str, linear: nn.Linear, layer: LayerPrecision, seen: _Inputs, whole: float
) -> Outliers | None:
    """The fewest columns without which the error is about as small as it gets, if that pays.

    From all that may be outliers, the one that matters least goes back to the integers, and again:
    of two columns that set the same range, neither is worth anything alone.

    Args:
        whole: the error with none of them apart.
    """
    weight = linear.weight.float()
    columns = _candidates(weight, layer, seen)
    least = _error(weight, layer, seen, columns)
    if least > _HALF * whole:
        return None
    best = columns, least
    while columns:
        fewer = [tuple(c for c in columns if c != column) for column in columns]
        errors = [_error(weight, layer, seen, each) for each in fewer]
        columns, error = fewer[errors.index(min(errors))], min(errors)
        if error > _SLACK * least and len(columns) < MOST:
            break
        least, best = min(least, error), (columns, error)
    if best[1] > _HALF * whole:
        return None
    return Outliers(name, tuple(sorted(best[0])), whole, best[1])


def _candidates(weight: torch.Tensor, layer: LayerPrecision, seen: _Inputs) -> tuple[int, ...]:
    """Columns that set the input's scale, or the weights', and those whose weights err most."""
    most = min(MOST, weight.shape[1] - 1)
    found: list[int] = []
    if layer.activation_bits is not None:
        found += seen.largest.argsort(descending=True)[:most].tolist()
    if layer.weight_bits is not None:
        weighed = seen.power * _weight_error(weight, layer).square().sum(0)
        found += weighed.argsort(descending=True)[:most].tolist()
        found += weight.norm(dim=0).argsort(descending=True)[:most].tolist()
    return tuple(dict.fromkeys(found))


def _error(
    weight: torch.Tensor, layer: LayerPrecision, seen: _Inputs, columns: tuple[int, ...]
) -> float:
    """Mean squared error of the output with these columns in floating point."""
    kept = without_columns(weight, columns)
    total = 0.0
    if layer.weight_bits is not None:
        error = _weight_error(kept, layer)
        total += float(error.square().sum(0) @ seen.power)
    if layer.activation_bits is not None:
        grid = Grid.signed(layer.activation_bits)
        rows = without_columns(seen.rows, columns)
        exact = without_columns(seen.largest, columns).max() / grid.qmax
        errors = (fake_quantize_to(rows, exact * share, grid) - rows for share in _FRACTIONS)
        total += min(float((error @ kept.T).square().sum(1) @ seen.weights) for error in errors)
    return total


def _weight_error(weight: torch.Tensor, layer: LayerPrecision) -> torch.Tensor:
    assert layer.weight_bits is not None
    grid = Grid.weight(layer.weight_bits)
    axis, block = weight_axis(layer.granularity)
    scale = mse_weight_scale(weight, grid, axis, block, candidates=6)
    return fake_quantize_to(weight, scale, grid, axis, block) - weight
