"""``mimiq.compile``: networks by name and in memory, and the same bundle as the command's."""

from __future__ import annotations

import inspect
import io
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from compiled import INT4, Compile
from torch import nn
from tqdm.auto import tqdm

import mimiq
from mimiq.calibrate import gaussian_noise
from mimiq.cli import compile_main
from mimiq.config.precision import int4
from mimiq.config.recipes import recipe_for
from mimiq.config.synthesis import SYNTHESIS_RECIPES
from mimiq.errors import BadInput, UnsupportedModel
from mimiq.jobs import job_for
from mimiq.models.loaded import LoadedModel
from mimiq.models.precisions import precision_for
from mimiq.progress import CallbackProgress, progress_for
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession

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


def test_the_bundle_is_the_command_s(
    compile_digits: Compile, own_cache: Path, tmp_path: Path
) -> None:
    """Every stage of the call sees what the command's saw, and every byte but times is the same."""
    theirs = compile_digits(*INT4)
    steps: list[str] = []
    ours = mimiq.compile(
        "digits",
        "int4",
        out=tmp_path / theirs.path.name,
        batches=(),
        cache=own_cache,
        progress=lambda stage, *_: steps.append(stage),
    )
    assert set(steps) <= {"load", "accuracy", "cost", "engine"}  # all else was in the cache
    first, second = (contents(path) for path in (ours.path, theirs.path))
    assert first.keys() == second.keys()
    for name in first:
        assert first[name] == second[name], name


def contents(bundle: Path) -> dict[str, Any]:
    """Every file of a bundle, without when it was made and how long it took.

    A builder's engines differ from run to run.
    """
    found: dict[str, Any] = {}
    for file in sorted(bundle.rglob("*")):
        name = file.relative_to(bundle).as_posix()
        if file.is_dir() or "engine" in name:
            continue
        is_json = file.suffix == ".json"
        found[name] = timeless(json.loads(file.read_text())) if is_json else file.read_bytes()
    return found


def timeless(value: Any) -> Any:
    # The manifest's hashes of files that hold times, and of itself, go with these.
    times = ("created", "seconds", "manifest_sha256", "report.json")
    if isinstance(value, dict):
        return {
            key: timeless(item)
            for key, item in value.items()
            if key not in times and "engine" not in key
        }
    return [timeless(item) for item in value] if isinstance(value, list) else value


def test_the_command_s_flags_are_the_call_s_parameters() -> None:
    """A flag that the call lacks, or the other way round, would be a bundle only one can make."""
    call = inspect.signature(mimiq.compile).parameters
    loading = inspect.signature(mimiq.load_model).parameters
    flags = {parameter.name for parameter in compile_main.params}
    spelled = {"cache_dir": "cache", "force": "overwrite"}
    named_by_precision = {"int8", "int4", "bits", "weight_only"}
    of_the_terminal = {"json", "quiet", "dry_run", "no_bench", "version_of_mimiq"}
    flags = {spelled.get(str(name), str(name)) for name in flags}
    flags -= named_by_precision | of_the_terminal
    assert flags - {*call, *loading} == set()
    assert {*call, *loading} - flags == {
        "precision",
        "preprocessing",
        "progress",
        "loading",
        "name",
    }


def test_stages_of_one_s_own(small_vit: LoadedModel, tmp_path: Path) -> None:
    """The same images go from one to the next, as a set or as its pixels."""
    model = small_vit
    recipe = replace(SYNTHESIS_RECIPES["tiny"], images=24, iterations=2)
    made = mimiq.synthesize(model, recipe, out=str(tmp_path / "set"))
    told: list[tuple[str, int, int | None, str]] = []
    with CallbackProgress(lambda *step: told.append(step)).stage("quantize") as stage:
        quantised = mimiq.quantize(model, "int4", made, stage=stage)
    assert told[-1][1:3] == (8, 8)  # four Linears a block, and two blocks
    tuning = mimiq.distill(
        quantised, made.images(), replace(recipe_for("tiny", int4()).distillation, steps=2)
    )
    assert tuning.steps == 2
    graph = mimiq.export(quantised, tmp_path / "int4.onnx")
    images = model.preprocessing.normalize(made.images()[:4])
    with OnnxRuntimeSession(graph) as session, torch.inference_mode():
        answers = torch.from_numpy(session.run(images))
        wanted = quantised.module(torch.from_numpy(images))
    assert torch.allclose(answers, wanted, atol=0.05 * float(wanted.std()))
    with pytest.raises(BadInput, match="Images are uint8"):
        mimiq.distill(quantised, images, "tiny")
    with pytest.raises(BadInput, match="the network takes"):
        mimiq.quantize(model, "int4", np.zeros((4, 16, 16, 3), np.uint8))


def test_progress_on_bars_like_tqdm_s() -> None:
    made: list[tqdm[Any]] = []

    class Kept(tqdm):  # type: ignore[type-arg]
        def __init__(self, *given: Any, **more: Any) -> None:
            super().__init__(*given, file=io.StringIO(), **more)
            made.append(self)

    for told in (Kept, Kept(desc="mine")):
        with progress_for(told).stage("distill") as stage:
            stage.update(2, "loss 0.3", total=4)
            stage.update(3)
        assert (made[-1].n, made[-1].total) == (3, 4)
        assert made[-1].desc.startswith("distill")
    assert len(made) == 2


def test_notes_are_logged_and_no_level_is_changed(caplog: pytest.LogCaptureFixture) -> None:
    before = {name: logging.getLogger(name).level for name in ("timm", "huggingface_hub", "")}
    with caplog.at_level(logging.INFO, "mimiq"):
        told = progress_for(lambda *_: None)
        job = job_for("vit_tiny_patch16_224", untrained=True, progress=told)
    assert [record.message for record in caplog.records] == list(job.model.notes)
    assert before == {name: logging.getLogger(name).level for name in before}


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
        ({"model": "digits", "precision": "int5"}, "Precision 'int5' is unknown"),
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
    with pytest.raises(BadInput, match="no number of points"):
        mimiq.compile(embedding, max_drop=-1)
    gaussian_noise(small_preprocessing(), 4, 0, tmp_path / "set")
    with pytest.raises(BadInput, match="is a finished calibration set, and is taken whole"):
        mimiq.compile(embedding, calibration=tmp_path / "set", images=2)
