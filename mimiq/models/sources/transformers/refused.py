"""Why networks of other types of transformers are refused: what people take for a ViT."""

from __future__ import annotations

from pathlib import Path

from mimiq.errors import UnsupportedModel
from mimiq.models.sources.transformers.kinds import TYPES

# Each reason ends the sentence "… holds a network of type X, which …".
_WHY = {
    "which takes images of any shape as patches with a mask (NaFlex)": (
        *("siglip2", "siglip2_vision_model"),
    ),
    "which is convolutional, and has no attention": (
        *("convnext", "convnextv2", "dinov3_convnext", "efficientnet", "mobilenet_v1"),
        *("mobilenet_v2", "regnet", "resnet", "bit", "focalnet"),
    ),
    "which is built of batch norms and attention that skips tokens": ("levit",),
    "which mixes attention with convolutional stages": (
        *("mobilevit", "mobilevitv2", "cvt", "efficientformer", "swiftformer"),
    ),
    "which mixes tokens by pooling, and has no attention": ("poolformer",),
    "which pools keys and values between its tokens": ("segformer", "pvt", "pvt_v2"),
    "which pools queries, keys or values between its tokens": ("hiera",),
    "whose ResNet of transformers' own has no description here": ("vit_hybrid",),
    "whose attention for pooling has no description here": ("aimv2", "aimv2_vision_model"),
    "which is a language model's vision part": (
        *("blip", "blip-2", "blip_vision_model", "blip_2_vision_model", "instructblip"),
        *("llava", "mllama", "paligemma", "qwen2_vl", "qwen2_5_vl", "idefics3"),
    ),
    "which is a language model": ("bert", "roberta", "gpt2", "llama", "mistral", "t5"),
    "which finds objects, and does not answer with one vector": (
        *("detr", "conditional_detr", "deformable_detr", "rt_detr", "yolos", "owlvit", "owlv2"),
    ),
    "which finds regions, and does not answer with one vector": (
        *("sam", "sam2", "sam_hq", "mask2former", "maskformer", "oneformer", "clipseg", "eomt"),
    ),
    "which answers with a map of depths, not with one vector": (
        *("dpt", "depth_anything", "glpn", "zoedepth"),
    ),
    "which answers with an image, not with one vector": ("swin2sr",),
    "which takes videos, not images": (
        *("videomae", "vivit", "timesformer", "xclip", "xclip_vision_model", "vjepa2"),
    ),
    "which takes spectrograms of sound, not images": ("audio-spectrogram-transformer", "clap"),
    "which joins two networks that have their own folders": (
        *("vision-text-dual-encoder", "vision-encoder-decoder"),
    ),
}


def unknown_type(kind: str, folder: Path) -> UnsupportedModel:
    """The error for a folder whose ``model_type`` no mapping covers, with what that is if known."""
    why = next((why for why, kinds in _WHY.items() if kind in kinds), "which mimiq does not know")
    return UnsupportedModel(
        f"{folder} holds a network of type {kind!r}, {why}.", f"Known are: {', '.join(TYPES)}."
    )
