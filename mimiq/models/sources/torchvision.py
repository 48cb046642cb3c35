"""torchvision's ``vit_*`` and ``swin_*``: its names for parameters, and how it prepares images."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mimiq.errors import BadInput
from mimiq.files import exhausted
from mimiq.models.checkpoint import Tensors
from mimiq.models.prefixes import Found
from mimiq.models.sources.renaming import renamed
from mimiq.models.sources.transformers.image_processor import crop_share
from mimiq.runtime.preprocessing import Preprocessing

_NAMES = (
    (r"conv_proj\.", "patch_embed.proj."),
    (r"class_token$", "cls_token"),
    (r"encoder\.pos_embedding$", "pos_embed"),
    (r"encoder\.ln\.", "norm."),
    (r"heads\.(?:head\.)?", "head."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.ln_(\d)\.", r"blocks.\1.norm\2."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_", r"blocks.\1.attn.qkv."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.", r"blocks.\1.attn.proj."),
    # Before torchvision 0.12 the MLP's layers were linear_1 and linear_2.
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.", r"blocks.\1.mlp.fc1."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.", r"blocks.\1.mlp.fc2."),
)
# The input's side and the resized side of torchvision's own weights.
_RESIZED = {
    "swin_t": (224, 232),
    "swin_s": (224, 246),
    "swin_b": (224, 238),
    "swin_v2_t": (256, 260),
    "swin_v2_s": (256, 260),
    "swin_v2_b": (256, 272),
}
# Computed from the window's size, and in files all the same.
_COMPUTED = ("relative_position_index", "relative_coords_table")
_BLOCK = r"features\.(\d+)\.(\d+)\."
_SWIN_NAMES = (
    (r"features\.0\.0\.", "patch_embed.proj."),
    (r"features\.0\.2\.", "patch_embed.norm."),
    (_BLOCK + r"attn\.cpb_mlp\.", r"features.\1.blocks.\2.attn.cpb_mlp."),
    (_BLOCK + r"mlp\.0\.", r"features.\1.blocks.\2.mlp.fc1."),
    (_BLOCK + r"mlp\.3\.", r"features.\1.blocks.\2.mlp.fc2."),
    (_BLOCK, r"features.\1.blocks.\2."),
    (r"features\.(\d+)\.(reduction|norm)\.", r"features.\1.downsample.\2."),
    (r"head\.(weight|bias)$", r"head.fc.\1"),
)


def swin_to_timm(found: Found) -> Found:
    """Swin and Swin v2 in timm's names: ``features`` are a stem, then stages and merges in turn."""
    state: Tensors = {}
    for name, tensor in found.state.items():
        name = renamed(name, _SWIN_NAMES)
        position = re.match(r"features\.(\d+)\.", name)
        if position:
            name = f"layers.{int(position[1]) // 2}.{name[position.end() :]}"
        if name.endswith(_COMPUTED):
            continue
        state[name] = tensor
    # Swin v2 has no bias for keys: torchvision sets those in its file to zero when it runs.
    for name in [name for name in state if name.endswith("attn.logit_scale")]:
        where = name.removesuffix("logit_scale")
        query, _, value = state.pop(f"{where}qkv.bias").chunk(3)
        state |= {f"{where}q_bias": query, f"{where}v_bias": value}
    return replace(found, state=state)


def to_timm(found: Found) -> Found:
    """The same network in timm's names."""
    state: Tensors = {}
    # Of two layers neither is the classifier that timm has: both keep names that timm lacks.
    two = "heads.pre_logits.weight" in found.state
    for name, tensor in found.state.items():
        if two and name.startswith("heads."):
            name = name.replace("heads.pre_logits.", "head.first.").replace("heads.", "head.")
        name = renamed(name, _NAMES)
        state[name] = tensor
    return replace(found, state=state)


def preprocessing(base: Preprocessing, name: str) -> Preprocessing:
    """As torchvision's own weights of this size: of a ViT at 224 pixels ``IMAGENET1K_V1``, with a
    resized side of 256; above, ``IMAGENET1K_SWAG_E2E_V1``, without a margin.

    Args:
        base: with the input's size and channels.
        name: torchvision's, of the network.
    """
    if base.channels != 3:
        return base
    if name in _RESIZED:
        own, resized = _RESIZED[name]
        share = crop_share(own, resized) if base.image_size == own else 1.0
        return Preprocessing(base.image_size, share, "bicubic")
    if base.image_size == 224:
        return Preprocessing(224, 224 / 256, "bilinear")
    return Preprocessing(base.image_size, 1.0, "bicubic")


def download(name: str) -> Path:
    """torchvision's own weights, from its cache where they are there.

    Raises:
        BadInput: they could not be downloaded.
    """
    try:
        from torchvision.models import get_model_weights

        weights: Any = next(iter(get_model_weights(name)))
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        path = folder / str(weights.url).rpartition("/")[2]
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(weights.url, str(path), progress=False)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise exhausted(error, f"{name} cannot be loaded") or BadInput(
            f"torchvision's weights of {name} could not be downloaded: {reason}",
            "Connect to the network, or give a checkpoint with `weights` "
            "(`untrained` serves for latency alone).",
        ) from error
    return path
