"""What ``config.json`` of transformers says of a network, as the arguments of timm's classes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from mimiq.errors import UnsupportedModel
from mimiq.models.checkpoint import Tensors
from mimiq.models.sources.transformers.kinds import (
    BEIT_TYPES,
    CLIP_TYPES,
    DINO_TYPES,
    DINOV3_TYPES,
    SIGLIP_TYPES,
    SWIN_TYPES,
)

Build = Callable[..., nn.Module]

_TABLE = "relative_position_bias_table"
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def described(kind: str, vision: Mapping[str, Any], state: Tensors) -> tuple[dict[str, Any], Build]:
    """The arguments of timm's network, and its class.

    Args:
        kind: the ``model_type``.
        vision: the part of ``config.json`` that describes the network for images.
        state: in timm's names, classifier included; brought to the form of the class.

    Raises:
        UnsupportedModel: a variant that is not described here.
    """
    if kind in SWIN_TYPES:
        return _swin(kind, vision, state)
    kwargs: dict[str, Any] = {
        "depth": int(vision["num_hidden_layers"]),
        "num_heads": int(vision["num_attention_heads"]),
        "num_classes": len(state["head.weight"]) if "head.weight" in state else 0,
    }
    kwargs |= _common(vision, int(vision["hidden_size"]))
    kwargs["mlp_ratio"] = _ratio(int(vision["intermediate_size"]), kwargs["embed_dim"])
    if kind in BEIT_TYPES:
        return _beit(vision, state, kwargs)
    if kind in DINOV3_TYPES:
        return _dinov3(vision, state, kwargs)
    return _vit(kind, vision, state, kwargs)


def _vit(
    kind: str, vision: Mapping[str, Any], state: Tensors, kwargs: dict[str, Any]
) -> tuple[dict[str, Any], Build]:
    from timm.layers.mlp import SwiGLUPacked
    from timm.models.vision_transformer import VisionTransformer

    from mimiq.models.sources.heads import ClassAndPatches, TanhPooled

    width = int(kwargs["embed_dim"])
    kwargs |= {"qkv_bias": "blocks.0.attn.qkv.bias" in state, "act_layer": _activation(vision)}
    build: Build = VisionTransformer
    pooler = {key: state.pop(key) for key in ("pooler.weight", "pooler.bias") if key in state}
    state.pop("mask_token", None)
    if kind in DINO_TYPES:
        kwargs["mlp_ratio"] = float(vision["mlp_ratio"])
        kwargs["init_values"] = 1.0
        if vision.get("use_swiglu_ffn"):  # as DINOv2's giant
            hidden = len(state["blocks.0.mlp.fc1.weight"])
            kwargs |= {"mlp_ratio": _ratio(hidden, width), "mlp_layer": SwiGLUPacked}
            kwargs["act_layer"] = "silu"
        if "head.weight" in state:
            build = ClassAndPatches
            head = state.pop("head.weight")
            state["head.weight"], state["head_patches.weight"] = head[:, :width], head[:, width:]
            state["head_patches.bias"] = torch.zeros(len(head))
    elif kind in CLIP_TYPES:
        kwargs |= {"pre_norm": True, "class_token": True}
        if "head.bias" in state:
            # The classifier sees the mean of patches as they leave the last block.
            kwargs |= {"global_pool": "avg", "final_norm": False, "fc_norm": False}
            state.pop("norm.weight", None)
            state.pop("norm.bias", None)
        elif "head.weight" in state:
            state["head.bias"] = torch.zeros(len(state["head.weight"]))
    elif kind in SIGLIP_TYPES:
        kwargs |= {"class_token": False, "global_pool": "map"}
        if "head.weight" in state or not vision.get("vision_use_head", True):
            kwargs |= {"global_pool": "avg", "fc_norm": False}
            for key in [key for key in state if key.startswith("attn_pool.")]:
                del state[key]
    elif kind == "ijepa":
        kwargs |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    elif pooler and "head.weight" not in state and kind in ("vit", "deit"):
        _require_tanh(vision)
        build = TanhPooled
        state |= {key.replace("pooler", "head"): value for key, value in pooler.items()}
    if "dist_token" in state:
        build = _with_distillation(state, kwargs, build)
    if "register_tokens" in state:
        _with_registers(state, kwargs, state.pop("register_tokens"), 1)
    kwargs["num_classes"] = len(state["head.weight"]) if "head.weight" in state else 0
    return kwargs, build


def _with_distillation(state: Tensors, kwargs: dict[str, Any], build: Build) -> Build:
    """DeiT's second token: with its own classifier, or as a register that no classifier sees."""
    from timm.models.deit import VisionTransformerDistilled

    if "head_dist.weight" in state:
        return VisionTransformerDistilled
    _with_registers(state, kwargs, state.pop("dist_token"), 2)
    return build


def _with_registers(
    state: Tensors, kwargs: dict[str, Any], registers: torch.Tensor, positions: int
) -> None:
    """Tokens behind the class token; what positions they have is added to them here.

    Args:
        registers: (1, R, C).
        positions: entries of the position embedding before the patches': 1, or 1 + R.
    """
    position = state["pos_embed"]
    state["cls_token"] = state["cls_token"] + position[:, :1]
    state["reg_token"] = registers + position[:, 1:positions] if positions > 1 else registers
    state["pos_embed"] = position[:, positions:]
    kwargs |= {"reg_tokens": registers.shape[1], "no_embed_class": True}


def _beit(
    vision: Mapping[str, Any], state: Tensors, kwargs: dict[str, Any]
) -> tuple[dict[str, Any], Build]:
    from timm.models.beit import Beit

    _require_gelu(vision)
    state.pop("mask_token", None)
    averaged = "fc_norm.weight" in state
    if not averaged and "norm.weight" not in state:
        raise UnsupportedModel(
            "The network was saved without its pooler, and its patches are not averaged yet.",
            "Give one that was fine-tuned, or saved with its pooler (BeitModel).",
        )
    kwargs |= {
        "init_values": 1.0 if "blocks.0.gamma_1" in state else None,
        "use_abs_pos_emb": "pos_embed" in state,
        "use_rel_pos_bias": f"blocks.0.attn.{_TABLE}" in state,
        "use_shared_rel_pos_bias": f"rel_pos_bias.{_TABLE}" in state,
        "global_pool": "avg" if averaged else "token",
        "use_fc_norm": averaged,
    }
    return kwargs, Beit


def _swin(kind: str, vision: Mapping[str, Any], state: Tensors) -> tuple[dict[str, Any], Build]:
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    _require_gelu(vision)
    if vision.get("use_absolute_embeddings"):
        raise UnsupportedModel(
            "The network adds a position embedding to its patches beside the windows' own, which "
            "no Swin of timm's does.",
            "Choose a network trained with use_absolute_embeddings=false.",
        )
    state.pop("embeddings.mask_token", None)
    kwargs = {
        "depths": tuple(vision["depths"]),
        "num_heads": tuple(vision["num_heads"]),
        "window_size": int(vision["window_size"]),
        "mlp_ratio": float(vision["mlp_ratio"]),
        "qkv_bias": bool(vision["qkv_bias"]),
        "num_classes": len(state["head.fc.weight"]) if "head.fc.weight" in state else 0,
    }
    kwargs |= _common(vision, int(vision["embed_dim"]))
    if kind == "swin":
        return kwargs, SwinTransformer
    kwargs["pretrained_window_sizes"] = tuple(vision["pretrained_window_sizes"])
    return kwargs, SwinTransformerV2


def _dinov3(
    vision: Mapping[str, Any], state: Tensors, kwargs: dict[str, Any]
) -> tuple[dict[str, Any], Build]:
    from timm.models.eva import Eva

    if vision.get("key_bias"):
        raise UnsupportedModel(
            "The network's keys have a bias (key_bias), which no DINOv3 of timm's has.",
            "Choose a network trained with key_bias=false.",
        )
    if not state["reg_token"].shape[1]:
        del state["reg_token"]
    for name in [name for name in state if re.search(r"(attn\.proj|mlp\.\w+)\.weight$", name)]:
        bias = name.removesuffix("weight") + "bias"
        state.setdefault(bias, torch.zeros(len(state[name])))  # timm's have one always
    gated = "blocks.0.mlp.fc1_g.weight" in state
    _require_gelu(vision, "silu" if gated else "gelu")
    kwargs |= {
        "qkv_bias": "blocks.0.attn.q_bias" in state,
        "init_values": 1.0,
        "swiglu_mlp": gated,
        "swiglu_align_to": 1,  # which gives the form of two Linears
        "num_reg_tokens": state["reg_token"].shape[1] if "reg_token" in state else 0,
        "use_abs_pos_emb": False,
        "use_rot_pos_emb": True,
        "rope_type": "dinov3",
        "rope_temperature": float(vision["rope_theta"]),
        "rope_rotate_half": True,
        "global_pool": "token",
        "use_fc_norm": False,
    }
    return kwargs, Eva


def _common(vision: Mapping[str, Any], width: int) -> dict[str, Any]:
    eps = float(vision["layer_norm_eps"])
    return {
        "patch_size": _side(vision["patch_size"]),
        "in_chans": int(vision["num_channels"]),
        "embed_dim": width,
        "norm_layer": partial(nn.LayerNorm, eps=eps),
        "eps": eps,
    }


def _side(size: Any) -> int:
    """
    Raises:
        ValueError: height and width are not the same.
    """
    sides = {int(side) for side in size} if isinstance(size, list | tuple) else {int(size)}
    if len(sides) != 1:
        raise ValueError(f"patches of {size} are no squares")
    return sides.pop()


def _ratio(hidden: int, width: int) -> float:
    """The ratio of which ``int(ratio * width)`` is the number of hidden units."""
    ratio = hidden / width
    return ratio if int(ratio * width) == hidden else math.nextafter(ratio, math.inf)


def _activation(vision: Mapping[str, Any]) -> str:
    name = str(vision["hidden_act"])
    if name not in _ACTIVATIONS:
        raise UnsupportedModel(
            f"The network's activation is {name!r}, which mimiq does not know.",
            f"Known are: {', '.join(_ACTIVATIONS)}.",
        )
    return _ACTIVATIONS[name]


def _require_tanh(vision: Mapping[str, Any]) -> None:
    """
    Raises:
        UnsupportedModel: the pooler has another activation.
    """
    name = str(vision.get("pooler_act", "tanh"))
    if name != "tanh":
        raise UnsupportedModel(
            f"The pooler's activation is {name!r}: mimiq knows 'tanh' alone.",
            "Save the network without its pooler (add_pooling_layer=False) to compile the class "
            "token.",
        )


def _require_gelu(vision: Mapping[str, Any], wanted: str = "gelu") -> None:
    """
    Raises:
        UnsupportedModel: timm's class has another activation than the network.
    """
    name = str(vision["hidden_act"])
    if name != wanted:
        raise UnsupportedModel(
            f"The network's activation is {name!r}: in its family mimiq knows {wanted!r} alone.",
            "Choose a network of its family with that.",
        )
