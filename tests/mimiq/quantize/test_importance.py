"""Which tokens an error must be in to change the answer."""

from __future__ import annotations

import copy

import pytest
import torch

from mimiq.models import LoadedModel, quantizable_layers
from mimiq.quantize.importance import prefix_shares


def test_shares_are_those_of_errors_put_in(small_vit: LoadedModel, images: torch.Tensor) -> None:
    """Against the definition: small noise on a layer's output, and what it does to the logits."""
    module = copy.deepcopy(small_vit.module)
    layers = quantizable_layers(module)
    shares = prefix_shares(module, layers, 1, images, batch_size=5)
    generator = torch.Generator().manual_seed(1)
    for name in ("blocks.0.mlp.fc2", "blocks.1.attn.qkv"):
        changes = []
        for chosen in (slice(0, 1), slice(1, None)):

            def disturb(
                _module: torch.nn.Module,
                _inputs: tuple[torch.Tensor, ...],
                out: torch.Tensor,
                chosen: slice = chosen,
            ) -> torch.Tensor:
                noise = torch.zeros_like(out)
                part = noise[:, chosen]
                noise[:, chosen] = 1e-3 * torch.randn(part.shape, generator=generator)
                return out + noise

            handle = layers[name].register_forward_hook(disturb)
            moved = [(module(images) - small_vit.module(images)).square().mean() for _ in range(20)]
            handle.remove()
            changes.append(float(torch.stack(moved).mean()))
        assert shares[name] == pytest.approx(changes[0] / sum(changes), abs=0.08)


def test_behind_the_last_attention_nothing_else_counts(
    small_vit: LoadedModel, images: torch.Tensor
) -> None:
    shares = prefix_shares(small_vit.module, quantizable_layers(small_vit.module), 1, images)
    assert shares["blocks.1.mlp.fc2"] == shares["blocks.1.attn.proj"] == 1
    assert 0 < shares["blocks.0.mlp.fc1"] < 1
    assert "head" not in shares  # its output has no tokens
    assert not any(parameter.grad is not None for parameter in small_vit.module.parameters())
