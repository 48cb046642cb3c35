"""The kinds of networks that transformers saves, and what their ``config.json`` may leave out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VIT_TYPES = ("vit", "deit", "vit_mae", "vit_msn", "ijepa")
DINO_TYPES = ("dinov2", "dinov2_with_registers")
CLIP_TYPES = (
    *("clip", "clip_vision_model", "metaclip_2", "metaclip_2_vision_model"),
    *("chinese_clip", "chinese_clip_vision_model", "altclip", "altclip_vision_model"),
)
SIGLIP_TYPES = ("siglip", "siglip_vision_model")
BEIT_TYPES = ("beit", "data2vec-vision")
SWIN_TYPES = ("swin", "swinv2")
DINOV3_TYPES = ("dinov3_vit",)
TYPES = (
    *VIT_TYPES,
    *DINO_TYPES,
    *DINOV3_TYPES,
    *CLIP_TYPES,
    *SIGLIP_TYPES,
    *BEIT_TYPES,
    *SWIN_TYPES,
)
# What config.json may leave out, as google/siglip-base-patch16-224's does with nearly all.
_BASE: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
_SWIN: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 4,
    "num_channels": 3,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
}
_DINO: dict[str, Any] = _BASE | {"layer_norm_eps": 1e-6, "mlp_ratio": 4}
_CLIP = _BASE | {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
_SIGLIP = _BASE | {"hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "vit_msn": _BASE | {"layer_norm_eps": 1e-6},
    "dinov2": _DINO | {"patch_size": 14},
    "dinov2_with_registers": _DINO,
    "dinov3_vit": _BASE
    | {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
    | {"layer_norm_eps": 1e-5, "rope_theta": 100.0},
    **dict.fromkeys(CLIP_TYPES, _CLIP),
    **dict.fromkeys(SIGLIP_TYPES, _SIGLIP),
    "swin": _SWIN,
    "swinv2": _SWIN | {"pretrained_window_sizes": [0, 0, 0, 0]},
}


def with_defaults(kind: str, vision: Mapping[str, Any]) -> dict[str, Any]:
    """A network's description with what ``config.json`` leaves out, as transformers fills it in.

    Args:
        kind: the ``model_type``.
        vision: the part of ``config.json`` that describes the network for images.
    """
    return _DEFAULTS.get(kind, _BASE) | dict(vision)
