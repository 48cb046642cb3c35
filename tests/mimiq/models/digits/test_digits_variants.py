"""The digits networks of other shapes: their files, their accuracy, and the script's option."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from mimiq.config.precision import from_bits
from mimiq.models import LoadedModel, load_model
from mimiq.models.digits import digits_heldout, train
from mimiq.models.digits.variants import CONFIG, VARIANT_WEIGHTS, VARIANTS
from mimiq.quantize.insert import quantize

NETWORKS = Path(__file__).parents[4] / "benchmarks" / "networks"
ONE_MEGABYTE = 1_000_000


@pytest.fixture(scope="module", params=VARIANTS)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def model(name: str) -> LoadedModel:
    return load_model(str(NETWORKS / name))


@pytest.fixture(scope="module")
def inputs(model: LoadedModel) -> torch.Tensor:
    images, _ = digits_heldout()
    return torch.from_numpy(model.preprocessing.normalize(images))


def test_heldout_accuracy_through_the_loader(model: LoadedModel, inputs: torch.Tensor) -> None:
    _, labels = digits_heldout()
    answers = model.module(inputs).argmax(dim=-1).numpy()
    assert (answers == labels).mean() >= train.LEAST_ACCURACY


def test_files_are_small_and_what_the_code_describes(name: str) -> None:
    folder = NETWORKS / name
    assert sum(file.stat().st_size for file in folder.iterdir()) <= ONE_MEGABYTE
    assert json.loads((folder / CONFIG).read_text()) == VARIANTS[name].config()
    assert {tensor.dtype for tensor in load_file(folder / VARIANT_WEIGHTS).values()} == {
        torch.float16
    }


def test_shapes_differ_from_the_embedded_network() -> None:
    registers: Any = VARIANTS["registers"].build(0)
    assert (registers.cls_token, registers.global_pool) == (None, "avg")
    assert registers.reg_token.shape == (1, 4, 64)
    assert hasattr(registers.blocks[0].ls1, "gamma")
    qk_norm: Any = VARIANTS["qk_norm"].build(0)
    attention = qk_norm.blocks[0].attn
    assert isinstance(attention.q_norm, torch.nn.LayerNorm)
    assert (attention.num_heads, attention.head_dim) == (8, 16)


def test_explicit_attention_equals_timm(
    name: str, model: LoadedModel, inputs: torch.Tensor
) -> None:
    variant = VARIANTS[name]
    original = timm.create_model(variant.architecture, **variant.model_args).eval()
    state = load_file(NETWORKS / name / VARIANT_WEIGHTS)
    original.load_state_dict({key: tensor.float() for key, tensor in state.items()})
    with torch.inference_mode():
        difference = (original(inputs[:64]) - model.module(inputs[:64])).abs().max().item()
    assert difference <= 1e-4


def test_eight_bits_keep_the_answers(model: LoadedModel, inputs: torch.Tensor) -> None:
    fitted, others = inputs[:32], inputs[32:160]
    quantized = quantize(model, from_bits(8, 8), fitted)
    with torch.inference_mode():
        same = quantized.module(others).argmax(-1) == model.module(others).argmax(-1)
    assert same.float().mean() >= 0.97


def test_script_writes_a_folder_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn's digits")
    monkeypatch.setattr(train, "train", lambda *arguments: arguments[-1](0).eval())
    monkeypatch.setattr(train, "LEAST_ACCURACY", 0.0)
    out = tmp_path / "new"
    assert train.main(["--variant", name, "--out", str(out)]) == 0
    assert sorted(file.name for file in out.iterdir()) == [CONFIG, VARIANT_WEIGHTS]
    built = VARIANTS[name].build(0).eval()
    images, _ = digits_heldout()
    written = load_model(str(out))
    inputs = torch.from_numpy(written.preprocessing.normalize(images[:8]))
    with torch.inference_mode():
        torch.testing.assert_close(written.module(inputs), built(inputs), atol=0.02, rtol=0)


def test_a_variant_is_never_written_into_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main(["--variant", "registers"])
    assert ended.value.code == 2
    assert "--out" in capsys.readouterr().err
