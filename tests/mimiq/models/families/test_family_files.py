"""Weights of every family from a file, as timm itself would load them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from mimiq.models import load_model
from mimiq.models.digits.variants import VARIANTS

_RELATIVE = ("beit", "relpos")


def _random(name: str) -> nn.Module:
    network = VARIANTS[name].build(0).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    return network


def _saved(network: nn.Module, folder: Path) -> Path:
    state = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    save_file(state, folder / "weights.safetensors")
    return folder / "weights.safetensors"


@pytest.mark.parametrize("name", VARIANTS)
@torch.inference_mode()
def test_a_file_and_the_name_of_its_architecture(name: str, tmp_path: Path) -> None:
    network, variant = _random(name), VARIANTS[name]
    kwargs = {key: value for key, value in variant.model_args.items() if key != "num_classes"}
    path = _saved(network, tmp_path)
    loaded = load_model(variant.architecture, weights=path, model_kwargs=kwargs)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert loaded.num_classes == 10
    torch.testing.assert_close(loaded.module(images), network(images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", _RELATIVE)
@torch.inference_mode()
def test_relative_positions_are_resized_when_asked(name: str, tmp_path: Path) -> None:
    network, variant = _random(name), VARIANTS[name]
    path = _saved(network, tmp_path)
    kwargs = {key: value for key, value in variant.model_args.items() if key != "img_size"}
    loaded = load_model(variant.architecture, weights=path, model_kwargs=kwargs, image_size=48)
    larger: Any = timm.create_model(variant.architecture, **kwargs, img_size=48).eval()
    translate = sys.modules[type(larger).__module__].checkpoint_filter_fn
    larger.load_state_dict(translate(network.state_dict(), larger))
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded.module(images), larger(images), atol=1e-4, rtol=1e-4)
