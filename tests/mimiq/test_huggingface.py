"""Hugging Face's folders against transformers itself: logits, embeddings, pixels, labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mimiq.models import load_model

transformers = pytest.importorskip("transformers")

_SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "initializer_range": 0.2,
}
_LABELS = {"num_labels": 5, "id2label": {i: f"class {i}" for i in range(5)}}
_TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def _logits(out: Any) -> torch.Tensor:
    return out.logits


def _pooled(out: Any) -> torch.Tensor:
    return out.pooler_output


def _class_token(out: Any) -> torch.Tensor:
    return out.last_hidden_state[:, 0]


def _mean(out: Any) -> torch.Tensor:
    return out.last_hidden_state.mean(dim=1)


def _image_embeds(out: Any) -> torch.Tensor:
    return out.image_embeds


# Class, its configuration, what else the configuration says, and what of its answer is ours.
NETWORKS: list[tuple[str, str, dict[str, Any], Callable[[Any], torch.Tensor]]] = [
    ("ViTForImageClassification", "ViTConfig", _LABELS, _logits),
    ("ViTForImageClassification", "ViTConfig", _LABELS | {"qkv_bias": False}, _logits),
    ("ViTModel", "ViTConfig", {}, _pooled),
    ("DeiTForImageClassificationWithTeacher", "DeiTConfig", _LABELS, _logits),
    ("DeiTForImageClassification", "DeiTConfig", _LABELS, _logits),
    ("Dinov2ForImageClassification", "Dinov2Config", _LABELS, _logits),
    ("Dinov2Model", "Dinov2Config", {}, _pooled),
    (
        "Dinov2WithRegistersForImageClassification",
        "Dinov2WithRegistersConfig",
        _LABELS,
        _logits,
    ),
    ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", {}, _pooled),
    ("ViTMSNForImageClassification", "ViTMSNConfig", _LABELS, _logits),
    ("ViTMSNModel", "ViTMSNConfig", {}, _class_token),
    ("ViTMAEModel", "ViTMAEConfig", {"mask_ratio": 0.0}, _class_token),
    ("IJepaForImageClassification", "IJepaConfig", _LABELS, _logits),
    ("IJepaModel", "IJepaConfig", {}, _mean),
    ("CLIPVisionModel", "CLIPVisionConfig", {}, _pooled),
    ("CLIPVisionModelWithProjection", "CLIPVisionConfig", {"projection_dim": 24}, _image_embeds),
    ("SiglipVisionModel", "SiglipVisionConfig", {}, _pooled),
]
WHOLE = [
    ("CLIPModel", "CLIPConfig"),
    ("CLIPForImageClassification", "CLIPConfig"),
    ("SiglipModel", "SiglipConfig"),
    ("SiglipForImageClassification", "SiglipConfig"),
]


def randomised(module: torch.nn.Module) -> Any:
    """With no parameter left at 0 or 1, so that each one matters."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def made(name: str, config: str, more: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    settings = dict(_SMALL) | more
    if name in dict(WHOLE):
        settings = {"vision_config": _SMALL, "text_config": _TEXT, "projection_dim": 24} | more
    return randomised(getattr(transformers, name)(getattr(transformers, config)(**settings)))


@pytest.mark.parametrize(("name", "config", "more", "answer"), NETWORKS)
def test_folders_give_what_transformers_gives(
    name: str,
    config: str,
    more: dict[str, Any],
    answer: Callable[[Any], torch.Tensor],
    tmp_path: Path,
) -> None:
    network = made(name, config, more)
    network.save_pretrained(tmp_path)
    if "Dinov2" in name:  # whose input is as large as its processor says
        (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 32}))
    model = load_model(str(tmp_path))
    images = torch.randn(2, 3, 32, 32)
    noise = {"noise": torch.arange(16.0).repeat(2, 1)} if "MAE" in name else {}
    with torch.inference_mode():
        expected = answer(network(images, **noise))
        torch.testing.assert_close(model.module(images), expected, rtol=0, atol=1e-4)
    classifies = "Classification" in name
    assert model.output == ("logits" if classifies else "embedding")
    assert model.num_classes == (5 if classifies else 0)
    assert model.embedding_dim == (0 if classifies else expected.shape[1])
    assert model.labels == (tuple(_LABELS["id2label"].values()) if classifies else None)
    assert not model.untrained


@pytest.mark.parametrize(("name", "config"), WHOLE)
def test_networks_for_images_and_texts_give_their_image_tower(
    name: str, config: str, tmp_path: Path
) -> None:
    more = {} if name.endswith("Model") else _LABELS
    network = made(name, config, more)
    network.save_pretrained(tmp_path)
    model = load_model(str(tmp_path))
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        if more:
            expected = network(images).logits
        else:
            features = network.get_image_features(images)
            expected = getattr(features, "pooler_output", features)
        torch.testing.assert_close(model.module(images), expected, rtol=0, atol=1e-4)
    assert model.output == ("logits" if more else "embedding")


def test_networks_saved_from_memory_too(tmp_path: Path) -> None:
    # transformers 5 has other names in memory than in its folders.
    network = made("ViTForImageClassification", "ViTConfig", _LABELS)
    network.config.save_pretrained(tmp_path)
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    images = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(
            load_model(str(tmp_path)).module(images), network(images).logits, rtol=0, atol=1e-4
        )
