"""Checkpoints in several files: what an index may say, and what is said where it lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mimiq.errors import BadInput
from mimiq.models.checkpoint import read_tensors


@pytest.fixture
def index(tmp_path: Path) -> Path:
    save_file({"a": torch.zeros(2), "both": torch.zeros(1)}, tmp_path / "1.safetensors")
    save_file({"b": torch.ones(2), "both": torch.ones(1)}, tmp_path / "2.safetensors")
    places = {"a": "1.safetensors", "both": "1.safetensors", "b": "2.safetensors"}
    (tmp_path / "model.index.json").write_text(json.dumps({"weight_map": places}))
    return tmp_path / "model.index.json"


def test_the_index_says_which_shard_s_tensor_is_meant(index: Path) -> None:
    found = read_tensors(index)
    assert sorted(found) == ["a", "b", "both"]
    assert found["both"].item() == 0


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ({"a": "model.index.json"}, "no shard"),
        ({"a": 3}, "no shard"),
        ({"a": None}, "no shard"),
        ({"a": 3, "b": "1.safetensors"}, "no index"),
        ({"a": "../1.safetensors"}, "outside its folder"),
        ({"a": "n" * 5000 + ".safetensors"}, "not beside it"),
        ({"c": "1.safetensors"}, "holds c, and it does not"),
    ],
)
def test_an_index_that_lies(index: Path, places: dict[str, Any], said: str) -> None:
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(BadInput, match=said):
        read_tensors(index)


def test_an_index_nested_without_end(index: Path) -> None:
    index.write_text("[" * 50_000)
    with pytest.raises(BadInput, match="no index"):
        read_tensors(index)
