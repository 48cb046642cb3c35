"""Files beside weights, and files that hold none: what is refused, and in which words."""

from __future__ import annotations

import argparse
import math
import pathlib
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from checkpoint_files import NAME, State, check, network, saved
from torch import nn

from mimiq.errors import BadInput
from mimiq.models import load_model
from mimiq.models.checkpoint import read_tensors


class Unknown:
    """A class that no other process has."""

    def __init__(self) -> None:
        self.rate = 0.1


class Settings(dict):  # type: ignore[type-arg]
    """As configuration libraries have them."""


@pytest.mark.parametrize(
    "beside",
    [
        {"args": argparse.Namespace(lr=0.1, output_dir=pathlib.PurePosixPath("out"))},
        {"best": np.float64(81.5), "counts": np.arange(3), "flag": np.bool_(True)},
        {"path": Path("checkpoints")},
        {"hyper_parameters": Settings(lr=0.1, nested=Settings(depth=2))},
        {"scheduler": Unknown(), "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
        {"callbacks": [Unknown(), Settings(a=1)]},
    ],
    ids=["namespace", "numpy", "path", "settings", "object", "several"],
)
def test_15_what_training_scripts_write_beside_the_weights(
    beside: Mapping[str, Any], state: State, plain: Any, tmp_path: Path
) -> None:
    check(load_model(NAME, weights=saved({"model": state, **beside}, tmp_path)), plain)


def test_15_a_pickled_network_is_refused(plain: Any, tmp_path: Path) -> None:
    for content in (plain, {"model": plain}):
        with pytest.raises(BadInput, match="plain tensors"):
            load_model(NAME, weights=saved(content, tmp_path))


def test_30_torchscript_is_named(plain: Any, tmp_path: Path) -> None:
    traced = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(traced, tmp_path / "model.pt")
    with pytest.raises(BadInput, match="TorchScript"):
        load_model(NAME, weights=tmp_path / "model.pt")


def test_pickles_that_pytorch_did_not_write_are_named(state: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({name: tensor.numpy() for name, tensor in state.items()}))
    with pytest.raises(BadInput, match="Python's pickle") as caught:
        load_model(NAME, weights=path)
    assert "torch.save" in caught.value.next_step


def test_arrays_of_another_machine_are_read(state: State, tmp_path: Path) -> None:
    first, *rest = state
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    swapped = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in arrays.items()}
    np.savez(tmp_path / "w.npz", **{**swapped, first: arrays[first].astype(np.longdouble)})
    found = read_tensors(tmp_path / "w.npz")
    assert found.keys() == {first, *rest}
    for name, tensor in state.items():
        assert torch.equal(found[name].float(), tensor.float())


def test_what_float32_cannot_hold_is_refused(state: State, tmp_path: Path) -> None:
    name = next(name for name in state if name.endswith("qkv.weight"))
    huge = {**state, name: torch.full_like(state[name], 1).double() * 1e39}
    with pytest.raises(BadInput, match="more than float32 can"):
        load_model(NAME, weights=saved(huge, tmp_path))


@pytest.mark.parametrize("checksums", [True, False])
def test_a_checkpoint_with_another_byte_in_it_is_refused(
    state: State, tmp_path: Path, checksums: bool
) -> None:
    torch.serialization.set_crc32_options(checksums)
    try:
        path = saved(state, tmp_path)
    finally:
        torch.serialization.set_crc32_options(True)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40  # of a weight, which torch.load takes as it is
    path.write_bytes(content)
    if not checksums:  # nothing tells
        load_model(NAME, weights=path)
        return
    with pytest.raises(BadInput, match="not as its checksum says"):
        load_model(NAME, weights=path)


@pytest.mark.parametrize("place", [-25, -38])
def test_a_damaged_directory_of_a_checkpoint_is_told(
    state: State, tmp_path: Path, place: int
) -> None:
    path = saved(state, tmp_path)
    content = bytearray(path.read_bytes())
    content[place] ^= 0x01  # it says that the archive spans several disks
    path.write_bytes(content)
    with pytest.raises(BadInput, match="damaged zip archive"):
        load_model(NAME, weights=path)


def test_kerass_archives_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("model.weights.h5", b"\x89HDF")
    with pytest.raises(BadInput, match="Keras"):
        load_model(NAME, weights=tmp_path / "model.keras")


def test_31_the_distilled_form_is_named(tmp_path: Path) -> None:
    original = network("deit_tiny_distilled_patch16_224")
    path = saved(original.state_dict(), tmp_path)
    with pytest.raises(BadInput, match="distilled") as caught:
        load_model("deit_t", weights=path)
    assert "deit_t_distilled" in caught.value.next_step
    check(load_model("deit_t_distilled", weights=path), original)


def lora(state: State) -> State:
    return {
        "base_model.model.blocks.0.attn.qkv.lora_A.weight": torch.ones(4, 192),
        "base_model.model.blocks.0.attn.qkv.lora_B.weight": torch.ones(576, 4),
    }


def optimiser(state: State) -> State:
    return {f"{name}.exp_avg": tensor for name, tensor in state.items()}


def two_layers(state: State) -> State:
    rest = {name: tensor for name, tensor in state.items() if not name.startswith("head")}
    return rest | {"head.0.weight": torch.ones(8, 192), "head.2.weight": torch.ones(5, 8)}


def resnet(_: State) -> State:
    return {"conv1.weight": torch.ones(1), "layer1.0.conv1.weight": torch.ones(1)}


def wider(_: State) -> State:
    return network("vit_small_patch16_224").state_dict()


def registers(_: State) -> State:
    return network(reg_tokens=4).state_dict()


def of_timm(name: str) -> Callable[[State], State]:
    return lambda _: timm.create_model(name).state_dict()


def normalising(state: State) -> State:
    tensors = {f"1.{name}": tensor for name, tensor in state.items()}
    return tensors | {"0.mean": torch.ones(3), "0.std": torch.ones(3)}


def without_values(state: State) -> State:
    return {name: tensor.to("meta") for name, tensor in state.items()}


def projection_head(_: State) -> State:
    body = network(num_classes=0).state_dict()
    tensors = {f"encoder.{name}": tensor for name, tensor in body.items()}
    return tensors | {"head.0.weight": torch.ones(8, 192), "head.2.weight": torch.ones(4, 8)}


def sams_encoder(_: State) -> State:
    tensors = network(class_token=False, global_pool="avg", fc_norm=False).state_dict()
    tensors |= {"blocks.0.attn.rel_pos_h": torch.ones(27, 64), "neck.0.weight": torch.ones(1)}
    return {f"image_encoder.{name}": tensor for name, tensor in tensors.items()}


def norm_and_linear(_: State) -> State:
    heads = {"mlp_head.0.weight": torch.ones(192), "mlp_head.1.weight": torch.ones(5, 192)}
    return network(num_classes=0).state_dict() | heads


def positions_of_patches(_: State) -> State:
    return network(no_embed_class=True).state_dict()


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (of_timm("beit_base_patch16_224"), "BEiT"),
        (of_timm("swin_tiny_patch4_window7_224"), "Swin"),
        (of_timm("eva02_tiny_patch14_224"), "EVA02"),
        (of_timm("efficientnet_b0"), "convolutional"),
        (of_timm("cait_xxs24_224"), "CaiT"),
        (normalising, r"0\.mean"),
        (without_values, "meta device"),
        (projection_head, "2 Linear layers"),
        (positions_of_patches, "16 patches alone"),
        (sams_encoder, "SAM"),
        (norm_and_linear, r"mlp_head\.0\.weight"),
        (lora, "LoRA"),
        (optimiser, "optimiser"),
        (two_layers, "head has 2 layers"),
        (resnet, "ResNet"),
        (wider, "width is 384"),
        (registers, "4 register tokens"),
    ],
)
def test_errors_say_what_a_file_is(
    make: Callable[[State], State], what: str, state: State, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=what) as caught:
        load_model(NAME, weights=saved(make(state), tmp_path))
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"ftrt", "engine of TensorRT"),
        (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        (b"\x89PNG\r\n", "an image"),
        (b"%PDF-1.4", "PDF"),
        (b"\xfd7zXZ\0", "xz archive"),
        (b"\x28\xb5\x2f\xfd", "Zstandard"),
        (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
        (b"\x7fELF", "program"),
        (bytes(257) + b"ustar", "tar archive"),
    ],
)
def test_files_of_other_formats_are_named(start: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(start + bytes(64))
    with pytest.raises(BadInput, match=what):
        load_model(NAME, weights=path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_points(dtype: torch.dtype, state: State, tmp_path: Path) -> None:
    path = saved({name: tensor.to(dtype) for name, tensor in state.items()}, tmp_path)
    model = load_model(NAME, weights=path)
    expected = state["norm.weight"].to(dtype).float()
    assert torch.equal(model.module.get_parameter("norm.weight"), expected)
    assert math.isfinite(model.module(torch.zeros(1, 3, 64, 64)).sum().item())
