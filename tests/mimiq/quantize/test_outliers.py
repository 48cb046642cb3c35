"""Outlier columns: found where a few inputs ruin a Linear, and nowhere else."""

from __future__ import annotations

import copy

import pytest
import torch

from mimiq.config.precision import Precision, from_bits, int8
from mimiq.models import LoadedModel, load_model
from mimiq.quantize.fake_quant import Quantizer
from mimiq.quantize.insert import RangeRecipe, quantize
from mimiq.quantize.layers import QuantLinear
from mimiq.quantize.outliers import survey

LAYER = "blocks.1.mlp.fc2"
UNITS = (3, 40)


def placed(model: LoadedModel, precision: Precision) -> Precision:
    return precision.placed(model.family.roles(model.module))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    from mimiq.models.digits import digits_heldout

    pixels, _ = digits_heldout()
    return torch.from_numpy(load_model("digits").preprocessing.normalize(pixels[:48]))


@pytest.fixture(scope="module")
def planted() -> LoadedModel:
    """Two hidden units 200 times as large as others, as trained networks have them."""
    model = load_model("digits")
    module = copy.deepcopy(model.module)
    block = module.get_submodule("blocks.1.mlp")
    fc1, fc2 = block.get_submodule("fc1"), block.get_submodule("fc2")
    assert isinstance(fc1, torch.nn.Linear)
    assert isinstance(fc2, torch.nn.Linear)
    row, bias, column = fc1.weight[0].clone(), fc1.bias[0].clone(), fc2.weight[:, 0].clone()
    with torch.no_grad():
        for unit, sign in zip(UNITS, (1.0, -1.0), strict=True):
            fc1.weight[unit] = sign * 200 * row
            fc1.bias[unit] = sign * 200 * bias
            fc2.weight[:, unit] = sign * column / 20
    from dataclasses import replace

    return replace(model, module=module)


def test_massive_units_are_found(planted: LoadedModel, images: torch.Tensor) -> None:
    found = survey(planted.family, planted.module, placed(planted, int8()), images)
    assert found.outliers[0].layer == LAYER
    assert set(UNITS) <= set(found.columns[LAYER])
    assert found.outliers[0].left < 0.1 * found.outliers[0].error


def test_at_most_one_linear_in_twenty(planted: LoadedModel, images: torch.Tensor) -> None:
    found = survey(planted.family, planted.module, placed(planted, from_bits(4, 8)), images)
    assert len(found.outliers) <= 1  # of 17


def test_nothing_is_apart_where_nothing_may_be(planted: LoadedModel, images: torch.Tensor) -> None:
    assert not survey(
        planted.family, planted.module, placed(planted, int8()), images, find=False
    ).outliers


def test_heads_outputs_stay_whole(planted: LoadedModel, images: torch.Tensor) -> None:
    found = survey(planted.family, planted.module, placed(planted, int8()), images)
    assert not any(name.endswith("attn.proj") for name in found.columns)


def test_the_layers_other_inputs_keep_their_integers(
    planted: LoadedModel, images: torch.Tensor
) -> None:
    scales = []
    for apart in (False, True):
        ranges = RangeRecipe(refit=False, outliers=apart, rounding="nearest")
        layer = quantize(planted, int8(), images, ranges).module.get_submodule(LAYER)
        point = layer.get_submodule("input_quantizer")
        assert isinstance(point, Quantizer)
        scales.append(float(point.scale))
    assert scales[1] < 0.2 * scales[0]


def test_training_leaves_the_integers_zero_there() -> None:
    linear = torch.nn.Linear(6, 4)
    layer = QuantLinear(linear, torch.nn.Identity(), (2, 5)).requires_grad_(True)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), linear(x))
    layer(x).square().sum().backward()
    assert layer.weight.grad is not None
    assert layer.outlier_weight is not None
    assert not layer.weight.grad[:, [2, 5]].any()
    assert layer.outlier_weight.grad is not None
    assert layer.outlier_weight.grad.abs().min() > 0
