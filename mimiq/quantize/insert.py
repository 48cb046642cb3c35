"""From a trained network to its simulated quantised form: quantisers in place, ranges observed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn

from mimiq.calibrate.images import Images, network_input
from mimiq.calibrate.ranges import ObserverName, activation_quantizers
from mimiq.calibrate.weight_scale import mse_weight_scale
from mimiq.config.precision import Block, LayerPrecision, Precision
from mimiq.errors import BadInput
from mimiq.models import LoadedModel, quantizable_layers
from mimiq.models.family import Stream
from mimiq.models.precisions import precision_for
from mimiq.progress import SILENT_STAGE, Stage
from mimiq.quantize.centring import centre
from mimiq.quantize.equalization import MigrationResult, migrate_outliers
from mimiq.quantize.fake_quant import Grid, Quantizer, weight_axis
from mimiq.quantize.layers import QuantConv2d, QuantLayer, QuantLinear, without_columns
from mimiq.quantize.layerwise import Fit, reconstruct
from mimiq.quantize.outliers import Outliers, survey
from mimiq.quantize.rotation import rotate


@dataclass(frozen=True)
class RangeRecipe:
    """How scales are found before distillation.

    Attributes:
        observer: how an activation's range becomes a scale.
        two_steps: below 7 bits let activations have grids of two steps.
        rotate: turn the network into a basis without outlier channels first.
        centre: in that basis, take from LayerNorm outputs what all tokens share.
        migrate: where its stream cannot be turned, move outliers of activations into weights.
        refit: fit weights, layer by layer, to what the original computes there.
        importance: tokens count in the fit by what their errors do to the answer.
        outliers: compute the few columns that would ruin a Linear's integers in floating point.
        rounding: ``nearest``, or ``compensated`` (GPTQ) for weights of fewer than 8 bits.
    """

    observer: ObserverName = "output"
    two_steps: bool = True
    rotate: bool = True
    centre: bool = True
    migrate: bool = True
    refit: bool = True
    importance: bool = True
    outliers: bool = True
    rounding: Literal["nearest", "compensated"] = "compensated"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class QuantizedModel:
    """A simulated quantised network.

    Attributes:
        module: quantisers in place; maps images to logits as the original does.
        model: the network it was made from.
        precision: what was asked for.
        migrations: what outlier migration chose.
        outliers: the Linears with columns in floating point.
        errors: what rounding each Linear does to the logits, see
            :class:`mimiq.quantize.outliers.Survey`.
        fits: what the layer-wise fit chose for each Linear.
    """

    module: nn.Module
    model: LoadedModel
    precision: Precision
    migrations: list[MigrationResult] = field(default_factory=list)
    outliers: tuple[Outliers, ...] = ()
    errors: Mapping[str, float] = field(default_factory=dict)
    fits: list[Fit] = field(default_factory=list)


def quantize(
    model: LoadedModel,
    precision: Precision | str,
    images: Images,
    recipe: RangeRecipe = RangeRecipe(),
    progress: Callable[[str], None] = lambda _: None,
    stage: Stage = SILENT_STAGE,
) -> QuantizedModel:
    """Insert quantisers and find their scales.

    Args:
        model: left as it is.
        precision: which layers, how many bits, as a value or by its name; placed in the network
            here, where that was not done.
        images: a calibration set, or pixels: uint8 (B, H, W, C). Normalised images, float32
            (B, C, H, W), are worked on where they are.
        recipe: how scales are found.
        progress: told the name of each step as it begins.
        stage: told how many layers are fitted, which is what takes long.

    Raises:
        BadInput: a block size does not divide a layer's input size, the precision's name is
            unknown, or the images do not suit the network.
    """
    images = network_input(images, model.preprocessing)
    precision = precision_for(model, precision).placed(model.family.roles(model.module))
    _check_blocks(model.module, precision)
    module = copy.deepcopy(model.module).to(images.device)
    migrations = spread_outliers(model, module, precision, images, recipe, progress)
    reference = copy.deepcopy(module)
    progress("outlier columns")
    found = survey(model.family, module, precision, images, find=recipe.outliers)
    progress("weight scales")
    swap_layers(module, precision, found.columns)
    progress("activation ranges")
    activation_quantizers(
        model.family, module, precision, images, recipe.observer, two_steps=recipe.two_steps
    )
    compensate, fits = recipe.rounding == "compensated", []
    if recipe.refit or compensate:
        progress("fitting weights")
        fits = reconstruct(
            model.family,
            reference,
            module,
            precision,
            images,
            refit=recipe.refit,
            compensate=compensate,
            importance=recipe.importance,
            stage=stage,
        )
    module.requires_grad_(False)
    return QuantizedModel(module, model, precision, migrations, found.outliers, found.errors, fits)


def spread_outliers(
    model: LoadedModel,
    module: nn.Module,
    precision: Precision,
    images: torch.Tensor,
    recipe: RangeRecipe,
    progress: Callable[[str], None] = lambda _: None,
) -> list[MigrationResult]:
    """Rewrite ``module``, a copy of the model's, in place: the same function, fewer outliers."""
    turned: list[Stream] = []
    if recipe.rotate:
        progress("rotating")
        turned = rotate(model.family, module)
        if recipe.centre:
            for stream in turned:
                centre(module, stream, images)
    # A network whose norms all read turned streams has no outliers left to migrate.
    norms = {norm for stream in turned for norm, _ in stream.readers}
    places = [place for place in model.family.migrations(module) if place.producer not in norms]
    if turned and not any(isinstance(place.producer, nn.LayerNorm) for place in places):
        return []
    if not recipe.migrate:
        return []
    progress("migrating outliers")
    return migrate_outliers(module, places, precision, images)


def swap_layers(
    module: nn.Module,
    precision: Precision,
    outliers: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> None:
    """Replace each layer that is to be quantised by its quantised form; weight scales by MSE.

    Args:
        outliers: columns that stay in floating point, by the Linear's name.
    """
    for name, layer in quantizable_layers(module).items():
        layer_precision = precision.of(name)
        if layer_precision.is_float:
            continue
        columns = outliers.get(name, ())
        integers = without_columns(layer.weight, columns) if columns else layer.weight
        quantizer = _weight_quantizer(integers, layer_precision)
        swapped: QuantLayer = (
            QuantLinear(layer, quantizer, columns)
            if isinstance(layer, nn.Linear)
            else QuantConv2d(layer, quantizer)
        )
        module.set_submodule(name, swapped)


def _weight_quantizer(weight: torch.Tensor, layer: LayerPrecision) -> nn.Module:
    if layer.weight_bits is None:
        return nn.Identity()
    axis, block = weight_axis(layer.granularity)
    grid = Grid.weight(layer.weight_bits)
    return Quantizer(mse_weight_scale(weight, grid, axis, block), grid, axis, block)


def _check_blocks(module: nn.Module, precision: Precision) -> None:
    for name, layer in quantizable_layers(module).items():
        granularity = precision.of(name).granularity
        if not isinstance(granularity, Block) or precision.of(name).weight_bits is None:
            continue
        size = granularity.size
        inputs = layer.weight.shape[1]
        if layer.weight.ndim != 2 or size < 1 or inputs % size:
            raise BadInput(
                f"Block size {size} does not divide the {inputs} inputs of {name}.",
                "Choose a `block_size` that divides them (32 and 64 suit most ViTs).",
            )
