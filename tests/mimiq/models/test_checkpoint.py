"""Files and folders that are no checkpoint, or one of another kind: named, with the way out."""

from __future__ import annotations

import errno
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.torch import save_file

from mimiq.cli.failures import explained
from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.models.checkpoint import load_into, read_tensors


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


def test_tensors_of_odd_kinds(tmp_path: Path) -> None:
    """Sparse ones are what they hold; without values or of no one shape they are refused."""
    weight = torch.eye(3)
    path = tmp_path / "w.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sparse rows and nested tensors are in beta
        odd = [weight.to_sparse(), weight.to_sparse_csr(), weight.to_sparse_csc()]
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    for sparse in odd:
        torch.save({"w": sparse}, path)
        assert torch.equal(read_tensors(path)["w"], weight)
    for refused, why in (
        (torch.empty(3, 3, device="meta"), "without values"),
        (nested, "w is a nested tensor"),
    ):
        torch.save({"w": refused, "b": torch.ones(3)}, path)
        with pytest.raises(BadInput, match=why):
            read_tensors(path)


def test_a_mapping_that_holds_itself(tmp_path: Path) -> None:
    endless: dict[str, object] = {"w": torch.ones(1)}
    endless["self"] = endless
    torch.save(endless, tmp_path / "w.pth")
    assert "w" in read_tensors(tmp_path / "w.pth")
    del endless["w"]
    torch.save(endless, tmp_path / "w.pth")
    with pytest.raises(BadInput, match="no tensor in it"):
        read_tensors(tmp_path / "w.pth")


def test_four_bit_floats_are_refused(tmp_path: Path) -> None:
    header = b'{"a":{"dtype":"F4","shape":[2,4],"data_offsets":[0,4]}}'
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(BadInput, match=str(path)):
        load_into(torch.nn.Linear(1, 1), read_tensors(path), path, "it")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 80. GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    ],
)
@pytest.mark.parametrize(
    ("suffix", "reader"),
    [
        (".pth", (torch, "load")),
        (".npz", (np, "load")),
        (".npz", (zipfile, "ZipFile")),
        (".safetensors", (safetensors.torch, "load_file")),
    ],
)
def test_memory_that_ran_out_is_not_the_file_s_fault(
    suffix: str,
    reader: tuple[Any, str],
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A library's MemoryError may pass as it is: the command line calls it what it is."""
    path = tmp_path / f"weights{suffix}"
    {
        ".pth": lambda: torch.save({"a": torch.ones(2)}, path),
        ".npz": lambda: np.savez(path, a=np.ones(2)),
        ".safetensors": lambda: save_file({"a": torch.ones(2)}, path),
    }[suffix]()

    def refuse(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(*reader, refuse)
        with pytest.raises((EnvironmentLacks, MemoryError)) as caught:
            read_tensors(path)
    found = explained(caught.value)
    assert isinstance(found, EnvironmentLacks)
    assert "memory" in found.problem
    assert "again" not in found.next_step
    assert list(read_tensors(path)) == ["a"]


@pytest.mark.parametrize("content", [b"\x80", b"x", b"\x80\x02", b"P", b"\x00"])
def test_files_of_a_byte_or_two(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"a\.pth") as caught:
        read_tensors(path)
    assert caught.value.next_step
