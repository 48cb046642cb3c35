"""Google's ViT archives (``.npz``) in timm's names: augreg's and Big Vision's."""

from __future__ import annotations

import re
from dataclasses import replace

import torch

from mimiq.models.checkpoint import Tensors
from mimiq.models.prefixes import Found
from mimiq.models.sources.renaming import renamed

_BLOCK = r"Transformer/encoderblock_(\d+)/"
_NAMES = (
    (r"embedding/", "patch_embed.proj."),
    (r"cls$", "cls_token"),
    (r"(?:Transformer/posembed_input/)?pos_embedding$", "pos_embed"),
    (r"Transformer/encoder_norm/", "norm."),
    (_BLOCK + r"LayerNorm_0/", r"blocks.\1.norm1."),
    (_BLOCK + r"LayerNorm_[12]/", r"blocks.\1.norm2."),
    (_BLOCK + r"MultiHeadDotProductAttention_\d/(query|key|value)/", r"blocks.\1.attn.\2."),
    (_BLOCK + r"MultiHeadDotProductAttention_\d/out/", r"blocks.\1.attn.proj."),
    (_BLOCK + r"MlpBlock_\d/Dense_0/", r"blocks.\1.mlp.fc1."),
    (_BLOCK + r"MlpBlock_\d/Dense_1/", r"blocks.\1.mlp.fc2."),
    (r"head/", "head."),
    (r"pre_logits/", "pre_logits.fc."),
)


def to_timm(found: Found) -> Found:
    """The same network in timm's names and order of axes."""
    state: Tensors = {}
    for name, tensor in found.state.items():
        name = renamed(name, _NAMES)
        name = name.replace("scale", "weight") if "norm" in name else name
        state[name.replace("kernel", "weight")] = _transposed(name, tensor)
    return replace(found, state=_joined(state))


def _transposed(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if name == "patch_embed.proj.kernel":
        return tensor.permute(3, 2, 0, 1).contiguous()
    if re.search(r"attn\.(query|key|value)\.", name):
        return tensor.flatten(1).T.contiguous() if "kernel" in name else tensor.flatten()
    if name.endswith("attn.proj.kernel"):
        return tensor.flatten(0, 1).T.contiguous()
    if name.endswith("kernel"):
        return tensor.T.contiguous()
    return tensor


def _joined(state: Tensors) -> Tensors:
    result = {
        name: tensor
        for name, tensor in state.items()
        if not re.search(r"attn\.(query|key|value)\.", name)
    }
    for name in state:
        match = re.fullmatch(r"(blocks\.\d+\.attn)\.query\.(weight|bias)", name)
        if match:
            parts = [state[f"{match[1]}.{part}.{match[2]}"] for part in ("query", "key", "value")]
            result[f"{match[1]}.qkv.{match[2]}"] = torch.cat(parts)
    return result
