"""Hugging Face's names for the parameters of vision transformers, as timm's.

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

_LAYER = r"(?:encoder\.|model\.)?layers?\.(\d+)\."
_STAGE = r"(?:encoder\.)?layers\.(\d+)\."
_BLOCK = _STAGE + r"blocks\.(\d+)\."
_TABLE = "relative_position_bias_table"

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
    (
        _LAYER + r"(?:output\.dense|mlp\.fc2|mlp\.weights_out|mlp\.down_proj)\.",
        r"blocks.\1.mlp.fc2.",
    ),
    (_LAYER + r"mlp\.gate_proj\.", r"blocks.\1.mlp.gate."),
    (_LAYER + r"mlp\.up_proj\.", r"blocks.\1.mlp.up."),
    (_LAYER + r"layer_scale(\d)\.lambda1$", r"blocks.\1.ls\2.gamma"),
    (r"layernorm\.", "norm."),
    (r"pooler\.dense\.", "pooler."),
)
_BEIT = (
    (_LAYER + r"lambda_(\d)$", r"blocks.\1.gamma_\2"),
    (
        _LAYER + rf"(?:attention\.attention\.)?relative_position_bias\.{_TABLE}$",
        rf"blocks.\1.attn.{_TABLE}",
    ),
    (
        rf"(?:encoder\.relative_position_bias|shared_position_bias)\.{_TABLE}$",
        f"rel_pos_bias.{_TABLE}",
    ),
    (r"pooler\.layernorm\.", "fc_norm."),
    *_VIT,
)
_SWIN = (
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"embeddings\.norm\.", "patch_embed.norm."),
    (_BLOCK + r"layernorm_before\.", r"layers.\1.blocks.\2.norm1."),
    (_BLOCK + r"layernorm_after\.", r"layers.\1.blocks.\2.norm2."),
    (_BLOCK + r"attention\.(?:self\.query|q_proj)\.", r"layers.\1.blocks.\2.attn.q."),
    (_BLOCK + r"attention\.(?:self\.key|k_proj)\.", r"layers.\1.blocks.\2.attn.k."),
    (_BLOCK + r"attention\.(?:self\.value|v_proj)\.", r"layers.\1.blocks.\2.attn.v."),
    (_BLOCK + r"attention\.(?:output\.dense|o_proj)\.", r"layers.\1.blocks.\2.attn.proj."),
    (
        _BLOCK + rf"attention\.(?:self|relative_position_bias)\.{_TABLE}$",
        rf"layers.\1.blocks.\2.attn.{_TABLE}",
    ),
    (_BLOCK + r"attention\.self\.logit_scale$", r"layers.\1.blocks.\2.attn.logit_scale"),
    (
        _BLOCK + r"attention\.self\.continuous_position_bias_mlp\.",
        r"layers.\1.blocks.\2.attn.cpb_mlp.",
    ),
    (_BLOCK + r"(?:intermediate\.dense|mlp\.fc1)\.", r"layers.\1.blocks.\2.mlp.fc1."),
    (_BLOCK + r"(?:output\.dense|mlp\.fc2)\.", r"layers.\1.blocks.\2.mlp.fc2."),
    # Here tokens are merged at a stage's end, and in timm at the beginning of the next.
    (_STAGE + r"downsample\.", r"layers.\1.downsample."),
    (r"layernorm\.", "norm."),
)
_DINOV3 = (
    (r"embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"embeddings\.register_tokens$", "reg_token"),
    (_LAYER + r"attention\.v_proj\.", r"blocks.\1.attn.v."),
    (_LAYER + r"layer_scale(\d)\.lambda1$", r"blocks.\1.gamma_\2"),
    *_VIT,
)
# Computed from the window's size, and in files all the same.
_COMPUTED = ("relative_position_index", "relative_coords_table")
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
    """Networks whose patches are projected by the same name: ViT, DeiT, DINOv2, MAE, MSN, I-JEPA,
    BEiT, Data2Vec and Swin in timm's names; what has none keeps its own.
    """
    names, beside = found.state, found.beside
    if any(re.match(_BLOCK, name) for name in names):
        return _merging_first(_translated(found, _SWIN))
    own = ("lambda_1", _TABLE, "pooler.layernorm.weight")
    if any(name.endswith(own) for name in (*names, *beside)):
        return replace(_translated(found, _BEIT), epsilon=1e-12)
    translated = _translated(found, _VIT)
    scaled = "blocks.0.ls1.gamma" in translated.state  # DINOv2, with timm's own
    epsilon = None if scaled else 1e-12
    return replace(translated, state=_gates_joined(translated.state), epsilon=epsilon)


def dinov3(found: Found) -> Found:
    """DINOv3's ViT in the names of timm's ``Eva``."""
    translated = _translated(found, _DINOV3)
    state = {
        name.replace(".mlp.gate.", ".mlp.fc1_g.").replace(".mlp.up.", ".mlp.fc1_x."): tensor
        for name, tensor in translated.state.items()
        if name != "mask_token"
    }
    if not any(".mlp.fc1_g." in name for name in state):
        state = {name.replace(".mlp.fc1_x.", ".mlp.fc1."): state[name] for name in state}
    return replace(translated, state=state)


def _merging_first(found: Found) -> Found:
    """Swin as timm has it: tokens are merged before a stage, and the classifier is ``head.fc``."""
    state = {}
    for name, tensor in found.state.items():
        stage = re.match(r"layers\.(\d+)\.downsample\.", name)
        if stage:
            name = f"layers.{int(stage[1]) + 1}.{name[len(f'layers.{stage[1]}.') :]}"
        state[re.sub(r"^head\.", "head.fc.", name)] = tensor
    return replace(found, state=state)


def _gates_joined(state: Tensors) -> Tensors:
    """The two first Linears of a gated MLP as DINOv2's one."""
    result = dict(state)
    for name in state:
        if ".mlp.gate." in name:
            up = result.pop(name.replace(".gate.", ".up."))
            result[name.replace(".gate.", ".fc1.")] = torch.cat([result.pop(name), up])
    return result


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
    epsilon = 1e-5 if "cls_token" in state else None  # CLIP's; SigLIP's is timm's own
    return replace(translated, beside=beside, projection=projection, epsilon=epsilon)


def _translated(found: Found, names: tuple[tuple[str, str], ...]) -> Found:
    """The network's own names by ``names``; heads are taken from beside it."""
    outer = found.prefix.rpartition(".")[0].rpartition(".")[0]
    outer = f"{outer.rpartition('/')[2]}." if outer and not outer.endswith("/") else ""
    state: Tensors = {}
    for name, tensor in found.state.items():
        if not name.endswith(_COMPUTED):
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
    """Query, key and value as timm's one Linear; the biases apart where keys have none."""
    result = {
        name: tensor for name, tensor in state.items() if not re.search(r"\.attn\.[qkv]\.", name)
    }
    for name in state:
        match = re.fullmatch(r"(.*\.attn)\.[qkv]\.(weight|bias)", name)
        if not match:
            continue
        where, kind = match.groups()
        if f"{where}.qkv.{kind}" in result:
            continue
        parts = {part: state.get(f"{where}.{part}.{kind}") for part in "qkv"}
        if kind == "bias" and parts["k"] is None:
            width = len(state[f"{where}.q.weight"])
            for part in "qv":
                bias = parts[part]
                result[f"{where}.{part}_bias"] = torch.zeros(width) if bias is None else bias
        else:
            filled = [tensor for tensor in parts.values() if tensor is not None]
            result[f"{where}.qkv.{kind}"] = torch.cat(filled)
    return result
