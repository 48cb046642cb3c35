"""The walk shows every Linear what a forward of the whole network would."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mimiq.config.precision import from_bits
from mimiq.models import LoadedModel
from mimiq.quantize.hooks import watch_inputs
from mimiq.quantize.insert import RangeRecipe, quantize
from mimiq.quantize.layers import QuantLinear, without_columns
from mimiq.quantize.walk import MEMORY, walk


@pytest.mark.parametrize("memory", [MEMORY, 100_000, 0])
def test_inputs_are_those_of_the_network_as_changed(
    small_vit: LoadedModel, images: torch.Tensor, memory: int
) -> None:
    ranges = RangeRecipe(rotate=False, migrate=False, refit=False, rounding="nearest")
    module, twin = (quantize(small_vit, from_bits(4, 8), images, ranges).module for _ in range(2))
    visited = []
    for visit in walk(
        small_vit.family, small_vit.module, module, images, batch_size=3, memory=memory
    ):
        layer = twin.get_submodule(visit.name)
        assert isinstance(layer, QuantLinear)
        expected: dict[str, torch.Tensor] = {}
        with watch_inputs({visit.name: layer}, expected.__setitem__):
            twin(images)
        rows = list(visit.rows())
        inputs = torch.cat([each.inputs for each in rows])
        wanted = layer.input_quantizer(expected[visit.name])
        # Batches of another size are summed in another order, and some roundings fall elsewhere.
        assert float((inputs - wanted).square().mean() / wanted.var()) < 1e-4
        widths, errors = {each.lacking.shape[-1] for each in rows}, visit.errors()
        if errors is None:
            assert widths == {layer.out_features}
        else:
            assert widths == {layer.in_features}
            assert errors.shape == (layer.out_features, 2 * layer.in_features + 1)
        for changed in (visit.layer, layer):  # by as much that all later Linears must see it
            changed.weight.mul_(1.5)
        visited.append(visit.name)
    linears = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, QuantLinear) and name.startswith("blocks.")
    ]
    assert visited == linears


@torch.no_grad()
@pytest.mark.parametrize("columns", [(), (3, 17)])
def test_errors_are_those_of_the_output(
    small_vit: LoadedModel, images: torch.Tensor, columns: tuple[int, ...]
) -> None:
    """Of a Linear that does not write to the stream, from what its input lacks alone."""
    name = "blocks.1.mlp.fc1"
    ranges = RangeRecipe(rotate=False, migrate=False, refit=False, rounding="nearest")
    module = quantize(small_vit, from_bits(4, 8), images, ranges).module
    given: dict[str, torch.Tensor] = {}
    original = small_vit.module.get_submodule(name)
    layer = module.get_submodule(name)
    assert isinstance(layer, QuantLinear)
    assert isinstance(original, nn.Linear)
    swapped = QuantLinear(copy.deepcopy(original), nn.Identity(), columns)
    swapped.input_quantizer = layer.input_quantizer
    module.set_submodule(name, swapped)
    with watch_inputs({name: original}, given.__setitem__):
        small_vit.module(images)
    wanted = original(given[name])
    with watch_inputs({name: swapped}, given.__setitem__):
        module(images)
    expected = wanted - swapped(given[name])
    for visit in walk(small_vit.family, small_vit.module, module, images):
        rows = list(visit.rows())
        if visit.name != name:
            continue
        found, errors = [], visit.errors()
        assert errors is not None
        for each in rows:
            x = without_columns(each.inputs, columns)
            z = torch.cat([x, torch.ones(*x.shape[:2], 1), each.lacking], -1)
            found.append(z @ errors.T)
        torch.testing.assert_close(torch.cat(found), expected, rtol=1e-3, atol=1e-4)
        return
    raise AssertionError(f"{name} was not visited")


def test_nothing_of_it_stays_behind(small_vit: LoadedModel, images: torch.Tensor) -> None:
    module = copy.deepcopy(small_vit.module)
    for _ in walk(small_vit.family, small_vit.module, module, images):
        pass
    assert all("forward" not in vars(part) for part in module.modules())
    torch.testing.assert_close(module(images), small_vit.module(images))
