"""Files that people bring, as public bug reports have them: loaded right, or refused, and why."""

from __future__ import annotations

import argparse
import json
import math
import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from checkpoint_files import NAME, State, check, network, said, saved
from safetensors.torch import save_file
from timm.layers import build_sincos2d_pos_embed
from torch import nn

from mimiq.errors import BadInput, UnsupportedModel
from mimiq.models import load_model
from mimiq.models.checkpoint import sha256_state


@pytest.fixture(scope="module")
def plain() -> Any:
    return network()


@pytest.fixture(scope="module")
def state(plain: Any) -> State:
    return plain.state_dict()


# 1 is in test_timm_preprocessing.py; 16 in transformers; 17 in test_torchvision.py.


def test_2_no_random_classifier_on_a_pretrained_body() -> None:
    with pytest.raises(BadInput, match="1000 classes") as caught:
        load_model("deit_t", num_classes=10)
    assert "`weights`" in caught.value.next_step
    assert load_model("deit_t", num_classes=10, untrained=True).untrained


def test_3_one_output_loads(tmp_path: Path) -> None:
    original = network(num_classes=1)
    model = load_model(NAME, weights=saved(original.state_dict(), tmp_path))
    check(model, original)
    assert (model.output, model.num_classes) == ("logits", 1)


def test_4_average_pooling_by_option(tmp_path: Path) -> None:
    averaged = network()
    averaged.reset_classifier(5, "avg")
    path = saved(averaged.state_dict(), tmp_path)
    pooled = load_model(NAME, weights=path, model_kwargs={"global_pool": "avg"})
    check(pooled, averaged)
    by_token = load_model(NAME, weights=path)
    assert "global_pool=token" in said(by_token)
    assert by_token.weights_hash != pooled.weights_hash


def test_5_heads_by_option(tmp_path: Path) -> None:
    original = network(num_heads=6)
    path = saved(original.state_dict(), tmp_path)
    assert "num_heads=3" in said(load_model(NAME, weights=path))
    model = load_model(NAME, weights=path, model_kwargs={"num_heads": 6})
    check(model, original)
    assert model.weights_hash != load_model(NAME, weights=path).weights_hash


@pytest.mark.parametrize("size", [(112, 448), (80, 320), (64, 256), (224, 448), (128, 64)])
def test_6_and_7_images_that_are_not_square(size: tuple[int, int], tmp_path: Path) -> None:
    original = network(img_size=size)
    with torch.no_grad():  # as training leaves it: neighbours are alike
        grid = [size[0] // 16, size[1] // 16]
        original.pos_embed[0, 1:] += build_sincos2d_pos_embed(grid, 192)
    path = saved(original.state_dict(), tmp_path)
    model = load_model(NAME, weights=path, image_size=size)
    check(model, original)
    assert (model.preprocessing.height, model.preprocessing.width) == size
    with pytest.raises(BadInput) as caught:
        load_model(NAME, weights=path)
    assert f"{size[0]}x{size[1]}" in caught.value.next_step


def test_6_untrained_positions_are_taken_as_said(tmp_path: Path) -> None:
    original = network(img_size=(32, 128))
    path = saved(original.state_dict(), tmp_path)
    check(load_model(NAME, weights=path, image_size=(32, 128)), original)
    square = load_model(NAME, weights=path)
    assert square.preprocessing.image_size == 64
    assert "64×64" in said(square)


def test_8_trained_or_averaged_weights(state: State, plain: Any, tmp_path: Path) -> None:
    other = network(seed=1)
    path = saved({"model": state, "model_ema": other.state_dict()}, tmp_path)
    model = load_model(NAME, weights=path)
    check(model, plain)
    assert "ema=True" in said(model)
    check(load_model(NAME, weights=path, ema=False), plain)
    check(load_model(NAME, weights=path, ema=True), other)
    only = saved({"model": state}, tmp_path, "only.pth")
    with pytest.raises(BadInput, match="ema=True"):
        load_model(NAME, weights=only, ema=True)


def clip_tower() -> tuple[Any, State]:
    """A network of CLIP's layout with a projection, and its state in OpenAI's names."""
    norm = partial(nn.LayerNorm, eps=1e-5)
    tower = network("vit_tiny_patch16_224", pre_norm=True, num_classes=32, norm_layer=norm)
    with torch.no_grad():
        tower.head.bias.zero_()
    names = (
        ("patch_embed.proj", "conv1"),
        ("norm_pre", "ln_pre"),
        ("blocks.", "transformer.resblocks."),
        ("norm1", "ln_1"),
        ("norm2", "ln_2"),
        ("qkv.", "in_proj_"),
        ("attn.proj", "attn.out_proj"),
        ("mlp.fc1", "mlp.c_fc"),
        ("mlp.fc2", "mlp.c_proj"),
    )
    state: State = {}
    for name, tensor in tower.state_dict().items():
        if name in ("cls_token", "pos_embed"):
            tensor = tensor.reshape(-1, 192) if name == "pos_embed" else tensor.flatten()
            name = {"cls_token": "class_embedding", "pos_embed": "positional_embedding"}[name]
        elif name.startswith("norm."):
            name = name.replace("norm.", "ln_post.")
        elif name == "head.weight":
            name, tensor = "proj", tensor.T.contiguous()
        elif name == "head.bias":
            continue
        for ours, theirs in names:
            name = name.replace(ours, theirs)
        state[f"visual.{name}"] = tensor
    text = {
        "transformer.resblocks.0.attn.in_proj_weight": torch.zeros(4, 4),
        "logit_scale": torch.ones(()),
        "token_embedding.weight": torch.zeros(4, 4),
    }
    return tower, state | text


@pytest.mark.parametrize("wrapped", ["", "module."])
def test_9_a_projection_gives_an_embedding(wrapped: str, tmp_path: Path) -> None:
    tower, state = clip_tower()
    path = saved({wrapped + name: tensor for name, tensor in state.items()}, tmp_path)
    model = load_model(NAME, weights=path, model_kwargs={"pre_norm": True})
    check(model, tower)
    assert (model.output, model.embedding_dim, model.num_classes) == ("embedding", 32, 0)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.float8_e4m3fn])
def test_10_integers_are_no_weights(dtype: torch.dtype, state: State, tmp_path: Path) -> None:
    name = "blocks.3.mlp.fc1.weight"
    path = saved(state | {name: (state[name] * 100).to(dtype)}, tmp_path)
    with pytest.raises(BadInput, match=name):
        load_model(NAME, weights=path)


def test_11_no_classifier_gives_an_embedding(tmp_path: Path) -> None:
    original = network("vit_small_patch14_dinov2", num_classes=0, img_size=56)
    model = load_model(
        "vit_small_patch14_dinov2", weights=saved(original.state_dict(), tmp_path), image_size=56
    )
    check(model, original)
    assert (model.output, model.embedding_dim, model.num_classes) == ("embedding", 384, 0)
    assert model.describe()["output"] == "embedding"
    with pytest.raises(BadInput, match="no classifier"):
        load_model(
            "vit_small_patch14_dinov2",
            weights=tmp_path / "weights.pth",
            image_size=56,
            num_classes=5,
        )


@pytest.mark.parametrize("name", ["vit_tiny_r_s16_p8_224", "vit_small_patch16_18x2_224"])
def test_12_to_14_hybrids_and_parallel_blocks_load(name: str, tmp_path: Path) -> None:
    original = network(name, depth=2)
    path = saved(original.state_dict(), tmp_path)
    check(load_model(name, weights=path, image_size=64, model_kwargs={"depth": 2}), original)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("vit_dwee_patch16_reg1_gap_256", r"blocks\.0\.attn is a DiffAttention"),
        ("vit_dpwee_patch16_reg1_gap_256", r"blocks\.0 is a DiffParallelScalingBlock"),
    ],
)
def test_parts_without_a_description_are_refused_at_load(name: str, part: str) -> None:
    with pytest.raises(UnsupportedModel, match=part):
        load_model(name, untrained=True)


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


def test_24_a_fine_tuned_mae(tmp_path: Path) -> None:
    original = network(global_pool="avg")
    model = load_model(NAME, weights=saved(original.state_dict(), tmp_path))
    check(model, original)
    assert "fc_norm" in said(model)


@pytest.mark.parametrize("size", [96, (64, 128)])
def test_25_another_size_as_timm(size: int | tuple[int, int], state: State, tmp_path: Path) -> None:
    path = saved(state, tmp_path)
    model = load_model(NAME, weights=path, image_size=size)
    overlay = {"file": str(path), "num_classes": 5}
    resized = timm.create_model(
        NAME, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=5, img_size=size
    )
    resized.eval()
    check(model, resized)
    assert "resized" in said(model)


@pytest.mark.parametrize("channels", [1, 4])
def test_26_other_channels(channels: int, tmp_path: Path) -> None:
    original = network(in_chans=channels)
    model = load_model(NAME, weights=saved(original.state_dict(), tmp_path))
    check(model, original)
    assert model.preprocessing.channels == channels
    given = (0.4,) * channels
    told = load_model(NAME, weights=tmp_path / "weights.pth", mean=given, std=given)
    assert told.preprocessing.mean == given
    with pytest.raises(BadInput, match="2 values"):
        load_model(NAME, weights=tmp_path / "weights.pth", mean=(0.5, 0.5), std=(0.5, 0.5))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"qk_norm": True},
        {"reg_tokens": 4},
        {"depth": 5},
        {"patch_size": 8},
        {"class_token": False, "global_pool": "avg"},
        {"class_token": False, "global_pool": "avg", "fc_norm": False},
        {"init_values": 1e-5},
    ],
    ids=lambda kwargs: "-".join(kwargs),
)
def test_27_variants_by_timms_arguments(kwargs: dict[str, Any], tmp_path: Path) -> None:
    original = network(**kwargs)
    path = saved(original.state_dict(), tmp_path)
    check(load_model(NAME, weights=path, model_kwargs=kwargs), original)
    if "patch_size" not in kwargs:  # which the file says itself
        with pytest.raises(BadInput) as caught:
            load_model(NAME, weights=path)
        assert next(iter(kwargs)) in caught.value.next_step


def test_27_an_unknown_argument_is_named() -> None:
    with pytest.raises((BadInput, UnsupportedModel), match="heads_of_it"):
        load_model(NAME, untrained=True, model_kwargs={"heads_of_it": 3})


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


def test_30_torchscript_is_named(plain: Any, tmp_path: Path) -> None:
    traced = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(traced, tmp_path / "model.pt")
    with pytest.raises(BadInput, match="TorchScript"):
        load_model(NAME, weights=tmp_path / "model.pt")


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


def test_dinov2s_positions_are_resized_as_its_own_code_does(tmp_path: Path) -> None:
    original = network("vit_small_patch14_dinov2", num_classes=0, img_size=70)
    path = saved(original.state_dict(), tmp_path)
    model = load_model("vit_small_patch14_dinov2", weights=path, image_size=42)
    grid = original.pos_embed[:, 1:].detach().reshape(1, 5, 5, 384).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(grid, size=(3, 3), mode="bicubic", align_corners=False)
    got = model.module.get_parameter("pos_embed")[:, 1:]
    torch.testing.assert_close(got, expected.flatten(2).transpose(1, 2), rtol=0, atol=1e-6)
    assert "as DINOv2 does" in said(model)


def test_the_hash_is_that_of_the_weights_where_they_say_all(state: State, tmp_path: Path) -> None:
    assert load_model(NAME, weights=saved(state, tmp_path)).weights_hash == sha256_state(state)
