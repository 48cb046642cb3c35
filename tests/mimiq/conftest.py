"""A small untrained ViT for tests of the method's parts; the embedded model is for the whole."""

from __future__ import annotations

import pytest
import torch
from networks import as_loaded

from mimiq.models.loaded import LoadedModel


@pytest.fixture(scope="session")
def small_vit() -> LoadedModel:
    """Two blocks, two heads of 32, 65 tokens, 10 classes; untrained, with uneven channels."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    network = VisionTransformer(
        img_size=32, patch_size=4, embed_dim=64, depth=2, num_heads=2, num_classes=10
    ).eval()
    with torch.no_grad():
        for block in network.blocks:
            for norm in (block.norm1, block.norm2):
                norm.weight.copy_(torch.rand(64) * 2 + 0.1)
                norm.weight[::16] *= 8  # outlier channels, as trained ViTs have them
                norm.bias.normal_(0, 0.3)
        for layer in network.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.normal_(0, 0.08)
    return as_loaded(network)


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    """24 smooth random images, uint8 (24, 32, 32, 3)."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(24, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=32, mode="bilinear")
    return (smooth * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.fixture(scope="session")
def images(small_vit: LoadedModel, pixels: torch.Tensor) -> torch.Tensor:
    """The same, normalised: float32 (24, 3, 32, 32)."""
    return torch.from_numpy(small_vit.preprocessing.normalize(pixels.numpy()))
