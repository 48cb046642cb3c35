"""Centring: the same function, LayerNorm outputs around zero."""

from __future__ import annotations

import copy

import torch

from mimiq.models import LoadedModel, load_model
from mimiq.quantize.centring import centre
from mimiq.quantize.hooks import watch_inputs
from mimiq.quantize.rotation import rotate


def _centred(model: LoadedModel, images: torch.Tensor) -> torch.nn.Module:
    module = copy.deepcopy(model.module)
    (stream,) = rotate(model.family, module)
    centre(module, stream, images, batch_size=5)
    return module


def test_the_network_stays_the_same(small_vit: LoadedModel, images: torch.Tensor) -> None:
    module = _centred(small_vit, images[:9])
    torch.testing.assert_close(module(images), small_vit.module(images), rtol=1e-4, atol=1e-4)


def test_what_linears_read_has_mean_zero() -> None:
    model = load_model("digits")
    images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    module = _centred(model, images)
    names = ["blocks.0.attn.qkv", "blocks.1.mlp.fc1", "head"]
    largest = {}
    for network in (model.module, module):
        layers = {name: network.get_submodule(name) for name in names}
        seen: dict[str, float] = {}

        def see(name: str, x: torch.Tensor, seen: dict[str, float] = seen) -> None:
            seen[name] = float(x.reshape(-1, x.shape[-1]).mean(0).abs().max())

        with watch_inputs(layers, see):
            network(images)
        largest[network] = seen
    for name in names:
        assert largest[module][name] < 1e-4
        assert largest[model.module][name] > 0.1
