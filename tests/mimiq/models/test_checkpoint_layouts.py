"""Weights under the names, and in the files, of other libraries and training scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import NAME, State, below, check, network, said, saved
from safetensors.torch import save_file
from torch import nn

from mimiq.errors import BadInput
from mimiq.models import load_model


def test_18_deit3s_layer_scale(tmp_path: Path) -> None:
    original = network("deit3_small_patch16_224")
    old = {
        name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): tensor
        for name, tensor in original.state_dict().items()
    }
    check(load_model("deit3_small_patch16_224", weights=saved(old, tmp_path)), original)


def test_18_open_clips_trunk(state: State, plain: Any, tmp_path: Path) -> None:
    tensors = {f"visual.trunk.{name}": tensor for name, tensor in state.items()}
    path = saved(tensors | {"text.ln_final.weight": torch.ones(4)}, tmp_path)
    check(load_model(NAME, weights=path), plain)


def test_18_the_old_pre_logits_layer_as_timm(state: State, plain: Any, tmp_path: Path) -> None:
    layer = {"pre_logits.fc.weight": torch.ones(192, 192), "pre_logits.fc.bias": torch.ones(192)}
    model = load_model(NAME, weights=saved(state | layer, tmp_path))
    check(model, plain)
    assert "pre_logits" in said(model)


def test_18_dinov2s_own_names(tmp_path: Path) -> None:
    original = network("vit_small_patch14_reg4_dinov2", num_classes=0, img_size=56)
    own = original.state_dict()
    own["register_tokens"] = own.pop("reg_token")
    own["mask_token"] = torch.ones(1, 384)
    first = torch.randn(1, 1, 384)
    own["pos_embed"] = torch.cat([first, own["pos_embed"]], dim=1)
    own["cls_token"] = own["cls_token"] - first
    path = saved(own, tmp_path)
    check(load_model("vit_small_patch14_reg4_dinov2", weights=path, image_size=56), original)


def jax_archive(plain: Any, path: Path) -> None:
    """The network in the names and axes of Google's archives."""
    arrays: dict[str, Any] = {}
    for name, tensor in plain.state_dict().items():
        array = tensor.numpy()
        match name.split("."):
            case ["cls_token"]:
                arrays["cls"] = array
            case ["pos_embed"]:
                arrays["Transformer/posembed_input/pos_embedding"] = array
            case ["patch_embed", "proj", kind]:
                array = array.transpose(2, 3, 1, 0) if kind == "weight" else array
                arrays[f"embedding/{'kernel' if kind == 'weight' else kind}"] = array
            case ["norm", kind]:
                arrays[f"Transformer/encoder_norm/{'scale' if kind == 'weight' else kind}"] = array
            case ["head", kind]:
                arrays[f"head/{'kernel' if kind == 'weight' else kind}"] = array.T
            case ["blocks", index, "attn", "qkv", kind]:
                block = f"Transformer/encoderblock_{index}/MultiHeadDotProductAttention_1"
                for part, piece in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                    shaped = (
                        piece.T.reshape(192, 3, 64) if kind == "weight" else piece.reshape(3, 64)
                    )
                    arrays[f"{block}/{part}/{'kernel' if kind == 'weight' else kind}"] = shaped
            case ["blocks", index, "attn", "proj", kind]:
                block = f"Transformer/encoderblock_{index}/MultiHeadDotProductAttention_1"
                shaped = array.T.reshape(3, 64, 192) if kind == "weight" else array
                arrays[f"{block}/out/{'kernel' if kind == 'weight' else kind}"] = shaped
            case ["blocks", index, "mlp", layer, kind]:
                dense = f"Transformer/encoderblock_{index}/MlpBlock_3/Dense_{int(layer[-1]) - 1}"
                arrays[f"{dense}/{'kernel' if kind == 'weight' else kind}"] = array.T
            case ["blocks", index, norm, kind]:
                number = {"norm1": 0, "norm2": 2}[norm]
                scale = "scale" if kind == "weight" else kind
                arrays[f"Transformer/encoderblock_{index}/LayerNorm_{number}/{scale}"] = array
    np.savez(path, **arrays)


def test_18_googles_archives(plain: Any, tmp_path: Path) -> None:
    jax_archive(plain, tmp_path / "weights.npz")
    other = network(seed=1)
    other.load_pretrained(str(tmp_path / "weights.npz"))
    check(load_model(NAME, weights=tmp_path / "weights.npz"), other)
    check(load_model(NAME, weights=tmp_path / "weights.npz"), plain)


@pytest.mark.parametrize(
    "prefix",
    [
        "model._orig_mod.",
        "_orig_mod.module.",
        "net.",
        "backbone.",
        "encoder.",
        "model.model.",
        "a.b.",
        "module.",
        "model.",
        "_orig_mod.",
        "module._orig_mod.",
    ],
)
def test_19_prefixes(prefix: str, state: State, plain: Any, tmp_path: Path) -> None:
    path = saved({prefix + name: tensor for name, tensor in state.items()}, tmp_path)
    check(load_model(NAME, weights=path), plain)


@pytest.mark.parametrize(
    "wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]
)
def test_19_wrappers_in_the_middle(wrapper: str, state: State, plain: Any, tmp_path: Path) -> None:
    renamed = {
        name.replace("blocks.3.", f"blocks.3.{wrapper}."): tensor for name, tensor in state.items()
    }
    check(load_model(NAME, weights=saved(renamed, tmp_path)), plain)


def test_20_lightning_with_keys_of_its_own(state: State, plain: Any, tmp_path: Path) -> None:
    content = {
        "state_dict": {f"model.{name}": tensor for name, tensor in state.items()}
        | {"criterion.weight": torch.ones(5)},
        "hyper_parameters": {"lr": 0.1},
    }
    model = load_model(NAME, weights=saved(content, tmp_path))
    check(model, plain)
    assert "criterion.weight" in said(model)


def test_20_a_layer_behind_the_network_is_not_dropped(state: State, tmp_path: Path) -> None:
    tensors = {f"0.{name}": tensor for name, tensor in state.items()}
    path = saved(tensors | {"1.weight": torch.ones(2, 5), "1.bias": torch.ones(2)}, tmp_path)
    with pytest.raises(BadInput, match=r"1\.weight"):
        load_model(NAME, weights=path)


@pytest.mark.parametrize(
    "names", [("0", "1"), ("backbone", "head"), ("model.backbone", "model.fc")]
)
def test_20_a_classifier_beside_a_body(names: tuple[str, str], tmp_path: Path) -> None:
    body, head = network(num_classes=0), nn.Linear(192, 7)
    tensors = {f"{names[0]}.{name}": tensor for name, tensor in body.state_dict().items()}
    tensors |= {f"{names[1]}.{name}": tensor for name, tensor in head.state_dict().items()}
    model = load_model(NAME, weights=saved(tensors, tmp_path))
    check(model, nn.Sequential(body, head))
    assert model.num_classes == 7


@pytest.mark.parametrize(
    "key", ["model_state_dict", "net", "weights", "ema", "teacher", "my_own_name"]
)
def test_21_state_dicts_under_any_name(key: str, state: State, plain: Any, tmp_path: Path) -> None:
    check(load_model(NAME, weights=saved({key: state, "epoch": 3}, tmp_path)), plain)


def test_21_dinos_teacher(state: State, plain: Any, tmp_path: Path) -> None:
    student = network(seed=1).state_dict()
    content = {
        "student": {f"module.backbone.{name}": tensor for name, tensor in student.items()},
        "teacher": {f"backbone.{name}": tensor for name, tensor in state.items()}
        | {"head.mlp.0.weight": torch.ones(8, 192)},
    }
    model = load_model(NAME, weights=saved(content, tmp_path))
    check(model, plain)
    assert "ema=False" in said(model)


def test_22_averaged_models(plain: Any, tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(plain)
    check(load_model(NAME, weights=saved(averaged.state_dict(), tmp_path)), plain)


def test_23_an_empty_average(state: State, plain: Any, tmp_path: Path) -> None:
    path = saved({"model": state, "model_ema": {}}, tmp_path)
    check(load_model(NAME, weights=path), plain)


def shards(state: State, folder: Path) -> Path:
    names = sorted(state)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: state[name].contiguous() for name in part}, folder / file)
    weights = {name: file for file, part in halves.items() for name in part}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    return index


def test_28_shards(state: State, plain: Any, tmp_path: Path) -> None:
    index = shards(state, tmp_path)
    check(load_model(NAME, weights=index), plain)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(BadInput, match=r"b\.safetensors"):
        load_model(NAME, weights=index)


@pytest.mark.parametrize("name", ["timm/{}", "hf-hub:timm/{}"])
def test_29_timms_names_on_the_hub(name: str, state: State, plain: Any, tmp_path: Path) -> None:
    name = name.format("vit_tiny_patch16_224.augreg_in21k_ft_in1k")
    model = load_model(name, weights=saved(state, tmp_path))
    check(model, plain)
    assert model.preprocessing.mean == (0.5,) * 3


@pytest.mark.parametrize("name", ["{}", "local-dir:{}"])
def test_29_folders_that_timm_saved(name: str, plain: Any, tmp_path: Path) -> None:
    from timm.models import save_for_hf

    averaged = network()
    averaged.reset_classifier(5, "avg")
    labels = [f"class {i}" for i in range(5)]
    config = {"label_names": labels, "crop_mode": "squash"}
    save_for_hf(averaged, tmp_path, model_config=config, safe_serialization=True)
    model = load_model(name.format(tmp_path))
    check(model, averaged)
    assert model.labels == tuple(labels)


def test_30_safetensors_under_another_suffix(state: State, plain: Any, tmp_path: Path) -> None:
    save_file(state, tmp_path / "pytorch_model.bin")
    check(load_model(NAME, weights=tmp_path / "pytorch_model.bin"), plain)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("layout", ["sparse", "csr", "numpy", "parameters", "list", "older"])
def test_tensors_in_other_forms(layout: str, state: State, plain: Any, tmp_path: Path) -> None:
    name = "blocks.0.mlp.fc1.weight"
    content: Any = {
        "sparse": lambda: state | {name: state[name].to_sparse()},
        "csr": lambda: state | {name: state[name].to_sparse_csr()},
        "numpy": lambda: {"model": {key: tensor.numpy() for key, tensor in state.items()}},
        "parameters": lambda: {key: nn.Parameter(tensor) for key, tensor in state.items()},
        "list": lambda: [state, {"epoch": 3}],
        "older": lambda: state,
    }[layout]()
    path = tmp_path / "weights.pth"
    torch.save(content, path, _use_new_zipfile_serialization=layout != "older")
    check(load_model(NAME, weights=path), plain)


@pytest.mark.parametrize(
    "prefix", ["vit.", "_forward_module.model.", "module.backbone.net.", "base_model.model."]
)
def test_other_prefixes_in_other_containers(
    prefix: str, state: State, plain: Any, tmp_path: Path
) -> None:
    content = {"checkpoint": {"model": {"state_dict": below(prefix, state)}}}
    check(load_model(NAME, weights=saved(content, tmp_path)), plain)


def test_dinov2s_positions_are_resized_as_its_own_code_does(tmp_path: Path) -> None:
    original = network("vit_small_patch14_dinov2", num_classes=0, img_size=70)
    path = saved(original.state_dict(), tmp_path)
    model = load_model("vit_small_patch14_dinov2", weights=path, image_size=42)
    grid = original.pos_embed[:, 1:].detach().reshape(1, 5, 5, 384).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(grid, size=(3, 3), mode="bicubic", align_corners=False)
    got = model.module.get_parameter("pos_embed")[:, 1:]
    torch.testing.assert_close(got, expected.flatten(2).transpose(1, 2), rtol=0, atol=1e-6)
    assert "as DINOv2 does" in said(model)
