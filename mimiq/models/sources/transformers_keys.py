"""Hugging Face's names for the parameters of ViT and of CLIP's and SigLIP's towers, as timm's.

Two generations of names are on hub and disks: ``encoder.layer.0.attention.attention.query`` is what
a saved folder holds, ``layers.0.attention.q_proj`` what a network of transformers 5 has in memory.
"""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from mimiq.models.checkpoint import Tensors
from mimiq.models.prefixes import Found
from mimiq.models.sources.renaming import renamed

_LAYER = r"(?:encoder\.)?layers?\.(\d+)\."

_VIT = (
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"embeddings\.position_embeddings$", "pos_embed"),
    (r"embeddings\.cls_token$", "cls_token"),
    (r"embeddings\.distillation_token$", "dist_token"),
    (r"embeddings\.register_tokens$", "register_tokens"),
    (r"embeddings\.mask_token$", "mask_token"),
    (_LAYER + r"(?:layernorm_before|norm1)\.", r"blocks.\1.norm1."),
    (_LAYER + r"(?:layernorm_after|norm2)\.", r"blocks.\1.norm2."),
    (_LAYER + r"attention\.(?:attention\.query|q_proj)\.", r"blocks.\1.attn.q."),
    (_LAYER + r"attention\.(?:attention\.key|k_proj)\.", r"blocks.\1.attn.k."),
    (_LAYER + r"attention\.(?:attention\.value|v_proj)\.", r"blocks.\1.attn.v."),
    (_LAYER + r"attention\.(?:output\.dense|o_proj)\.", r"blocks.\1.attn.proj."),
    (_LAYER + r"(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.", r"blocks.\1.mlp.fc1."),
    (_LAYER + r"(?:output\.dense|mlp\.fc2|mlp\.weights_out)\.", r"blocks.\1.mlp.fc2."),
    (_LAYER + r"layer_scale(\d)\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (r"layernorm\.", "norm."),
    (r"pooler\.dense\.", "pooler."),
)
_CLIP = (
    (r"embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"embeddings\.class_embedding$", "cls_token"),
    (r"pre_layrnorm\.", "norm_pre."),
    (r"post_layernorm\.", "norm."),
    (_LAYER + r"layer_norm(\d)\.", r"blocks.\1.norm\2."),
    (_LAYER + r"self_attn\.(q|k|v)_proj\.", r"blocks.\1.attn.\2."),
    (_LAYER + r"self_attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (_LAYER + r"mlp\.", r"blocks.\1.mlp."),
    # SigLIP's head pools by attention.
    (r"head\.probe$", "attn_pool.latent"),
    (r"head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"head\.attention\.in_proj_", "attn_pool.in."),
    (r"head\.layernorm\.", "attn_pool.norm."),
    (r"head\.mlp\.", "attn_pool.mlp."),
)
_HEADS = {
    "classifier": "head",
    "cls_classifier": "head",
    "distillation_classifier": "head_dist",
    "visual_projection": "head",
}


def vit(found: Found) -> Found:
    """ViT, DeiT, DINOv2, MAE, MSN and I-JEPA in timm's names; what has none keeps its own."""
    return _translated(found, _VIT)


def clip(found: Found) -> Found:
    """The image tower of CLIP or SigLIP in timm's names; the text tower left out."""
    translated = _translated(found, _CLIP)
    state = translated.state
    if "cls_token" in state:
        state["cls_token"] = state["cls_token"].reshape(1, 1, -1)
    state["pos_embed"] = state["pos_embed"].unsqueeze(0)
    for kind in ("weight", "bias"):
        joined = state.pop(f"attn_pool.in.{kind}", None)
        if joined is not None:
            width = len(joined) // 3
            state[f"attn_pool.q.{kind}"] = joined[:width]
            state[f"attn_pool.kv.{kind}"] = joined[width:]
    beside = {
        name: tensor
        for name, tensor in translated.beside.items()
        if not name.startswith(("text_", "logit_"))
    }
    projection = "head.weight" in state and "head.bias" not in state
    return replace(translated, beside=beside, projection=projection)


def _translated(found: Found, names: tuple[tuple[str, str], ...]) -> Found:
    """The network's own names by ``names``; heads are taken from beside it."""
    outer = found.prefix.rpartition(".")[0].rpartition(".")[0]
    outer = f"{outer.rpartition('/')[2]}." if outer and not outer.endswith("/") else ""
    state: Tensors = {}
    for name, tensor in found.state.items():
        state[_renamed(name, names)] = tensor
    beside: Tensors = {}
    for name, tensor in found.beside.items():
        inner = name.removeprefix(outer)
        head, _, kind = inner.rpartition(".")
        if head in _HEADS:
            state[f"{_HEADS[head]}.{kind}"] = tensor
        # Some of transformers 5's folders have lost the network's name before the layers'.
        elif re.match(_LAYER, inner) and _renamed(inner, names) != inner:
            state[_renamed(inner, names)] = tensor
        else:
            beside[name] = tensor
    return replace(found, state=_joined(state), beside=beside)


def _renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    head, _, kind = name.rpartition(".")
    if head in _HEADS:
        return f"{_HEADS[head]}.{kind}"
    return renamed(name, names)


def _joined(state: Tensors) -> Tensors:
    """Query, key and value as timm's one Linear."""
    result = {
        name: tensor for name, tensor in state.items() if not re.search(r"\.attn\.[qkv]\.", name)
    }
    for name in state:
        match = re.fullmatch(r"(blocks\.\d+\.attn)\.q\.(weight|bias)", name)
        if match:
            parts = [state[f"{match[1]}.{part}.{match[2]}"] for part in "qkv"]
            result[f"{match[1]}.qkv.{match[2]}"] = torch.cat(parts)
    return result
