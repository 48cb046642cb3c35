"""Hugging Face's folders against transformers itself: logits, embeddings, pixels, labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mimiq.errors import BadInput, UnsupportedModel
from mimiq.models import LoadedModel, load_model

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
    ("ViTForImageClassification", "ViTConfig", _LABELS | {"num_channels": 1}, _logits),
    ("ViTForImageClassification", "ViTConfig", _LABELS | {"hidden_act": "gelu_new"}, _logits),
    ("ViTForImageClassification", "ViTConfig", _LABELS | {"hidden_act": "silu"}, _logits),
    ("ViTForImageClassification", "ViTConfig", _LABELS | {"image_size": [32, 64]}, _logits),
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
    ("AltCLIPVisionModel", "AltCLIPVisionConfig", {}, _pooled),
    ("ChineseCLIPVisionModel", "ChineseCLIPVisionConfig", {}, _pooled),
    (
        *("MetaClip2VisionModelWithProjection", "MetaClip2VisionConfig"),
        *({"projection_dim": 24}, _image_embeds),
    ),
    ("SiglipVisionModel", "SiglipVisionConfig", {}, _pooled),
    ("SiglipVisionModel", "SiglipVisionConfig", {"vision_use_head": False}, _mean),
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
    size = model.preprocessing
    images = torch.randn(2, size.channels, size.height, size.width)
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


def check(model: LoadedModel, network: Any, **how: Any) -> None:
    size = model.preprocessing
    images = torch.randn(2, 3, size.height, size.width)
    with torch.inference_mode():
        expected = network(images, **how).logits
        torch.testing.assert_close(model.module(images), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("Dinov2ForImageClassification", "Dinov2Config"),
        ("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig"),
    ],
)
def test_dinov2_takes_the_size_that_its_processor_gives(
    name: str, config: str, tmp_path: Path
) -> None:
    network = made(name, config, _LABELS)
    network.save_pretrained(tmp_path)
    processor = {"size": {"shortest_edge": 64}, "crop_size": 56, "do_center_crop": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    model = load_model(str(tmp_path))
    assert model.preprocessing.image_size == 56
    check(model, network)
    assert any("resized" in note for note in model.notes)


@pytest.mark.parametrize("size", [48, (32, 64)])
def test_another_size_as_transformers(size: int | tuple[int, int], tmp_path: Path) -> None:
    network = made("ViTForImageClassification", "ViTConfig", _LABELS)
    network.save_pretrained(tmp_path)
    model = load_model(str(tmp_path), image_size=size)
    assert model.preprocessing.image_size == size
    check(model, network, interpolate_pos_encoding=True)


def test_shards_and_prefixes(tmp_path: Path) -> None:
    network = made("ViTForImageClassification", "ViTConfig", _LABELS)
    network.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    check(load_model(str(tmp_path)), network)


@pytest.mark.parametrize("given", ["", "model.safetensors"])
def test_the_weights_alone_under_timms_name(given: str, tmp_path: Path) -> None:
    settings = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    settings |= {"num_hidden_layers": 12, "patch_size": 16}
    network = made("ViTForImageClassification", "ViTConfig", _LABELS | settings)
    network.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    if given:  # the file itself, whose config.json lies beside it
        check(load_model(str(tmp_path / given)), network)
    else:
        check(load_model("vit_t", weights=weights), network)
        (tmp_path / "config.json").unlink()
        with pytest.raises(BadInput, match="which network"):
            load_model(str(weights))


PROCESSORS = [
    ("ViTImageProcessor", {}),
    ("ViTImageProcessor", {"size": {"height": 48, "width": 64}}),
    ("DeiTImageProcessor", {"size": {"height": 64, "width": 64}, "crop_size": 56}),
    ("CLIPImageProcessor", {"size": {"shortest_edge": 60}, "crop_size": 56}),
    ("BitImageProcessor", {"size": {"shortest_edge": 258}, "crop_size": 224}),
    ("SiglipImageProcessor", {"size": {"height": 56, "width": 56}}),
    ("ViTImageProcessor", {"do_normalize": False}),
    ("ViTImageProcessor", {"resample": 3, "do_center_crop": None, "rescale_factor": 1 / 255}),
    (
        "ViTImageProcessor",
        {"do_rescale": False, "image_mean": [100.0] * 3, "image_std": [50.0] * 3},
    ),
]


@pytest.mark.parametrize(("name", "settings"), PROCESSORS)
def test_pixels_are_those_of_the_image_processor(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    from mimiq.models.sources.transformers.image_processor import preprocessing
    from mimiq.models.sources.transformers.network import read_json

    # Pillow's, where transformers has one of that form too: as its results were for years.
    kind = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    processor = kind(**settings)
    processor.save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    ours = preprocessing(read_json(file), (224, 224), file)
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    expected = np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0])
    got = ours.normalize(ours.crop(image)[None])[0]
    # Where a margin has an odd number of pixels, transformers rounds down and torchvision to the
    # even neighbour, as we do: here margins are even.
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"do_pad": True}, "do_pad"),
        ({"rescale_factor": 1 / 127.5, "rescale_offset": True}, "rescale_offset"),
        ({"do_resize": False}, "no fixed input"),
        ({"size": {"longest_edge": 800}}, "no fixed input"),
        ({"resample": 9}, "resample"),
        ({"size": "big"}, "size is 'big'"),
        ({"image_mean": "grey"}, "cannot be read"),
    ],
)
def test_processors_without_a_counterpart_are_refused(
    settings: dict[str, Any], what: str, tmp_path: Path
) -> None:
    network = made("ViTForImageClassification", "ViTConfig", _LABELS)
    network.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 32} | settings))
    with pytest.raises(BadInput, match=what):
        load_model(str(tmp_path))


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"config\.json"):
        load_model(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(BadInput, match="no weights"):
        load_model(str(tmp_path))
    torch.save({"a": torch.ones(2)}, tmp_path / "model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UnsupportedModel, match="'bert'"):
        load_model(str(tmp_path))
    with pytest.raises(BadInput, match="does not exist"):
        load_model(str(tmp_path / "absent"))


def test_a_classifier_that_was_not_saved_is_missed(tmp_path: Path) -> None:
    network = made("ViTForImageClassification", "ViTConfig", _LABELS)
    network.vit.save_pretrained(tmp_path)
    network.config.architectures = [type(network).__name__]
    network.config.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="no classifier"):
        load_model(str(tmp_path))


def test_no_network_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(BadInput, match="no route to host") as caught:
        load_model("google/vit-base-patch16-224")
    assert "folder" in caught.value.next_step
