"""Quantisers in place: which layers, what migration and rounding leave and improve."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from mimiq.config.precision import FLOAT, FP32, Precision, from_bits, int4, int8, weight_only
from mimiq.errors import BadInput
from mimiq.models import LoadedModel, quantizable_layers
from mimiq.quantize.equalization import migrate_outliers
from mimiq.quantize.fake_quant import Grid, Quantizer
from mimiq.quantize.gptq import element_scales, gptq
from mimiq.quantize.insert import RangeRecipe, quantize
from mimiq.quantize.layers import QuantConv2d, QuantLinear, quant_layers
from mimiq.quantize.store import load_quantized, save_quantized

_PLAIN = RangeRecipe("minmax", rotate=False, migrate=False, refit=False, rounding="nearest")


def test_every_layer_and_both_attention_products_are_quantised(
    small_vit: LoadedModel, images: torch.Tensor
) -> None:
    module = quantize(small_vit, int8(), images, _PLAIN).module
    layers = quant_layers(module)
    assert list(layers) == list(quantizable_layers(small_vit.module))
    for name, layer in layers.items():
        assert isinstance(layer.weight_quantizer, Quantizer), name
        assert isinstance(layer.input_quantizer, Quantizer) == (name != "patch_embed.proj"), name
    for attention in small_vit.family.attentions(module):
        for point in ("q", "k", "v", "probs"):
            assert isinstance(getattr(attention, f"{point}_quantizer"), Quantizer), point
        assert attention.probs_quantizer.grid == Grid(0, 127)


def test_float_layers_stay_as_they_are(small_vit: LoadedModel, images: torch.Tensor) -> None:
    precision = int8().with_override("blocks.0.*", FLOAT)
    module = quantize(small_vit, precision, images, _PLAIN).module
    assert not any(name.startswith("blocks.0.") for name in quant_layers(module))
    untouched = quantize(small_vit, FP32, images, _PLAIN).module
    assert torch.equal(untouched(images), small_vit.module(images))


@pytest.mark.parametrize(
    ("precision", "limit"),
    [(int8(), 0.06), (int4(), 0.25), (weight_only(4, 32), 0.25), (from_bits(6, 6), 0.15)],
)
def test_quantised_logits_stay_close(
    small_vit: LoadedModel, images: torch.Tensor, precision: Precision, limit: float
) -> None:
    expected = small_vit.module(images)
    found = quantize(small_vit, precision, images, RangeRecipe("minmax")).module(images)
    error = float((found - expected).norm() / expected.norm())
    assert 0 < error < limit


def test_the_original_is_left_alone(small_vit: LoadedModel, images: torch.Tensor) -> None:
    before = copy.deepcopy(small_vit.module.state_dict())
    quantize(small_vit, int4(), images)
    after = small_vit.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(("precision", "places"), [(int8(), 4), (weight_only(4, 32), 6)])
def test_migration_keeps_the_function_and_lowers_the_error(
    small_vit: LoadedModel, images: torch.Tensor, precision: Precision, places: int
) -> None:
    """From both norms of both blocks, and for floating-point activations from values to proj."""
    module = copy.deepcopy(small_vit.module)
    places_named = small_vit.family.migrations(module)
    precision = precision.placed(small_vit.family.roles(module))
    results = migrate_outliers(module, places_named, precision, images)
    assert len(results) == places
    assert any(result.strength > 0 for result in results)
    assert all(result.error <= 1 for result in results)
    torch.testing.assert_close(module(images), small_vit.module(images), rtol=1e-3, atol=1e-4)


def test_compensated_rounding_beats_nearest_on_the_layers_output() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(512, 32) @ torch.randn(32, 32)
    weight = torch.randn(16, 32)
    quantizer = Quantizer(weight.abs().amax(1) / 7, Grid.signed(4), 0)
    rounded = gptq(weight, inputs.T @ inputs, element_scales(quantizer, weight), quantizer.grid)
    assert torch.equal(quantizer(rounded), rounded)
    error = (inputs @ (rounded - weight).T).norm()
    nearest = (inputs @ (quantizer(weight) - weight).T).norm()
    assert error < 0.8 * nearest


def test_rows_of_two_weights_are_rounded_as_each_alone() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(512, 32) @ torch.randn(32, 32)
    hessian, grid = inputs.T @ inputs, Grid.signed(4)
    weights = [torch.randn(16, 32), torch.randn(16, 32)]
    scales = [(w.abs().amax(1, keepdim=True) / 7).expand_as(w) for w in weights]
    together = gptq(torch.cat(weights), hessian, torch.cat(scales), grid)
    alone = [gptq(w, hessian, s, grid) for w, s in zip(weights, scales, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_gptq_rounds_weights_of_several_inputs_side_by_side() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(3, 512, 80) @ torch.randn(3, 80, 80)
    weights, grid = torch.randn(3, 16, 80), Grid.signed(4)
    scales = (weights.abs().amax(2, keepdim=True) / 7).expand_as(weights)
    hessians = inputs.transpose(1, 2) @ inputs
    together = gptq(weights, hessians, scales, grid)
    for found, *given in zip(together, weights, hessians, scales, strict=True):
        # A product of another size is summed in another order: a tie may fall on the other side.
        assert float((found != gptq(*given, grid)).float().mean()) < 0.01


def test_gptq_takes_inputs_that_are_never_used() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(64, 8)
    inputs[:, 3] = 0
    scales = torch.full((4, 8), 0.1)
    rounded = gptq(torch.randn(4, 8), inputs.T @ inputs, scales, Grid.signed(4))
    assert torch.isfinite(rounded).all()


def test_block_that_does_not_divide_is_named(small_vit: LoadedModel, images: torch.Tensor) -> None:
    with pytest.raises(BadInput, match=r"Block size 48 does not divide the 64 inputs of blocks\.0"):
        quantize(small_vit, weight_only(4, 48), images)


def test_four_bit_activations_get_the_window_that_fits(
    small_vit: LoadedModel, images: torch.Tensor
) -> None:
    module = quantize(small_vit, from_bits(4, 4), images).module
    after_gelu = module.get_submodule("blocks.0.mlp.fc2.input_quantizer")
    assert isinstance(after_gelu, Quantizer)
    assert after_gelu.grid.count == 16
    assert after_gelu.grid.qmin > -4


def test_saved_state_computes_the_same(
    small_vit: LoadedModel, images: torch.Tensor, tmp_path: Path
) -> None:
    for precision in (int4(), from_bits(4, 4), weight_only(4, 32)):
        quantized = quantize(small_vit, precision, images)
        folder = tmp_path / precision.label
        folder.mkdir()
        save_quantized(quantized, folder)
        loaded = load_quantized(small_vit, folder)
        assert loaded.precision == quantized.precision
        assert torch.equal(loaded.module(images), quantized.module(images))
        kinds = {type(layer) for layer in quant_layers(loaded.module).values()}
        assert kinds == {QuantLinear, QuantConv2d}


def test_damaged_state_is_refused(small_vit: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no readable quantised network"):
        load_quantized(small_vit, tmp_path)
