"""Reconstruction: Linears fitted to what the full-precision network computes at the same place."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mimiq.config.precision import Precision, from_bits, int4, int8, weight_only
from mimiq.models import LoadedModel
from mimiq.models.family import Write
from mimiq.quantize.insert import RangeRecipe, quantize, swap_layers
from mimiq.quantize.layers import QuantLinear, quant_layers
from mimiq.quantize.layerwise import reconstruct, row_weights


def _stream_error(model: LoadedModel, module: nn.Module, images: torch.Tensor) -> float:
    """Relative squared error of the tokens that leave the last block."""
    tokens = []
    for network in (module, model.module):
        stream = images
        for step in model.family.steps(network)[:-1]:
            stream = step.run(stream)
        tokens.append(stream)
    found, expected = tokens
    return float((found - expected).square().mean() / expected.var())


@pytest.mark.parametrize("precision", [from_bits(4, 4), int4(), weight_only(4, 32)])
def test_a_fit_brings_the_stream_nearer_to_the_original(
    small_vit: LoadedModel, images: torch.Tensor, precision: Precision
) -> None:
    errors = {
        refit: _stream_error(
            small_vit,
            quantize(small_vit, precision, images, RangeRecipe(rotate=False, refit=refit)).module,
            images,
        )
        for refit in (False, True)
    }
    assert errors[True] < 0.95 * errors[False]


def test_without_quantisers_there_is_nothing_to_fit(
    small_vit: LoadedModel, images: torch.Tensor
) -> None:
    """At a place where both networks compute the same, the error and so the change is zero."""
    module = copy.deepcopy(small_vit.module)
    precision = int8().placed(small_vit.family.roles(module))
    swap_layers(module, precision)
    for layer in quant_layers(module).values():
        layer.weight_quantizer = nn.Identity()
    before = copy.deepcopy(module.state_dict())
    reconstruct(small_vit.family, small_vit.module, module, precision, images)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-5)


def test_a_fit_undoes_a_shift_of_the_stream(small_vit: LoadedModel, images: torch.Tensor) -> None:
    """What an earlier layer did wrong is made up for by the next that adds to the stream."""
    module = copy.deepcopy(small_vit.module)
    precision = int8().placed(small_vit.family.roles(module))
    swap_layers(module, precision)
    for layer in quant_layers(module).values():
        layer.weight_quantizer = nn.Identity()
    first = module.get_submodule("blocks.0.attn.proj")
    assert isinstance(first, QuantLinear)
    expected = first.bias.clone()
    first.bias += 0.5
    reconstruct(small_vit.family, small_vit.module, module, precision, images)
    torch.testing.assert_close(first.bias, expected, rtol=0, atol=1e-3)


def test_layer_scale_is_not_mistaken_for_the_stream(small_vit: LoadedModel) -> None:
    module = copy.deepcopy(small_vit.module)
    first = small_vit.family.steps(module)[1]
    assert first.writes == {"attn.proj": Write("norm2"), "mlp.fc2": Write("")}
    module.set_submodule("blocks.0.ls1", nn.Linear(1, 1))
    assert small_vit.family.steps(module)[1].writes == {"mlp.fc2": Write("")}


def test_prefix_tokens_have_their_share() -> None:
    for share, given in ((0.1, 0.1), (0.3, 0.3), (0.01, 0.05), (0.99, 0.5)):
        weights = row_weights(197, 1, share)
        assert float(weights[0] / weights.sum()) == pytest.approx(given)
    assert torch.equal(row_weights(5, 1, 0.1), torch.ones(5))  # never below a spatial token's
    assert torch.equal(row_weights(196, 0, 0.1), torch.ones(196))
