"""Outlier migration: move per-channel factors of an activation into the weights around it.

A per-tensor activation scale wastes its levels when few channels are large. Dividing the producer's
channels by s and multiplying the consumer's input columns by s leaves the network as it was (Xiao
et al., SmoothQuant, ICML 2023, equation 3; for LayerNorm Li et al., RepQ-ViT, ICCV 2023, section
3.3). The strength of the migration is searched per layer for the smallest output error, as Lin et
al., AWQ, MLSys 2024, section 3.2, do for weights alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from mimiq.calibrate.weight_scale import mse_weight_scale
from mimiq.config.precision import LayerPrecision, Precision
from mimiq.models import Migration, quantizable_layers
from mimiq.quantize.fake_quant import Grid, fake_quantize_to, weight_axis
from mimiq.quantize.hooks import sample_inputs

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)


@dataclass(frozen=True)
class MigrationResult:
    """What was chosen at one place.

    Attributes:
        layer: the consumer's module name.
        strength: 0 leaves the activation as it is, 1 makes all its channels equally large.
        error: output mean squared error of the quantised layer relative to strength 0.
    """

    layer: str
    strength: float
    error: float


@torch.no_grad()
def migrate_outliers(
    module: nn.Module, places: Iterable[Migration], precision: Precision, images: torch.Tensor
) -> list[MigrationResult]:
    """Rescale ``module`` in place; its function does not change.

    Args:
        module: not yet quantised.
        places: of ``module``.
        images: (B, C, H, W), normalised.
    """
    names = {layer: name for name, layer in quantizable_layers(module).items()}
    worth = [
        (names[place.consumer], place)
        for place in places
        if _worth_it(place, precision.of(names[place.consumer]))
    ]
    consumers = {name: place.consumer for name, place in worth}
    inputs = sample_inputs(module, consumers, images, rows=2048)
    results = []
    for name, place in worth:
        factors, result = _search(name, place, inputs[name], precision.of(name))
        _apply(place, factors)
        results.append(result)
    return results


def _worth_it(place: Migration, layer: LayerPrecision) -> bool:
    # Factors of values come from the tokens that attention happened to choose. With INT8
    # activations they did harm on every set of images but the one they were found on: logit error
    # of DeiT-T 381 with them and 299 without on images of another recipe (in 1e-4 of the variance).
    passes_through_attention = isinstance(place.producer, nn.Linear)
    return not layer.is_float and not (layer.activation_bits and passes_through_attention)


def _search(
    name: str, place: Migration, x: torch.Tensor, layer: LayerPrecision
) -> tuple[torch.Tensor, MigrationResult]:
    """Factors (C,) with the smallest output error on tokens ``x`` (n, C)."""
    weight = place.consumer.weight
    # Weight-only error grows with an input's usual size; INT8 activations fail at its extremes.
    size = (x.abs().amax(0) if layer.activation_bits else x.abs().mean(0)).clamp_min(1e-5)
    columns = weight.abs().amax(0).clamp_min(1e-5)
    reference = x @ weight.T
    best_factors, best_strength = torch.ones_like(size), 0.0
    first = best = float("inf")
    for strength in STRENGTHS:
        if layer.activation_bits:
            factors = (
                size**strength / columns ** (1 - strength) if strength else torch.ones_like(size)
            )
        else:
            factors = size**strength
        factors = factors / (factors.max() * factors.min()).sqrt()
        error = float(
            (_quantized_output(x / factors, weight * factors, layer) - reference).square().mean()
        )
        if strength == 0:
            first = best = error
        elif error < best:
            best, best_factors, best_strength = error, factors, strength
    return best_factors, MigrationResult(name, best_strength, best / max(first, 1e-30))


def _quantized_output(x: torch.Tensor, weight: torch.Tensor, layer: LayerPrecision) -> torch.Tensor:
    if layer.activation_bits:
        grid = Grid.signed(layer.activation_bits)
        x = fake_quantize_to(x, x.abs().amax() / grid.qmax, grid)
    if layer.weight_bits:
        axis, block = weight_axis(layer.granularity)
        grid = Grid.weight(layer.weight_bits)
        # To compare strengths, a coarse search of the weight's scale is enough.
        scale = mse_weight_scale(weight, grid, axis, block, candidates=6 if grid.qmax < 64 else 2)
        weight = fake_quantize_to(weight, scale, grid, axis, block)
    return x @ weight.T


def _apply(place: Migration, factors: torch.Tensor) -> None:
    producer = place.producer
    rows = slice(*place.rows) if place.rows else slice(None)
    shape = (-1, 1) if isinstance(producer, nn.Linear) else (-1,)
    producer.weight[rows] /= factors.reshape(shape)
    if producer.bias is not None:
        producer.bias[rows] /= factors
    place.consumer.weight *= factors
