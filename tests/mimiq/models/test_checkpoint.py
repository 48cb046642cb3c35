"""Files and folders that are no checkpoint, or one of another kind: named, with the way out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mimiq.errors import BadInput
from mimiq.models.checkpoint import read_tensors


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("a.pth", b"", "is empty"),
        ("a.safetensors", b"", "is empty"),
        ("a.pth", b"not a checkpoint at all", "text file"),
        ("flax_model.msgpack", b"\x81\xa6params\x82" + bytes(99), "Flax"),
        ("a.bin", b"\x81\xa6params\x82" + bytes(99), "not a readable"),
    ],
)
def test_files_that_are_none(name: str, content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInput, match=what) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)
    assert caught.value.next_step


def test_safetensors_without_tensors(tmp_path: Path) -> None:
    save_file({}, tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match="no tensors"):
        read_tensors(tmp_path / "a.safetensors")


def test_a_single_array(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(BadInput, match="single NumPy array"):
        read_tensors(tmp_path / "a.npy")


def test_an_exported_program(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "a.pt2")
    with pytest.raises(BadInput, match=r"torch\.export"):
        read_tensors(tmp_path / "a.pt2")


def test_a_folder_names_the_files_inside(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadInput, match="is a folder") as caught:
        read_tensors(tmp_path)
    assert "pytorch_model.bin" in caught.value.next_step


def test_a_distributed_checkpoint_says_how_to_join_it(tmp_path: Path) -> None:
    (tmp_path / ".metadata").touch()
    with pytest.raises(BadInput, match="in pieces") as caught:
        read_tensors(tmp_path)
    assert "dcp_to_torch" in caught.value.next_step
