"""How other libraries and pretraining scripts name a network's parameters."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import NAME, State, below, check, drawn, network, said, saved

from mimiq.errors import BadInput
from mimiq.models import load_model


def openmmlab(state: State) -> State:
    names = (
        ("patch_embed.proj.", "patch_embed.projection."),
        ("mlp.fc1.", "ffn.layers.0.0."),
        ("mlp.fc2.", "ffn.layers.1."),
    )
    result: State = {}
    for name, tensor in state.items():
        name = re.sub(r"^blocks\.(\d+)\.", r"layers.\1.", name)
        name = re.sub(r"\.norm(\d)\.", r".ln\1.", re.sub(r"^norm\.", "ln1.", name))
        for ours, theirs in names:
            name = name.replace(ours, theirs)
        head = name.startswith("head.")
        result[f"head.layers.{name}" if head else f"backbone.{name}"] = tensor
    return result


def test_openmmlabs_names(tmp_path: Path) -> None:
    original = network()
    content = {"meta": {"epoch": 1}, "state_dict": openmmlab(original.state_dict())}
    model = load_model(NAME, weights=saved(content, tmp_path))
    check(model, original)
    assert "OpenMMLab" in said(model)


def test_blocks_in_the_chunks_of_dinov2s_training(tmp_path: Path) -> None:
    original = network(num_classes=0)
    chunked = {
        re.sub(r"^blocks\.(\d+)\.", lambda at: f"blocks.{int(at[1]) // 3}.{at[1]}.", name): tensor
        for name, tensor in original.state_dict().items()
    }
    content = {"teacher": below("backbone.", chunked)}
    check(load_model(NAME, weights=saved(content, tmp_path)), original)


@pytest.mark.parametrize("name", ["masked_embed", "mask_token", "lm_head.weight"])
def test_parts_of_masked_pretraining_are_left_out(name: str, tmp_path: Path) -> None:
    original = network(num_classes=0)
    state = original.state_dict() | {name: torch.ones(1, 192)}
    model = load_model(NAME, weights=saved({"teacher": below("backbone.", state)}, tmp_path))
    check(model, original)
    assert name in said(model) or name == "mask_token"  # which timm itself drops


def test_swin_as_simmim_leaves_it(tmp_path: Path) -> None:
    name, kwargs = "swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1)}
    original = network(name, img_size=56, num_classes=0, **kwargs)
    merges = re.compile(r"^layers\.(\d)\.downsample")
    state = {
        merges.sub(lambda at: f"layers.{int(at[1]) - 1}.downsample", key): tensor
        for key, tensor in original.state_dict().items()
    }
    state |= {"mask_token": torch.ones(1, 1, 96)}
    content = {"model": below("encoder.", state) | {"decoder.0.bias": torch.ones(3)}}
    path = saved(content, tmp_path)
    check(load_model(name, weights=path, image_size=56, model_kwargs=kwargs), original)


def test_transformers_norms_keep_their_epsilon(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    config = transformers.ViTConfig(**sizes, image_size=64, num_labels=4)
    original = drawn(transformers.ViTForImageClassification(config))
    path = saved({"state_dict": below("model.", original.state_dict())}, tmp_path)
    model = load_model(NAME, weights=path)
    images = torch.randn(2, 3, 64, 64) * 1e-3  # of little variance, so that it matters
    with torch.inference_mode():
        torch.testing.assert_close(model.module(images), original(images).logits, rtol=0, atol=2e-5)


def test_what_timm_prints_while_it_translates_is_not_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, kwargs = "vit_small_patch16_dinov3", {"global_pool": "token", "depth": 1}
    original = network(name, num_classes=0, **kwargs)
    renamed = {"reg_token": "storage_tokens"}
    state = {renamed.get(key, key): tensor for key, tensor in original.state_dict().items()}
    state |= {"blocks.0.attn.qkv.bias": torch.zeros(1152), "mask_token": torch.ones(1, 384)}
    path = saved(state, tmp_path)
    check(load_model(name, weights=path, image_size=64, model_kwargs=kwargs), original)
    assert not capsys.readouterr().out


def of_timm(name: str) -> Callable[[State], State]:
    import timm

    return lambda _: timm.create_model(name).state_dict()


def peft(state: State) -> State:
    kept = {name: tensor for name, tensor in state.items() if not name.startswith("head")}
    return below("base_model.model.", kept) | {
        "base_model.model.head.original_module.weight": torch.ones(5, 192),
        "base_model.model.head.modules_to_save.default.weight": torch.ones(5, 192),
    }


def weight_norm(state: State) -> State:
    kept = {name: tensor for name, tensor in state.items() if name != "head.weight"}
    return kept | {"head.parametrizations.weight.original0": torch.ones(5, 1)}


def pruned(state: State) -> State:
    return {name.replace("head.weight", "head.weight_orig"): state[name] for name in state}


def trained_for_integers(state: State) -> State:
    return state | {"blocks.0.mlp.fc1.weight_fake_quant.scale": torch.ones(1)}


def vit_pytorch(_: State) -> State:
    return {"to_patch_embedding.1.weight": torch.ones(768), "mlp_head.weight": torch.ones(5, 192)}


def quantised(_: State) -> Any:
    layer = torch.nn.Sequential(torch.nn.Linear(4, 4))
    return torch.ao.quantization.quantize_dynamic(layer, {torch.nn.Linear}).state_dict()


@pytest.mark.parametrize(
    ("make", "name", "what"),
    [
        (peft, NAME, "LoRA"),
        (weight_norm, NAME, "parametrisation"),
        (pruned, NAME, "pruning"),
        (trained_for_integers, NAME, "already quantised"),
        (quantised, NAME, "PyTorch has quantised"),
        (vit_pytorch, NAME, "vit-pytorch"),
        (
            of_timm("swin_tiny_patch4_window7_224"),
            "swinv2_tiny_window8_256",
            "Swin of the first form",
        ),
        (of_timm("swinv2_tiny_window8_256"), "swin_tiny_patch4_window7_224", "Swin v2"),
        (
            of_timm("swin_small_patch4_window7_224"),
            "swin_tiny_patch4_window7_224",
            "stage 3 has 18 blocks, and 6",
        ),
    ],
)
def test_errors_say_what_a_file_is(
    make: Callable[[State], Any], name: str, what: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=what) as caught:
        load_model(name, weights=saved(make(network().state_dict()), tmp_path))
    assert caught.value.next_step
