"""Hugging Face's BEiT, Data2Vec, Swin, DINOv3 and gated DINOv2 against transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mimiq.errors import BadInput, UnsupportedModel
from mimiq.models import LoadedModel, load_model
from mimiq.models.sources.transformers.kinds import with_defaults

transformers = pytest.importorskip("transformers")

_VIT: dict[str, Any] = {"image_size": 32, "patch_size": 8, "hidden_size": 32}
_VIT |= {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_SWIN: dict[str, Any] = {"image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [2, 2]}
_SWIN |= {"num_heads": [1, 2], "window_size": 4}
_LABELS: dict[str, Any] = {"id2label": dict(enumerate("abcde"))}
_RELATIVE = {"use_relative_position_bias": True}
_SHARED = {"use_shared_relative_position_bias": True}

NETWORKS: list[tuple[str, str, dict[str, Any]]] = [
    ("BeitForImageClassification", "Beit", _VIT | _LABELS | _RELATIVE),
    (
        "BeitForImageClassification",
        "Beit",
        _VIT | _LABELS | _RELATIVE | _SHARED | {"layer_scale_init_value": 0.0},
    ),
    ("BeitForImageClassification", "Beit", _VIT | _LABELS | _SHARED | {"image_size": [32, 64]}),
    ("BeitModel", "Beit", _VIT),
    (
        "BeitModel",
        "Beit",
        _VIT | {"use_mean_pooling": False, "use_absolute_position_embeddings": True},
    ),
    ("Data2VecVisionForImageClassification", "Data2VecVision", _VIT | _LABELS | _RELATIVE),
    ("SwinForImageClassification", "Swin", _SWIN | _LABELS),
    ("SwinForImageClassification", "Swin", _SWIN | _LABELS | {"qkv_bias": False}),
    ("SwinModel", "Swin", _SWIN | {"image_size": 56, "window_size": 7}),
    ("Swinv2ForImageClassification", "Swinv2", _SWIN | _LABELS),
    ("Swinv2Model", "Swinv2", _SWIN | {"pretrained_window_sizes": [6, 3]}),
    ("DINOv3ViTModel", "DINOv3ViT", _VIT | {"num_register_tokens": 2}),
    (
        "DINOv3ViTModel",
        "DINOv3ViT",
        _VIT | {"num_register_tokens": 2, "use_gated_mlp": True, "hidden_act": "silu"},
    ),
    (
        "DINOv3ViTModel",
        "DINOv3ViT",
        _VIT | {"num_register_tokens": 0, "query_bias": False, "value_bias": False},
    ),
    (
        "DINOv3ViTModel",
        "DINOv3ViT",
        _VIT | {"num_register_tokens": 2, "proj_bias": False, "mlp_bias": False},
    ),
    ("Dinov2Model", "Dinov2", _VIT | {"use_swiglu_ffn": True}),
    ("Dinov2ForImageClassification", "Dinov2", _VIT | _LABELS | {"use_swiglu_ffn": True}),
]


def made(name: str, config: str, settings: dict[str, Any]) -> Any:
    """A network with no parameter left at 0 or 1, so that each one matters."""
    torch.manual_seed(0)
    module = getattr(transformers, name)(getattr(transformers, f"{config}Config")(**settings))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def check(model: LoadedModel, network: Any, **how: Any) -> None:
    size = model.preprocessing
    images = torch.randn(2, size.channels, size.height, size.width)
    with torch.inference_mode():
        answer = network(images, **how)
        expected = getattr(answer, "logits", None)
        expected = answer.pooler_output if expected is None else expected
        torch.testing.assert_close(model.module(images), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("in_memory", [False, True], ids=["saved", "in-memory"])
@pytest.mark.parametrize(("name", "config", "settings"), NETWORKS)
def test_folders_give_what_transformers_gives(
    name: str, config: str, settings: dict[str, Any], in_memory: bool, tmp_path: Path
) -> None:
    network = made(name, config, settings)
    if in_memory:  # names that save_pretrained would turn into older ones
        network.config.architectures = [name]
        network.config.save_pretrained(tmp_path)
        torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        network.save_pretrained(tmp_path)
    if config.startswith(("DINO", "Dino")):  # as large as its processor says
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 32}))
    model = load_model(str(tmp_path))
    check(model, network)
    classifies = "Classification" in name
    assert model.output == ("logits" if classifies else "embedding")
    assert model.labels == (tuple("abcde") if classifies else None)


@pytest.mark.parametrize("size", [48, (32, 64)])
def test_beits_biases_are_resized_as_transformers_does(
    size: int | tuple[int, int], tmp_path: Path
) -> None:
    network = made("BeitForImageClassification", "Beit", _VIT | _LABELS | _RELATIVE)
    network.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), image_size=size)
    check(model, network)
    assert any("resized" in note for note in model.notes)


@pytest.mark.parametrize(
    ("timm_name", "kwargs", "name", "config", "settings"),
    [
        (
            "swin_tiny_patch4_window7_224",
            {"depths": (1, 1, 1, 1)},
            "SwinForImageClassification",
            "Swin",
            {"depths": [1, 1, 1, 1]},
        ),
        (
            "beit_base_patch16_224",
            {"depth": 1, "embed_dim": 48},
            "BeitForImageClassification",
            "Beit",
            _RELATIVE | {"hidden_size": 48, "num_hidden_layers": 1, "intermediate_size": 192},
        ),
        (
            "vit_small_patch16_dinov3_qkvb",
            {"depth": 1, "global_pool": "token"},
            "DINOv3ViTModel",
            "DINOv3ViT",
            {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 1}
            | {"intermediate_size": 1536, "num_register_tokens": 4},
        ),
    ],
)
def test_the_weights_alone_under_timms_name(
    timm_name: str,
    kwargs: dict[str, Any],
    name: str,
    config: str,
    settings: dict[str, Any],
    tmp_path: Path,
) -> None:
    network = made(name, config, settings)
    network.save_pretrained(tmp_path / "network")
    weights = tmp_path / "network" / "model.safetensors"
    model = load_model(timm_name, weights=weights, model_kwargs=kwargs, image_size=224)
    check(model, network)
    assert any("Hugging Face" in note for note in model.notes)


def test_windows_that_are_filled_up_otherwise_are_refused(tmp_path: Path) -> None:
    network = made("SwinForImageClassification", "Swin", _SWIN | {"image_size": 44})
    network.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="fills them up") as caught:
        load_model(str(tmp_path))
    assert "multiple of 16" in caught.value.next_step


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("convnext", "convolutional"),
        ("levit", "batch norms"),
        ("mobilevit", "convolutional stages"),
        ("siglip2_vision_model", "any shape"),
        ("vit_hybrid", "ResNet"),
        ("videomae", "videos"),
        ("dpt", "depths"),
        ("blip_vision_model", "language model"),
        ("efficientnet", "convolutional"),
    ],
)
def test_other_types_are_refused_with_their_reason(kind: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    torch.save({"a": torch.ones(2)}, tmp_path / "model.bin")
    with pytest.raises(UnsupportedModel, match=why) as caught:
        load_model(str(tmp_path))
    assert "swinv2" in caught.value.next_step


@pytest.mark.parametrize(
    ("name", "config", "settings", "what"),
    [
        ("ViTModel", "ViT", {"pooler_act": "relu"}, "pooler's activation is 'relu'"),
        ("DINOv3ViTModel", "DINOv3ViT", {"key_bias": True}, "key_bias"),
    ],
)
def test_variants_that_timm_does_not_have_are_refused(
    name: str, config: str, settings: dict[str, Any], what: str, tmp_path: Path
) -> None:
    made(name, config, _VIT | settings).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match=what):
        load_model(str(tmp_path))


def test_beit_without_its_pooler_is_refused(tmp_path: Path) -> None:
    made("BeitForMaskedImageModeling", "Beit", _VIT).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModel, match="without its pooler"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("vit", "ViT"),
        ("deit", "DeiT"),
        ("vit_mae", "ViTMAE"),
        ("vit_msn", "ViTMSN"),
        ("ijepa", "IJepa"),
        ("dinov2", "Dinov2"),
        ("dinov2_with_registers", "Dinov2WithRegisters"),
        ("dinov3_vit", "DINOv3ViT"),
        ("clip_vision_model", "CLIPVision"),
        ("siglip_vision_model", "SiglipVision"),
        ("beit", "Beit"),
        ("data2vec-vision", "Data2VecVision"),
        ("swin", "Swin"),
        ("swinv2", "Swinv2"),
    ],
)
def test_what_a_config_leaves_out_is_filled_in_as_transformers_does(kind: str, config: str) -> None:
    theirs = getattr(transformers, f"{config}Config")().to_dict()
    ours = with_defaults(kind, {})
    assert ours == {key: theirs.get(key, value) for key, value in ours.items()}


def test_patches_by_two_sides(tmp_path: Path) -> None:
    network = made("ViTForImageClassification", "ViT", _VIT)
    network.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"patch_size": [8, 8]}))
    check(load_model(str(tmp_path)), network)


def test_a_config_of_almost_nothing(tmp_path: Path) -> None:
    network = made("SiglipVisionModel", "SiglipVision", {"num_hidden_layers": 1})
    network.save_pretrained(tmp_path)
    sparse = {"model_type": "siglip_vision_model", "num_hidden_layers": 1}
    (tmp_path / "config.json").write_text(json.dumps(sparse))
    check(load_model(str(tmp_path)), network)
