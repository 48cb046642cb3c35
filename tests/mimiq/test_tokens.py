"""Patch tokens as the answer of a network without a classifier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from mimiq.cli import compile_main, main
from mimiq.distill.losses import embedding_loss
from mimiq.errors import BadInput, MimiqError, UnsupportedModel
from mimiq.models import load_model
from mimiq.models.memory import load_module
from mimiq.runtime import Bundle, open_bundle
from mimiq.runtime.evaluation.similarity import similarity
from mimiq.runtime.preprocessing import Preprocessing

_SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2, "patch_size": 8}
_PIXELS = Preprocessing(image_size=32, crop_pct=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)


def network(name: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    given = {"img_size": 32, "num_classes": 0} | _SMALL | changes
    return timm.create_model(name, **given).eval()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("vit_small_patch14_reg4_dinov2", {}),
        ("vit_base_patch16_siglip_224", {}),
        ("vit_small_patch16_dinov3", {}),
        ("beit_base_patch16_224", {"global_pool": "token"}),
    ],
    ids=["registers", "attention-pool", "rope", "beit"],
)
@torch.inference_mode()
def test_they_are_those_of_the_last_norm(name: str, changes: dict[str, Any]) -> None:
    module = network(name, **changes)
    model = load_module(module, preprocessing=_PIXELS, features="tokens")
    images = torch.randn(2, 3, 32, 32)
    wanted = module.forward_features(images)[:, module.num_prefix_tokens :]
    found = model.module(images).reshape(wanted.shape)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert (model.output, model.tokens, model.embedding_dim) == ("embedding", 16, 64)
    pooled = load_module(module, preprocessing=_PIXELS)
    assert (pooled.tokens, pooled.width) == (1, 64)
    assert pooled.weights_hash != model.weights_hash


@torch.inference_mode()
def test_a_pooler_of_transformers_is_left_out(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "image_size": 32, "patch_size": 8}
    module = transformers.ViTModel(transformers.ViTConfig(**sizes)).eval()
    module.save_pretrained(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    wanted = module(images).last_hidden_state[:, 1:]
    found = load_model(tmp_path, features="tokens").module(images)
    torch.testing.assert_close(found.reshape(wanted.shape), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "features", "error", "what"),
    [
        ("vit_tiny_patch16_224", "tokens", BadInput, "has a classifier"),
        ("vit_tiny_patch16_224", "patches", BadInput, "pooled, tokens"),
        ("swin_tiny_patch4_window7_224", "tokens", UnsupportedModel, "SwinTransformer"),
    ],
)
def test_networks_without_them_are_refused(
    name: str, features: Any, error: type[MimiqError], what: str
) -> None:
    kwargs = {"num_classes": 0} if name.startswith("swin") else {}
    with pytest.raises(error) as caught:
        load_model(name, untrained=True, model_kwargs=kwargs, features=features)
    assert what in f"{caught.value.problem} {caught.value.next_step}"


def test_each_token_counts_for_itself() -> None:
    wanted = np.random.default_rng(0).normal(size=(100, 40))
    found = wanted.copy()
    found[3, 20:30] *= -1
    near = similarity(found, wanted, tokens=4)
    assert near.count == 100
    assert near.least == pytest.approx(-1)
    assert near.mean == pytest.approx(1 - 2 / 400)
    assert similarity(wanted, wanted, tokens=4).neighbours == 100
    taught = torch.from_numpy(wanted)
    assert float(embedding_loss(taught, torch.from_numpy(found), 4)) == pytest.approx(2 / 400)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, dict[str, Any], Any]:
    folder = tmp_path_factory.mktemp("tokens")
    module = network("vit_small_patch14_dinov2", init_values=1.0)
    save_file(module.state_dict(), folder / "weights.safetensors")
    given = ",".join(f"{key}={value}" for key, value in _SMALL.items())
    answer = CliRunner().invoke(
        compile_main,
        [
            *("vit_small_patch14_dinov2", "--weights", str(folder / "weights.safetensors")),
            *("--image-size", "32", "--model-kwargs", given, "--features", "tokens"),
            *("--recipe", "tiny", "--images", "16", "--steps", "4", "--no-bench"),
            *("--target", "ort", "--json", "-o", str(folder / "tokens.mimiq")),
        ],
    )
    assert answer.exit_code == 0, answer.output
    return Bundle(folder / "tokens.mimiq"), json.loads(answer.stdout), module


def test_the_bundle_has_a_row_of_tokens_for_each_image(
    compiled: tuple[Bundle, dict[str, Any], Any],
) -> None:
    bundle, report, module = compiled
    assert (bundle.output, bundle.tokens, bundle.width) == ("embedding", 16, 16 * 64)
    assert bundle.answer == "16 patch tokens of 64 numbers"
    assert bundle.manifest["outputs"][0]["shape"] == ["batch", 16 * 64]
    (near, *_) = report["similarity"]["heldout"].values()
    assert 0.97 < near["least"] < near["mean"] <= 1
    images = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
    with open_bundle(bundle, "ort") as session:
        found = torch.from_numpy(session.run(images)).reshape(3, 16, 64)
    with torch.inference_mode():
        wanted = module.forward_features(torch.from_numpy(images))[:, 1:]
    assert float(torch.cosine_similarity(found, wanted, dim=-1).min()) > 0.97


def test_two_backends_are_compared_token_by_token(
    compiled: tuple[Bundle, dict[str, Any], Any], tmp_path: Path
) -> None:
    from PIL import Image

    for number in range(2):
        Image.new("RGB", (32, 32), (90 * number, 120, 60)).save(tmp_path / f"{number}.png")
    pair = ["--backend", "ort", "--against", "ort", "--json"]
    answer = CliRunner().invoke(main, ["eval", str(compiled[0].path), str(tmp_path), *pair])
    assert answer.exit_code == 0, answer.stderr
    assert json.loads(answer.stdout)["similarity"]["least"] == pytest.approx(1)
