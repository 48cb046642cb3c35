"""Where scales come from: the softmax output's search, windows, and independence of batches."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mimiq.calibrate.ranges import activation_quantizers, two_sided_grids, two_step_grids
from mimiq.config.precision import from_bits, int8
from mimiq.models import ExplicitAttention
from mimiq.models.families.vit import ViTFamily
from mimiq.quantize.fake_quant import Grid, Quantizer, fake_quantize
from mimiq.quantize.insert import swap_layers
from mimiq.quantize.layers import quant_layers


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """One block, untrained."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    original = VisionTransformer(
        img_size=32, patch_size=4, embed_dim=64, depth=1, num_heads=2, num_classes=10
    )
    return ViTFamily().rewrite(original)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _quantized(network: nn.Module, images: torch.Tensor, bits: int, batch: int = 16) -> nn.Module:
    module = copy.deepcopy(network)
    precision = from_bits(bits, bits, uniform=True).placed(ViTFamily().roles(module))
    swap_layers(module, precision)
    activation_quantizers(ViTFamily(), module, precision, images, "minmax", batch)
    return module


def _scales(module: nn.Module) -> dict[str, float]:
    return {
        name: float(part.scale)
        for name, part in module.named_modules()
        if isinstance(part, Quantizer) and part.scale.ndim == 0
    }


def test_minmax_scale_covers_what_was_seen(network: nn.Module, images: torch.Tensor) -> None:
    module = _quantized(network, images, 8)
    seen: list[torch.Tensor] = []
    layer = quant_layers(module)["blocks.0.attn.qkv"]
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    plain = copy.deepcopy(network)
    plain.get_submodule("blocks.0.attn.qkv").register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    plain(images)
    assert isinstance(layer.input_quantizer, Quantizer)
    scale = float(layer.input_quantizer.scale.detach())
    demanded = max(float(seen[0].max()) / 127, -float(seen[0].min()) / 128)
    # The patch embedding's INT8 weights move the activations a little.
    assert scale == pytest.approx(demanded, rel=0.05)


def test_softmax_scale_beats_the_whole_range(network: nn.Module, images: torch.Tensor) -> None:
    module = _quantized(network, images, 8)
    attention = ViTFamily().attentions(module)[0]
    assert isinstance(attention, ExplicitAttention)
    quantizer = attention.probs_quantizer
    assert isinstance(quantizer, Quantizer)
    assert quantizer.grid == Grid(0, 127)
    # Untrained attention is nearly even over 65 tokens: covering 1 would round it all away.
    assert float(quantizer.scale.detach()) < 1 / 127 / 4
    probs = torch.full((1, 65), 1 / 65)
    chosen = fake_quantize(probs, quantizer.scale, 0, 127, -1, 0) - probs
    covering = fake_quantize(probs, torch.tensor(1 / 127), 0, 127, -1, 0) - probs
    assert chosen.abs().max() < covering.abs().max()


def test_scales_do_not_depend_on_the_batch_size(network: nn.Module, images: torch.Tensor) -> None:
    whole, split = (
        _scales(_quantized(network, images, 8)),
        _scales(_quantized(network, images, 8, batch=2)),
    )
    for name, scale in whole.items():
        if "probs" not in name:  # looks at the first two images of each batch
            assert split[name] == pytest.approx(scale, rel=1e-5), name


def test_four_bits_use_all_sixteen_levels(network: nn.Module, images: torch.Tensor) -> None:
    module = _quantized(network, images, 4)
    for part in module.modules():
        if isinstance(part, Quantizer) and part.scale.ndim == 0:
            assert part.grid.count == 16


def test_two_steps_serve_where_one_cannot(network: nn.Module, images: torch.Tensor) -> None:
    """Peaks beside many small values: attention to one token among even attention to the rest."""
    module = copy.deepcopy(network)
    module.get_submodule("blocks.0.attn.qkv").weight[:128].mul_(8)
    module.get_submodule("blocks.0.mlp.fc1").weight.mul_(20)
    precision = from_bits(8, 4, uniform=True).placed(ViTFamily().roles(module))
    swap_layers(module, precision)
    one_sided = {"blocks.0.attn.probs_quantizer", "blocks.0.mlp.fc2.input_quantizer"}
    errors: dict[str, list[float]] = {name: [] for name in one_sided}
    for two_steps in (False, True):
        part = copy.deepcopy(module)
        activation_quantizers(ViTFamily(), part, precision, images, "output", two_steps=two_steps)
        points = {
            name: point
            for name, point in part.named_modules()
            if isinstance(point, Quantizer) and point.scale.ndim == 0
        }
        assert all(point.grid.count == 16 and point.grid.top <= 127 for point in points.values())
        assert two_steps or not any(point.grid.has_two_steps for point in points.values())
        found = {name for name, p in points.items() if p.grid.coarse and not p.grid.below}
        assert found == (one_sided if two_steps else set())
        for name, alone in errors.items():
            for other, point in points.items():
                part.set_submodule(other, point if other == name else nn.Identity())
            alone.append(float((part(images) - module(images)).square().mean()))
    assert all(two < 0.8 * one for one, two in errors.values())


@pytest.mark.parametrize("bits", range(2, 9))
def test_grids_of_two_steps_hold_as_many_integers_as_the_bits(bits: int) -> None:
    for low in range(-(2 ** (bits - 1)), 1):
        for grid in two_step_grids(bits, low):
            assert grid.count == 2**bits
            assert grid.qmin == low
            assert 0 < grid.qmax < grid.top <= 127
    assert bool(two_step_grids(bits, 0)) == (bits < 7)
    for grid in two_sided_grids(bits):
        assert grid.count == len(grid.integers) == 2**bits
        assert -128 <= grid.bottom < grid.qmin <= 0 <= grid.qmax < grid.top <= 127
    assert bool(two_sided_grids(bits)) == (1 < bits < 7)


def test_heavy_tails_get_two_steps_on_both_sides(network: nn.Module, images: torch.Tensor) -> None:
    """Few channels of keys and values that are large, as in trained networks."""
    module = copy.deepcopy(network)
    module.get_submodule("blocks.0.attn.qkv").weight[64::16].mul_(4)
    precision = from_bits(8, 4, uniform=True).placed(ViTFamily().roles(module))
    swap_layers(module, precision)
    activation_quantizers(ViTFamily(), module, precision, images, "output")
    attention = module.get_submodule("blocks.0.attn")
    for name in ("k_quantizer", "v_quantizer"):
        grid = attention.get_submodule(name).grid
        assert grid.coarse == grid.below > 0
        assert grid.count == 16


def test_the_output_of_gelu_gets_a_window_of_its_own(
    network: nn.Module, images: torch.Tensor
) -> None:
    """GELU ends at −0.17: of a symmetric INT8 half the integers would never be used."""
    module = copy.deepcopy(network)
    # Untrained weights hardly leave the part of GELU that is a straight line.
    module.get_submodule("blocks.0.mlp.fc1").weight.mul_(20)
    precision = int8().placed(ViTFamily().roles(module))
    swap_layers(module, precision)
    activation_quantizers(ViTFamily(), module, precision, images, "output")
    grids = {
        name: layer.input_quantizer.grid
        for name, layer in quant_layers(module).items()
        if isinstance(layer.input_quantizer, Quantizer)
    }
    gelu = grids.pop("blocks.0.mlp.fc2")
    assert gelu.qmin > -128
    assert gelu.qmax - gelu.qmin == 255
    assert set(grids.values()) == {Grid.signed(8)}
