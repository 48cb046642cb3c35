"""What a file is, where it is not what its user takes it for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from mimiq.errors import BadInput

Shapes = Mapping[str, torch.Tensor]

# The first pattern that some name matches says what the file is, and what to do about it.
_KINDS = (
    (
        r"lora_(A|B|down|up)|\.lora|hada_w1|adapter_|\.modules_to_save\.",
        "LoRA or adapter weights without the network they belong to",
        "Merge them into the network (merge_and_unload), and save the whole of it.",
    ),
    (
        r"(exp_avg|exp_avg_sq|momentum_buffer)$",
        "the state of an optimiser, not of a network",
        "Give the checkpoint that holds the model's weights.",
    ),
    (
        r"qweight|qzeros|SCB|quant_state|weight_scale|absmax|_packed_params|"
        r"fake_quant|activation_post_process",
        "a network that is already quantised",
        "Give the checkpoint in floating point that it was made from.",
    ),
    (
        r"\.parametrizations\.|_orig$|weight_mask$|head\.weight_[gv]$",
        "weights that are computed from others (pruning, weight norm or another parametrisation)",
        "Make them permanent where the network was trained: prune.remove or "
        "parametrize.remove_parametrizations.",
    ),
    (
        r"to_patch_embedding\.|\.to_qkv\.",
        "a network of vit-pytorch, whose patches pass a norm before they are projected",
        "Give a network of timm, transformers or torchvision.",
    ),
    (
        r"\.attn\.w_msa\.",
        "OpenMMLab's Swin Transformer, which merges tokens in an order of its own",
        "Give the same network of timm, transformers or torchvision.",
    ),
    (
        r"layers\.\d+\.blocks\.\d+\.",
        "a Swin Transformer or another network of windows",
        "Give the name of its architecture, if timm has it.",
    ),
    (
        r"blocks\.\d+\.attn\.(q_bias|relative_position_bias_table|q_proj\.)|rel_pos_bias\.|"
        r"\.rope\.|mlp\.(fc1_g|fc1_x|w12|w1)\.",
        "BEiT, EVA02, DINOv3 or another network with positions of its own kind or gated MLPs",
        "Give the name of its architecture, if timm has it.",
    ),
    (
        r"attn\.rel_pos_[hw]$",
        "the encoder of SAM or ViTDet, whose relative positions the queries multiply",
        "Give the checkpoint of a network that answers an image with one vector.",
    ),
    (
        r"blocks_token_only\.|attn\.proj_l\.",
        "CaiT",
        "Give the name of its architecture, if timm has it.",
    ),
    (
        r"(^|\.)(conv_stem|bn1)\.weight|layer1\.0\.conv1\.weight|features\.\d+\.0?\.?weight|downsample_layers\.|stages\.0\.",
        "a convolutional network such as ResNet or ConvNeXt",
        "Give the checkpoint of a vision transformer.",
    ),
    (
        r"word_embeddings|embed_tokens|token_embedding|wte\.",
        "a language model, or the text part of one for text and images",
        "Give the checkpoint of a vision transformer.",
    ),
    (
        r"decoder_blocks\.|decoder_embed",
        "the decoder of a masked autoencoder",
        "Give the checkpoint that holds its encoder.",
    ),
)


def no_network(tensors: Shapes, path: Path, name: str) -> BadInput:
    """The error for a file in which no vision transformer was found."""
    foreign = _foreign(tensors, path, name)
    if foreign is not None:
        return foreign
    heads = [key for key in tensors if re.search(r"(head|classifier|fc)[.\d]*\.weight$", key)]
    if heads and len(tensors) <= 6:
        what = f"a classifier alone ({', '.join(heads)})"
        return BadInput(
            f"{path} does not fit {name}: it seems to hold {what}.",
            "Give the checkpoint that holds the whole network.",
        )
    shown = ", ".join(list(tensors)[:3])
    return BadInput(
        f"{path} does not fit {name}: no vision transformer is among its {len(tensors)} tensors "
        f"({shown}{', …' if len(tensors) > 3 else ''}).",
        "Name the architecture that this checkpoint was trained with.",
    )


def structure(state: Shapes, expected: Shapes, path: Path, name: str) -> BadInput | None:
    """As :func:`misfit`, of what the parts and the width say, whatever sizes follow the file."""
    extra = [key for key in state if key not in expected]
    foreign = _foreign(extra, path, name, expected)
    if foreign is not None:
        return foreign
    for told in (_by_names(state, expected), _by_width(state, expected)):
        if told is not None:
            return BadInput(f"{path} does not fit {name}: {told[0]}", told[1])
    return None


def _foreign(
    keys: Iterable[str], path: Path, name: str, expected: Iterable[str] = ()
) -> BadInput | None:
    for pattern, what, next_step in _KINDS:
        if any(re.search(pattern, key) for key in expected):
            continue  # of its own kind: in what it differs is told otherwise
        if any(re.search(pattern, key) for key in keys):
            return BadInput(f"{path} does not fit {name}: it seems to hold {what}.", next_step)
    return None


def misfit(state: Shapes, expected: Shapes, path: Path, name: str) -> BadInput | None:
    """The error for a network that is not the named one; None where names and shapes agree."""
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected]
    told = structure(state, expected, path, name)
    if told is not None:
        return told
    if missing or extra:
        first = f"lacks {missing[0]!r}" if missing else f"has an extra {extra[0]!r}"
        return BadInput(
            f"{path} does not fit {name}: it {first} "
            f"({len(missing)} missing, {len(extra)} unexpected of {len(expected)}).",
            "Name the architecture that this checkpoint was trained with, or say in what it "
            "differs: `model_kwargs`, as timm's constructor takes them.",
        )
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape:
            return BadInput(
                f"{path} does not fit {name}: {key} has shape {tuple(tensor.shape)}, and "
                f"{tuple(expected[key].shape)} is expected.",
                "Name the architecture that this checkpoint was trained with, or pass "
                "`image_size`, `num_classes` or `model_kwargs`.",
            )
    return None


def depth_of(keys: Iterable[str]) -> int:
    """How many blocks the names count."""
    found = (re.match(r"blocks\.(\d+)\.", key) for key in keys)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _by_names(state: Shapes, expected: Shapes) -> tuple[str, str] | None:
    """What names in the file say, of one or the other having a part that the other lacks."""

    def only(part: str) -> bool:
        return any(part in key for key in state) and not any(part in key for key in expected)

    if any("lora_" in key for key in state):
        return (
            "it holds LoRA adapters beside the weights.",
            "Merge them into the network (merge_and_unload), and save the whole of it.",
        )
    if only("dist_token"):
        return (
            "it is the distilled form, with a second token and classifier.",
            "Name that form, e.g. deit_t_distilled.",
        )
    if "dist_token" in expected and "dist_token" not in state:
        return "it is not the distilled form.", "Name the plain form, e.g. deit_t."
    inside = re.compile(r"(\w*head|fc|classifier)\.\w+\.weight$")
    heads = [key for key in state if inside.match(key) and key not in expected]
    if heads:
        return (
            f"its head has {len(heads)} layer{'s' * (len(heads) > 1)} inside ({', '.join(heads)}).",
            "Give a network with one Linear as its classifier, or none: without those tensors "
            "it compiles to an embedding.",
        )
    windowed = "layers.0.blocks.0.attn.qkv.weight"
    if windowed in state and windowed in expected:
        second = ".logit_scale"
        if only(second):
            return "it is a Swin v2.", "Name that, e.g. swinv2_tiny_window8_256."
        if any(second in key for key in expected) and not any(second in key for key in state):
            return (
                "it is a Swin of the first form.",
                "Name that, e.g. swin_tiny_patch4_window7_224.",
            )
    if only("reg_token"):
        count = next(tensor.shape[1] for key, tensor in state.items() if "reg_token" in key)
        return (
            f"it has {count} register tokens.",
            f"Name an architecture that has them too, or give `model_kwargs=reg_tokens={count}`.",
        )
    for part, what, argument in (
        ("q_norm", "norms on queries and keys", "qk_norm=true"),
        (".ls1.", "LayerScale, as DeiT-III and DINOv2 have it", "init_values=1e-5"),
        ("norm_pre", "a norm before its blocks, as CLIP has it", "pre_norm=true"),
        ("attn_pool", "attention pooling", "global_pool=map"),
    ):
        if only(part):
            return (
                f"it has {what}.",
                f"Name an architecture that has them too, or give `model_kwargs={argument}`.",
            )
    if "cls_token" in expected and "cls_token" not in state:
        return (
            "it has no class token.",
            "Name an architecture without one, or give "
            "`model_kwargs=class_token=false,global_pool=avg`.",
        )
    return None


def _by_width(state: Shapes, expected: Shapes) -> tuple[str, str] | None:
    own, wanted = _width(state), _width(expected)
    if own is not None and wanted is not None and own != wanted:
        known = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}
        return (
            f"its width is {own}"
            + (f", as in a network named {known[own]}," if own in known else "")
            + f" and not {wanted}.",
            "Name the architecture that this checkpoint was trained with.",
        )
    for stage in range(4):
        prefix = f"layers.{stage}."
        found, wanted_blocks = (
            depth_of(key.removeprefix(prefix) for key in keys if key.startswith(prefix))
            for keys in (state, expected)
        )
        if found and wanted_blocks and found != wanted_blocks:
            return (
                f"its stage {stage + 1} has {found} blocks, and {wanted_blocks} are expected.",
                "Name the right architecture, or give `model_kwargs=depths=[…]`.",
            )
    depth, blocks = depth_of(state), depth_of(expected)
    if depth and blocks and depth != blocks:
        return (
            f"it has {depth} blocks, and {blocks} are expected.",
            f"Name the right architecture, or give `model_kwargs=depth={depth}`.",
        )
    return None


def _width(state: Shapes) -> int | None:
    weight = state.get("patch_embed.proj.weight")
    return None if weight is None else int(weight.shape[0])
