"""Folders that hold no network, or not a whole one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import check, drawn

from mimiq.errors import BadInput
from mimiq.models import load_model


def test_adapters_without_their_network(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(BadInput, match="adapters") as caught:
        load_model(str(tmp_path))
    assert "merge_and_unload" in caught.value.next_step


def test_the_folder_above_a_trainers_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "checkpoint-500" / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="folders inside") as caught:
        load_model(str(tmp_path))
    assert "checkpoint-500" in caught.value.next_step


def test_a_distributed_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".metadata").touch()
    with pytest.raises(BadInput, match="in pieces"):
        load_model(str(tmp_path))


def test_weights_of_another_framework_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (tmp_path / "tf_model.h5").touch()
    with pytest.raises(BadInput, match=r"TensorFlow or Flax alone: tf_model\.h5"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"hidden_size": 3}, "model_type"),
        ({"model_type": "vit", "hidden_size": "many"}, "describes no network"),
        ({"model_type": "vit", "num_attention_heads": 5}, "describes no network"),
        ({"model_type": "vit", "patch_size": [8, 16]}, "no squares"),
        ({"model_type": "vit", "patch_size": 0}, "describes no network"),
        ({"model_type": "vit", "image_size": [32]}, "describes no network"),
        ({"model_type": "vit", "num_attention_heads": 0}, "describes no network"),
        ({"model_type": "vit", "hidden_size": -32}, "describes no network"),
        ({"model_type": "vit", "num_hidden_layers": 10**9}, "describes no network"),
        ({"model_type": "vit", "architectures": 3, "hidden_size": None}, "describes no network"),
    ],
)
def test_descriptions_that_are_none(config: dict[str, Any], what: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = {"embeddings.patch_embeddings.projection.weight": torch.ones(768, 3, 16, 16)}
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadInput, match=what) as caught:
        load_model(str(tmp_path))
    assert "config.json" in str(caught.value)


def test_timms_networks_that_transformers_saved(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    arguments = {"img_size": 64, "depth": 1}
    config = transformers.TimmWrapperConfig(
        architecture="vit_tiny_patch16_224", num_labels=5, model_args=arguments
    )
    original = drawn(transformers.TimmWrapperForImageClassification(config))
    original.save_pretrained(tmp_path)
    check(load_model(str(tmp_path)), original.timm_model)
