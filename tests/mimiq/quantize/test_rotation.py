"""Rotation: the same function in another basis, without the outlier channels of the first."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from mimiq.config.precision import from_bits
from mimiq.models import LoadedModel, load_model, observe_attention
from mimiq.quantize.insert import RangeRecipe, quantize
from mimiq.quantize.rotation import mean_keeping_rotation, random_rotation, rotate


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [1, 2, 7, 192])
def test_rotations_are_orthogonal(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for draw in (random_rotation, mean_keeping_rotation):
        rotation = draw(size, generator)
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(size, dtype=torch.float64))
    ones = torch.ones(size, dtype=torch.float64)
    torch.testing.assert_close(rotation @ ones, ones)


def test_the_network_stays_the_same(images: torch.Tensor) -> None:
    model = load_model("digits")
    turned = copy.deepcopy(model.module)
    assert rotate(model.family, turned)
    torch.testing.assert_close(turned(images), model.module(images), rtol=1e-4, atol=1e-4)
    first = turned.get_submodule("blocks.0.attn.qkv").weight
    assert not torch.allclose(first, model.module.get_submodule("blocks.0.attn.qkv").weight)


def test_heads_put_out_what_they_did(images: torch.Tensor) -> None:
    # Distillation compares them channel by channel.
    model = load_model("digits")
    turned = copy.deepcopy(model.module)
    rotate(model.family, turned)
    seen: list[list[torch.Tensor]] = []
    for module in (model.module, turned):
        seen.append([])
        attentions = model.family.attentions(module)
        with observe_attention(attentions, heads=lambda _, out: seen[-1].append(out)):
            module(images)
    for before, after in zip(*seen, strict=True):
        torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


def test_outlier_channels_vanish(images: torch.Tensor) -> None:
    model = load_model("digits")
    module = copy.deepcopy(model.module)
    norm, reader = module.get_submodule("blocks.1.norm1"), module.get_submodule("blocks.1.attn.qkv")
    norm.weight[3] *= 50  # an outlier, as trained networks have them
    norm.bias[3] *= 50
    reader.weight[:, 3] /= 50
    heights = []
    reader.register_forward_pre_hook(
        lambda _, inputs: heights.append(float(inputs[0].abs().max() / inputs[0].std()))
    )
    module(images)
    rotate(model.family, module)
    module(images)
    assert heights[1] < 0.5 * heights[0]


def test_four_bits_serve_better_for_it(images: torch.Tensor) -> None:
    model = load_model("digits")
    module = copy.deepcopy(model.module)
    for block in model.family.blocks(module):
        norm, reader = block.get_submodule("norm1"), block.get_submodule("attn.qkv")
        norm.weight[3] *= 20
        norm.bias[3] *= 20
        reader.weight[:, 3] /= 20
    errors = []
    for turned in (False, True):
        ranges = RangeRecipe("minmax", rotate=turned, migrate=False, refit=False, outliers=False)
        found = quantize(replace(model, module=module), from_bits(4, 4), images, ranges)
        errors.append(float((found.module(images) - model.module(images)).square().mean()))
    assert errors[1] < 0.6 * errors[0]


def test_kinds_of_streams(small_vit: LoadedModel) -> None:
    """Where a stream cannot be turned it is left alone; queries and keys turn all the same."""
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    for options, possible in (
        ({"global_pool": "avg"}, True),
        ({"init_values": 0.1}, True),  # folded before
        ({"qkv_bias": False}, False),
        ({"pre_norm": True}, False),
        ({"qk_norm": True}, True),
        ({"reg_tokens": 2, "no_embed_class": True}, True),
    ):
        network = _network(**options)
        before = network(images)
        module = small_vit.family.rewrite(network)
        assert bool(rotate(small_vit.family, module)) is possible, options
        torch.testing.assert_close(module(images), before, rtol=1e-4, atol=1e-4)


def _network(**options: object) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    network = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=10, **options
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()
