"""``mimiq.compile``: networks by name and in memory, and the same bundle as the command's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from torch import nn

import mimiq
from mimiq.api import precision_for
from mimiq.calibrate import gaussian_noise
from mimiq.cli import compile_main
from mimiq.errors import BadInput, UnsupportedModel
from mimiq.models.loading import LoadedModel

CHEAP: dict[str, Any] = {
    "calibration": "noise",
    "images": 16,
    "steps": 0,
    "batches": (),
    "target": "ort",
    "device": "cpu",
}


def small(**more: Any) -> nn.Module:
    torch.manual_seed(0)
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return timm.models.VisionTransformer(**(arguments | {"num_classes": 5} | more))


def small_preprocessing() -> mimiq.Preprocessing:
    return mimiq.Preprocessing(image_size=32, crop_pct=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_the_package_says_what_it_offers() -> None:
    assert {"compile", "load_model", "load_module", "open_bundle", "Bundle"} <= set(dir(mimiq))
    for name in dir(mimiq):
        assert getattr(mimiq, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        mimiq.quantise  # type: ignore[attr-defined]  # noqa: B018


def test_the_bundle_is_the_commands(tmp_path: Path) -> None:
    ours = mimiq.compile(
        "digits", "w4a8", out=tmp_path / "ours.mimiq", cache=tmp_path / "cache", **CHEAP
    )
    flags = ["--bits", "w4a8", "--calibration", "noise", "--images", "16", "--steps", "0"]
    flags += ["--no-bench", "--target", "ort", "--device", "cpu", "--quiet"]
    theirs = tmp_path / "theirs.mimiq"
    places = ["--cache-dir", str(tmp_path / "other"), "-o", str(theirs)]
    answer = CliRunner().invoke(compile_main, ["digits", *flags, *places])
    assert answer.exit_code == 0, answer.output
    for name in ("model.onnx", "model.fp16.onnx", "model.cpu.onnx", "labels.txt"):
        assert (ours.path / name).read_bytes() == (theirs / name).read_bytes()
    manifests = [json.loads((path / "manifest.json").read_text()) for path in (ours.path, theirs)]
    for manifest in manifests:
        for key in ("created", "manifest_sha256", "calibration"):
            del manifest[key]
        del manifest["files"]["report.json"]  # it holds times
    assert manifests[0] == manifests[1]


def test_a_module_in_memory(tmp_path: Path) -> None:
    module = small()
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    steps: list[tuple[str, int, int | None, str]] = []
    bundle = mimiq.compile(
        nn.DataParallel(module),
        "int8",
        preprocessing=small_preprocessing(),
        labels=[f"class {index}" for index in range(5)],
        out=tmp_path / "net.mimiq",
        progress=lambda *step: steps.append(step),
        **CHEAP,
    )
    assert bundle.labels == tuple(f"class {index}" for index in range(5))
    assert {name for name, *_ in steps} >= {"load", "quantize", "export", "cost"}
    images = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    with mimiq.open_bundle(bundle, "ort") as session:
        found = session.run(images)
    with torch.inference_mode():
        wanted = module.eval()(torch.from_numpy(images)).numpy()
    assert np.square(found - wanted).mean() < 0.01 * wanted.var()
    for name, value in module.state_dict().items():  # the user's network is as it was
        assert torch.equal(value, before[name])
    assert any(parameter.requires_grad for parameter in module.parameters())


def test_the_attributes_of_a_module_are_part_of_what_it_is() -> None:
    two, four = (
        mimiq.load_module(small(num_heads=heads), preprocessing=small_preprocessing())
        for heads in (2, 4)
    )
    again = mimiq.load_module(small(), preprocessing=small_preprocessing())
    assert two.weights_hash == again.weights_hash != four.weights_hash


def test_timm_tells_its_preprocessing() -> None:
    module = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=7)
    model = mimiq.load_module(module)
    assert model.name == "vit_tiny_patch16_224"
    assert (model.preprocessing.image_size, model.preprocessing.mean) == (64, (0.5,) * 3)
    assert model.num_classes == 7


def test_a_module_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
        num_labels=5,
        initializer_range=0.2,
    )
    module = transformers.ViTForImageClassification(config).eval()
    model = mimiq.load_module(module)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(model.module(images), module(images).logits, atol=1e-4)
    assert any("The module has no preprocessor_config.json" in note for note in model.notes)


@pytest.mark.parametrize(
    ("module", "error", "problem"),
    [
        (lambda: small(), BadInput, "how images come to this VisionTransformer"),
        (lambda: nn.Linear(3, 5), UnsupportedModel, "class Linear"),
        (lambda: timm.create_model("resnet18"), UnsupportedModel, "ResNet"),
    ],
)
def test_modules_that_are_refused(module: Any, error: type[Exception], problem: str) -> None:
    with pytest.raises(error, match=problem):
        mimiq.load_module(module())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"model": "diet_t"}, "Model 'diet_t' is unknown"),
        ({"model": "digits", "precision": "int5"}, "`precision=int5` is unknown"),
        ({"model": "digits", "calibration": "nowhere"}, "`calibration=nowhere` does not exist"),
        ({"model": "digits", "preprocessing": small_preprocessing()}, "a name was given"),
        ({"model": small(), "weights": "file"}, "a network in memory was given"),
        ({"model": "digits", "recipe": "best"}, "Recipe 'best' is unknown"),
        ({"model": "digits", "max_drop": -1}, "is no number of points"),
    ],
)
def test_mistakes_are_one_clear_error(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        mimiq.compile(**arguments)


def test_precisions_by_name(small_vit: LoadedModel) -> None:
    labels = [
        precision_for(small_vit, name).label
        for name in ("int8", "int4", "w4a4", "int4-weight-only", "w4a16")
    ]
    assert labels[:3] == ["w8a8", "w4a8", "w4a4"]
    assert labels[3].startswith("w4a16-b")
    assert labels[4] == "w4a16"


def test_python_refuses_what_the_command_refuses(tmp_path: Path) -> None:
    embedding = mimiq.load_module(small(num_classes=0), preprocessing=small_preprocessing())
    with pytest.raises(BadInput, match="answers with an embedding"):
        mimiq.compile(embedding, max_drop=1)
    gaussian_noise(small_preprocessing(), 4, 0, tmp_path / "set")
    with pytest.raises(BadInput, match="is a finished calibration set, and is taken whole"):
        mimiq.compile(embedding, calibration=tmp_path / "set", images=2)
