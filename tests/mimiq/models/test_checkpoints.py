"""Files that people bring, as public bug reports have them: loaded right, or refused, and why.

32 kinds, numbered; a test's name begins with the number of its kind. Where each is tested:

- 1, all of timm's preprocessing: ``sources/test_timm_preprocessing.py``
- 2, 4 to 14, 24 to 27: here; 3, one output: here, and from end to end in ``../test_one_output.py``;
  11, an embedding from end to end: ``../test_embeddings.py``; 9 too, ``sources/test_heads.py``
- 15, 30 (TorchScript), 31: ``test_foreign_files.py``
- 16, folders of transformers: ``sources/transformers/``; 17: ``sources/test_torchvision.py``
- 18 to 23, 28 to 30: ``test_checkpoint_layouts.py``
- 32, families: ``families/``, and CaiT here

What always loaded: prefixes in ``test_checkpoint_layouts.py``, wrappings in ``test_models.py``,
number formats in ``test_foreign_files.py``, and the rest at the end of this file.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from checkpoint_files import NAME, State, below, check, network, said, saved
from timm.layers import build_sincos2d_pos_embed
from torch import nn

from mimiq.errors import BadInput, UnsupportedModel
from mimiq.models import load_model
from mimiq.models.checkpoint import sha256_state


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


@pytest.fixture(scope="module")
def shallow() -> State:
    """Of a network of one block, which is loaded in no time."""
    state: State = network(depth=1).state_dict()
    return state


@pytest.mark.parametrize(
    "dtype",
    [
        *(torch.int8, torch.uint8, torch.int32, torch.int64, torch.bool),
        *(torch.float8_e4m3fn, torch.complex64),
    ],
)
def test_10_integers_are_no_weights(dtype: torch.dtype, shallow: State, tmp_path: Path) -> None:
    name = "blocks.0.mlp.fc1.weight"
    path = saved(shallow | {name: (shallow[name] * 100).to(dtype)}, tmp_path)
    with pytest.raises(BadInput, match=name) as caught:
        load_model(NAME, weights=path, model_kwargs={"depth": 1})
    kind = "complex" if dtype.is_complex else str(dtype).removeprefix("torch.")
    assert f"holds {kind}" in caught.value.problem


@pytest.mark.filterwarnings("ignore:torch.ao.quantization", "ignore:.*quantize.*")
def test_10_a_quantised_tensor_is_no_weight(shallow: State, tmp_path: Path) -> None:
    name = "blocks.0.mlp.fc1.weight"
    quantised = torch.quantize_per_tensor(shallow[name], 0.01, 0, torch.qint8)
    path = saved(shallow | {name: quantised}, tmp_path)
    with pytest.raises(BadInput, match=f"{name} holds qint8"):
        load_model(NAME, weights=path, model_kwargs={"depth": 1})


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


def test_the_hash_is_that_of_the_weights_where_they_say_all(state: State, tmp_path: Path) -> None:
    assert load_model(NAME, weights=saved(state, tmp_path)).weights_hash == sha256_state(state)


def test_32_cait(tmp_path: Path) -> None:
    original = network("cait_xxs24_224", depth=2, init_values=0.1)
    path = saved({"model": below("module.", original.state_dict())}, tmp_path)
    kwargs = {"depth": 2}
    check(load_model("cait_xxs24_224", weights=path, model_kwargs=kwargs), original)
    resized = load_model("cait_xxs24_224", weights=path, model_kwargs=kwargs, image_size=96)
    assert "from 4×4 patches to 6×6" in said(resized)


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("deit_tiny_distilled_patch16_224", {}),
        ("flexivit_small", {"depth": 2}),
        ("vit_small_patch14_dinov2", {"depth": 2, "img_size": 56}),
        ("vit_small_patch14_reg4_dinov2", {"depth": 2, "img_size": 56}),
        ("vit_wee_patch16_reg1_gap_256", {"depth": 2}),
    ],
)
@pytest.mark.parametrize("classes", [3, 1000])
def test_what_always_loaded(
    name: str, kwargs: dict[str, Any], classes: int, tmp_path: Path
) -> None:
    original = network(name, num_classes=classes, **kwargs)
    structure = {key: value for key, value in kwargs.items() if key != "img_size"}
    path = saved({"state_dict_ema": original.state_dict()}, tmp_path)
    model = load_model(name, weights=path, model_kwargs=structure)
    check(model, original)
    assert model.num_classes == classes
