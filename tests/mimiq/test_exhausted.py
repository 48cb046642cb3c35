"""A process that may open no more files, or has no memory: said as it is, of whatever it reads."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from open_files import files_left
from PIL import Image
from runtime_models import SIZE, manifest_entries, write_linear_classifier
from safetensors.torch import save_file

from mimiq.calibrate import CalibrationSet, gaussian_noise
from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.export import graph
from mimiq.files import exhausted
from mimiq.inputs import labels_of
from mimiq.models.checkpoint import read_tensors
from mimiq.models.pickles import read_pickle
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import write_bundle
from mimiq.runtime.evaluation.labelled_folders import open_dataset
from mimiq.runtime.files.json_objects import read_json
from mimiq.runtime.image_files import check_file, read_array, read_image
from mimiq.runtime.preprocessing import Preprocessing

Read = Callable[[Path], object]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of each kind of file, whole."""
    folder = tmp_path_factory.mktemp("files")
    Image.new("RGB", (SIZE, SIZE)).save(folder / "a.png")
    np.save(folder / "a.npy", np.zeros((8, 8, 4), np.uint8))
    torch.save({"a": torch.ones(2)}, folder / "a.pth")
    (folder / "a.json").write_text("{}")
    (folder / "val.txt").write_text("a.png 0\n")
    model = write_linear_classifier(folder / "a.onnx")
    gaussian_noise(Preprocessing(SIZE), 2, 0, folder / "set")
    write_bundle(folder / "bundle", {"model.onnx": model}, manifest_entries())
    return folder


READERS: dict[str, Read] = {
    "image": lambda folder: read_image(folder / "a.png"),
    "image's head": lambda folder: check_file(folder / "a.png", 3),
    "array": lambda folder: read_array(folder / "a.npy", 4),
    "listing": lambda folder: open_dataset(folder, 2),
    "labels": lambda folder: labels_of(folder / "val.txt"),
    "set": lambda folder: CalibrationSet.open(folder / "set"),
    "shard": lambda folder: CalibrationSet.open(folder / "set").images(),
    "JSON": lambda folder: read_json(folder / "a.json"),
    "bundle": lambda folder: Bundle(folder / "bundle"),
    "checkpoint": lambda folder: read_tensors(folder / "a.pth"),
    "pickle": lambda folder: read_pickle(folder / "a.pth"),
    "ONNX": lambda folder: graph.load(folder / "a.onnx"),
}


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
@pytest.mark.parametrize("what", READERS)
def test_no_descriptor_is_left(what: str, folder: Path) -> None:
    READERS[what](folder)  # what is imported on the way is there then
    with files_left(0), pytest.raises(EnvironmentLacks, match="Too many files are open") as caught:
        READERS[what](folder)
    assert "ulimit" in caught.value.next_step


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_safetensors_open_a_file_twice(tmp_path: Path) -> None:
    """Of a second descriptor that is missing PyTorch tells in an error of its own."""
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2)}, path)
    read_tensors(path)
    found = []
    for left in range(4):
        with files_left(left):
            try:
                found.append(list(read_tensors(path)))
            except EnvironmentLacks as error:
                found.append([error.problem])
    said = ["Too many files are open."]
    assert found[0] == said
    assert found[-1] == ["a"]
    assert all(each in (said, ["a"]) for each in found)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: you tried")])
def test_no_memory_is_left_for_a_graph(
    error: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> None:
        raise error

    monkeypatch.setattr(graph.ir, "load", refuse)
    with pytest.raises(EnvironmentLacks, match=r"memory is exhausted, and .*a\.onnx") as caught:
        graph.load(folder / "a.onnx")
    assert "Export it again" not in caught.value.next_step


def test_other_errors_are_not_the_host_s() -> None:
    for error in (OSError(errno.EIO, "Input/output error"), ValueError("no such operator")):
        assert exhausted(error, "it failed") is None


def test_damage_is_still_damage(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    for read in (READERS["image"], READERS["image's head"], READERS["ONNX"]):
        with pytest.raises(BadInput, match=r"a\."):
            read(tmp_path)
