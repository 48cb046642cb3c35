"""What every family of networks must do, on its smallest example networks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from family_networks import EXAMPLES
from networks import as_loaded
from torch import nn

from mimiq.config.precision import FP32, int4, int8
from mimiq.export import check, export_onnx, to_fp16
from mimiq.models import LoadedModel, observe_attention
from mimiq.quantize.equalization import migrate_outliers
from mimiq.quantize.insert import RangeRecipe, quantize, swap_layers
from mimiq.quantize.layers import QuantLinear, quant_layers
from mimiq.quantize.rotation import rotate
from mimiq.quantize.walk import walk

Example = tuple[nn.Module, LoadedModel, torch.Tensor]


@pytest.fixture(scope="module", params=EXAMPLES.values(), ids=EXAMPLES.keys())
def example(request: pytest.FixtureRequest) -> Example:
    """timm's network, as it is loaded, and images."""
    make: Callable[[], nn.Module] = request.param
    torch.manual_seed(0)
    network = make().eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("bias", "token", "embed", "gamma", "gamma_1", "gamma_2", "table")):
                parameter.normal_(0, 0.3)
            elif parameter.ndim == 1:
                parameter.uniform_(0.5, 1.5)
            elif parameter.ndim == 2:
                parameter.normal_(0, parameter.shape[1] ** -0.5)
    side = network.patch_embed.img_size[0]
    images = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(1))
    return network, as_loaded(network), images


def _close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_steps_are_the_forward(example: Example) -> None:
    network, model, images = example
    x = images
    for step in model.family.steps(model.module):
        x = step.run(x)
    expected = network(images)
    _close(x, expected)
    _close(model.module(images), expected)
    assert float(expected.std()) > 0.01


@torch.no_grad()
def test_taps_have_images_first(example: Example) -> None:
    _, model, images = example
    seen: dict[str, list[torch.Tensor]] = {"scores": [], "heads": []}
    attentions = model.family.attentions(model.module)
    with observe_attention(
        attentions,
        scores=lambda _, out: seen["scores"].append(out),
        heads=lambda _, out: seen["heads"].append(out),
    ):
        model.module(images)
    assert len(attentions) >= len(model.family.blocks(model.module))
    for attention, scores, heads in zip(attentions, *seen.values(), strict=True):
        count, windows = attention.num_heads, attention.windows
        keys = scores.shape[-1]
        assert scores.shape == (len(images), count, windows * keys, keys)
        assert heads.shape == (len(images), windows * count, keys, attention.head_dim)


@torch.no_grad()
def test_roles_name_layers(example: Example) -> None:
    _, model, _ = example
    precision = int4().placed(model.family.roles(model.module))
    assert precision.of("patch_embed.proj").activation_bits is None
    head = "head.fc" if hasattr(model.module.head, "fc") else "head"
    assert precision.of(head).weight_bits == 8


@torch.no_grad()
def test_turning_leaves_the_function(example: Example) -> None:
    _, model, images = example
    turned = copy.deepcopy(model.module)
    streams = rotate(model.family, turned)
    _close(turned(images), model.module(images), 1e-3)
    for stream in streams:
        for norm, _ in stream.readers:
            assert torch.equal(norm.weight, torch.ones_like(norm.weight))


@torch.no_grad()
def test_migrating_leaves_the_function(example: Example) -> None:
    _, model, images = example
    module = copy.deepcopy(model.module)
    places = model.family.migrations(module)
    precision = int4().placed(model.family.roles(module))
    results = migrate_outliers(module, places, precision, images)
    _close(module(images), model.module(images), 1e-3)
    assert all(result.error <= 1 for result in results)


@torch.no_grad()
def test_sixteen_bits_leave_the_function(example: Example) -> None:
    _, model, images = example
    found = quantize(model, FP32, images, RangeRecipe(migrate=False)).module(images)
    _close(found, model.module(images), 1e-3)


@torch.no_grad()
def test_the_walk_meets_every_linear_of_the_blocks(example: Example) -> None:
    _, model, images = example
    ranges = RangeRecipe("minmax", rotate=False, migrate=False, refit=False, rounding="nearest")
    module = quantize(model, int8(), images, ranges).module
    visited = []
    for visit in walk(model.family, model.module, module, images, batch_size=3):
        rows = list(visit.rows())
        assert [len(each.inputs) for each in rows] == [3, 1]
        for each in rows:
            lacking = visit.layer.in_features if each.stream is None else visit.layer.out_features
            assert each.lacking.shape == (*each.inputs.shape[:2], lacking)
            if each.stream is not None:
                assert each.stream.shape == each.lacking.shape
        visited.append(visit.name)
    linears = [name for name, part in module.named_modules() if isinstance(part, QuantLinear)]
    assert visited == [name for name in linears if not name.startswith("head")]


@torch.no_grad()
def test_what_writes_to_the_stream_is_fitted_to_its_own_rows(example: Example) -> None:
    """What one of them does wrong is what the stream lacks, row by row."""
    _, model, images = example
    module = copy.deepcopy(model.module)
    swap_layers(module, int8().placed(model.family.roles(module)))
    for layer in quant_layers(module).values():
        layer.weight_quantizer = nn.Identity()
    changed = None
    for visit in walk(model.family, model.module, module, images):
        if changed is not None or not visit.name.endswith("attn.proj"):
            for _ in visit.rows():
                pass
            continue
        changed = visit.layer
        changed.weight.mul_(1.25)
        for rows in visit.rows():
            expected = -rows.inputs @ (changed.weight * 0.2).T
            if rows.stream is not None:  # padding has no place in it
                expected[rows.stream.abs().sum(-1) == 0] = 0
            ones = torch.ones(*rows.inputs.shape[:2], 1)
            makes, errors = visit.errors(), rows.lacking
            if makes is not None:
                errors = torch.cat([rows.inputs, ones, rows.lacking], -1) @ makes.T
            _close(errors, expected, 1e-3)
        changed.weight.div_(1.25)
    assert changed is not None


@torch.no_grad()
def test_the_exported_graph_is_the_simulation(example: Example, tmp_path: Path) -> None:
    _, model, images = example
    module = quantize(model, int4(), images, RangeRecipe("minmax")).module
    path = export_onnx(module, images.shape[-1], tmp_path / "model.onnx")
    refused = [finding for finding in check(path, "ort") if finding.severity == "refused"]
    assert not refused
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    expected = module(images).numpy()
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < 0.02
    half = to_fp16(path, tmp_path / "half.onnx")
    findings = check(half, "rtx")
    assert not [finding for finding in findings if finding.severity == "refused"]
    mixed = any(each.mixes_heads for each in model.family.attentions(model.module))
    assert mixed == any(finding.rule == "attention-mixed" for finding in findings)
