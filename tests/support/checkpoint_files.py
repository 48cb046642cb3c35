"""A small ViT of timm's, files made of it, and the check that both answer the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from mimiq.models import LoadedModel

NAME = "vit_tiny_patch16_224"
State = dict[str, torch.Tensor]


def network(name: str = NAME, seed: int = 0, **kwargs: Any) -> Any:
    """A network of timm's for 64×64 images and 5 classes, every parameter drawn."""
    torch.manual_seed(seed)
    module = timm.create_model(name, **({"num_classes": 5, "img_size": 64} | kwargs)).eval()
    return drawn(module)


def drawn(module: nn.Module) -> Any:
    """With no parameter left at 0 or 1, so that each one matters."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module.eval()


def saved(content: Any, folder: Path, name: str = "weights.pth") -> Path:
    path = folder / name
    torch.save(content, path)
    return path


def below(prefix: str, state: State) -> State:
    """Every name behind the prefix."""
    return {prefix + name: tensor for name, tensor in state.items()}


def check(model: LoadedModel, original: nn.Module) -> None:
    """Both answer the same."""
    size = model.preprocessing
    images = torch.randn(2, size.channels, size.height, size.width)
    with torch.inference_mode():
        torch.testing.assert_close(model.module(images), original(images), rtol=0, atol=1e-4)


def said(model: LoadedModel) -> str:
    return "\n".join(model.notes)
