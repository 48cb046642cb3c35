"""Hugging Face's folders: ``config.json``, its weights, its image processor and its labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mimiq.errors import BadInput, UnsupportedModel
from mimiq.models import checkpoint
from mimiq.models.checkpoint import Tensors
from mimiq.models.prefixes import Found
from mimiq.models.sources import explain, image_processor, layouts, positions
from mimiq.models.sources.original import Original, Request
from mimiq.runtime.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

PROCESSORS = ("preprocessor_config.json", "processor_config.json")

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
}
_VIT_TYPES = ("vit", "deit", "vit_mae", "vit_msn", "ijepa")
_DINO_TYPES = ("dinov2", "dinov2_with_registers")
_CLIP_TYPES = ("clip", "clip_vision_model")
_SIGLIP_TYPES = ("siglip", "siglip_vision_model")
TYPES = (*_VIT_TYPES, *_DINO_TYPES, *_CLIP_TYPES, *_SIGLIP_TYPES)
_OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
_OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


def load(request: Request, folder: Path, config: Mapping[str, Any], weights: Path) -> Original:
    """The network of a folder that transformers saved.

    Args:
        request: what the user asked for.
        folder: where ``config.json`` and the image processor's file are.
        config: what ``config.json`` holds.
        weights: its weights, or another file of the same network.

    Raises:
        BadInput: the folder is incomplete, or its files contradict each other.
        UnsupportedModel: a type of network, or a variant, that is not described here.
    """
    kind = str(config.get("model_type"))
    if kind not in TYPES:
        raise UnsupportedModel(
            f"{folder} holds a network of type {kind!r}, which mimiq does not know.",
            f"Known are: {', '.join(TYPES)}.",
        )
    if request.model_kwargs:
        raise BadInput(
            f"{folder / 'config.json'} says how its network is built, and `model_kwargs` too.",
            "Leave `model_kwargs` out, or change the file.",
        )
    vision = dict(config.get("vision_config") or config)
    found = layouts.read_network(weights, None, request.ema, str(folder))
    state = dict(found.state)
    _check_classifier(config, state, weights)
    processed, processor_note = _preprocessing(folder, kind, vision)
    size = request.image_size or _network_size(kind, vision, processed)
    kwargs, build = _described(kind, config, vision, state)
    notes = [*found.notes, *([processor_note] if processor_note else [])]
    notes += _resize(state, vision, size, kind, kwargs)
    if (processed.height, processed.width) != size and request.image_size is None:
        notes.append(
            f"The image processor gives {processed.height}×{processed.width} pixels, and the "
            f"network takes {size[0]}×{size[1]}: images are resized to that."
        )
    module = _built(build, kwargs | {"img_size": size})
    error = explain.misfit(state, module.state_dict(), weights, str(folder))
    if error is not None:
        raise error
    checkpoint.load_into(module, state, weights, str(folder))
    classes = 0 if _is_embedding(config, state) else int(kwargs["num_classes"])
    if request.num_classes not in (None, classes):
        raise BadInput(
            f"{folder} has {classes or 'no'} classes, but "
            f"`num_classes={request.num_classes}` was given.",
            "Leave `num_classes` out: it follows the folder.",
        )
    if config.get("problem_type") == "multi_label_classification":
        notes.append(
            "The network gives several labels to an image; accuracy and agreement are measured "
            "for the likeliest one alone."
        )
    facts = {key: value for key, value in kwargs.items() if isinstance(value, str | int | float)}
    return Original(
        module,
        f"transformers/{kind}",
        processed.with_size(size).with_channels(int(kwargs["in_chans"])),
        labels=_labels(config, classes),
        output="logits" if classes else "embedding",
        structure=json.dumps(facts | {"img_size": list(size), "type": kind}, sort_keys=True),
        notes=tuple(notes),
    )


def _described(
    kind: str, config: Mapping[str, Any], vision: Mapping[str, Any], state: Tensors
) -> tuple[dict[str, Any], Callable[..., nn.Module]]:
    """The arguments of timm's ViT, and the class; ``state`` is brought to its form."""
    from timm.models.vision_transformer import VisionTransformer

    from mimiq.models.sources.heads import ClassAndPatches, TanhPooled

    width = int(vision["hidden_size"])
    activation = str(vision.get("hidden_act", "gelu"))
    if activation not in _ACTIVATIONS:
        raise UnsupportedModel(
            f"The network's activation is {activation!r}, which mimiq does not know.",
            f"Known are: {', '.join(_ACTIVATIONS)}.",
        )
    eps = vision.get("layer_norm_eps", 1e-12)
    kwargs: dict[str, Any] = {
        "patch_size": int(vision.get("patch_size", 16)),
        "in_chans": int(vision.get("num_channels", 3)),
        "embed_dim": width,
        "depth": int(vision["num_hidden_layers"]),
        "num_heads": int(vision["num_attention_heads"]),
        "mlp_ratio": int(vision.get("intermediate_size", 4 * width)) / width,
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
        "norm_layer": partial(nn.LayerNorm, eps=eps),
        "eps": eps,
        "act_layer": _ACTIVATIONS[activation],
    }
    build: Callable[..., nn.Module] = VisionTransformer
    pooler = {key: state.pop(key) for key in ("pooler.weight", "pooler.bias") if key in state}
    state.pop("mask_token", None)
    if kind in _DINO_TYPES:
        kwargs["mlp_ratio"] = float(vision.get("mlp_ratio", 4))
        kwargs["init_values"] = 1.0
        if vision.get("use_swiglu_ffn"):
            raise UnsupportedModel(
                "The network has SwiGLU layers, as DINOv2's giant has.",
                "Choose a smaller network of the same family.",
            )
        if "head.weight" in state:
            build = ClassAndPatches
            head = state.pop("head.weight")
            state["head.weight"], state["head_patches.weight"] = head[:, :width], head[:, width:]
            state["head_patches.bias"] = torch.zeros(len(head))
    elif kind in _CLIP_TYPES:
        kwargs |= {"pre_norm": True, "class_token": True}
        if "head.bias" in state:
            # The classifier sees the mean of patches as they leave the last block.
            kwargs |= {"global_pool": "avg", "final_norm": False, "fc_norm": False}
            state.pop("norm.weight", None)
            state.pop("norm.bias", None)
        elif "head.weight" in state:
            state["head.bias"] = torch.zeros(len(state["head.weight"]))
    elif kind in _SIGLIP_TYPES:
        kwargs |= {"class_token": False, "global_pool": "map"}
        if "head.weight" in state or not vision.get("vision_use_head", True):
            kwargs |= {"global_pool": "avg", "fc_norm": False}
            for key in [key for key in state if key.startswith("attn_pool.")]:
                del state[key]
    elif kind == "ijepa":
        kwargs |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    elif pooler and "head.weight" not in state and kind in ("vit", "deit"):
        build = TanhPooled
        state |= {key.replace("pooler", "head"): value for key, value in pooler.items()}
    if "dist_token" in state:
        build = _with_distillation(state, kwargs, build)
    if "register_tokens" in state:
        _with_registers(state, kwargs, state.pop("register_tokens"), 1)
    kwargs["num_classes"] = len(state["head.weight"]) if "head.weight" in state else 0
    return kwargs, build


def _with_distillation(
    state: Tensors, kwargs: dict[str, Any], build: Callable[..., nn.Module]
) -> Callable[..., nn.Module]:
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


def _resize(
    state: Tensors,
    vision: Mapping[str, Any],
    size: tuple[int, int],
    kind: str,
    kwargs: Mapping[str, Any],
) -> list[str]:
    """Bring the position embedding to the size; what was done, for the user."""
    patch = int(kwargs["patch_size"])
    own = _pair(vision.get("image_size", 224))
    trained, grid = ((side[0] // patch, side[1] // patch) for side in (own, size))
    position = state["pos_embed"]
    prefix = position.shape[1] - trained[0] * trained[1]
    if trained == grid or prefix < 0:
        return []
    # As transformers itself, which is how the network was meant: without antialiasing but for one.
    state["pos_embed"] = positions.resized(
        position, trained, grid, prefix, antialias=kind == "dinov2_with_registers"
    )
    return [
        f"The position embedding was resized from {trained[0]}×{trained[1]} patches to "
        f"{grid[0]}×{grid[1]}."
    ]


def _built(build: Callable[..., nn.Module], kwargs: Mapping[str, Any]) -> nn.Module:
    given = {key: value for key, value in kwargs.items() if key != "eps"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(**given).eval()


def _check_classifier(config: Mapping[str, Any], state: Tensors, path: Path) -> None:
    names = [str(name) for name in config.get("architectures") or ()]
    wanted = any("ForImageClassification" in name for name in names)
    if wanted and "head.weight" not in state:
        raise BadInput(
            f"{path} has no classifier, and its config.json says {names[0]}.",
            "Give the weights of the whole network, or remove 'architectures' from config.json "
            "to compile an embedding.",
        )


def _is_embedding(config: Mapping[str, Any], state: Tensors) -> bool:
    """A pooler or a projection gives an embedding, and only a classifier gives classes."""
    if "head.weight" not in state:
        return True
    if config.get("model_type") in _CLIP_TYPES:
        return not bool(state["head.bias"].any()) and "norm.weight" in state
    names = [str(name) for name in config.get("architectures") or ()]
    return bool(names) and not any("Classification" in name for name in names)


def _preprocessing(
    folder: Path, kind: str, vision: Mapping[str, Any]
) -> tuple[Preprocessing, str | None]:
    default = _pair(vision.get("image_size", 224))
    for name in PROCESSORS:
        path = folder / name
        if path.is_file():
            config = read_json(path)
            config = config.get("image_processor") or config
            return image_processor.preprocessing(config, default, path), None
    mean, std = (0.5,) * 3, (0.5,) * 3
    if kind in _CLIP_TYPES:
        mean, std = _OPENAI_MEAN, _OPENAI_STD
    elif kind in (*_DINO_TYPES, "deit", "vit_mae", "vit_msn"):
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    assumed = Preprocessing(default, 1.0, "bicubic", mean, std, "squash")
    return assumed, (
        f"{folder} has no preprocessor_config.json: mean {mean} and std {std} are assumed, as "
        f"networks of type {kind} usually have them."
    )


def _network_size(
    kind: str, vision: Mapping[str, Any], processed: Preprocessing
) -> tuple[int, int]:
    # transformers' DINOv2 takes what its processor gives; others insist on their own size.
    if kind in _DINO_TYPES:
        return processed.height, processed.width
    return _pair(vision.get("image_size", 224))


def _labels(config: Mapping[str, Any], classes: int) -> tuple[str, ...] | None:
    names = config.get("id2label") or {}
    try:
        ordered = [str(names[key]) for key in sorted(names, key=int)]
    except (TypeError, ValueError):
        return None
    unnamed = all(label == f"LABEL_{index}" for index, label in enumerate(ordered))
    return None if unnamed or len(ordered) != classes else tuple(ordered)


def _pair(size: Any) -> tuple[int, int]:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def read_json(path: Path) -> dict[str, Any]:
    """
    Raises:
        BadInput: the file cannot be read, or holds no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}", "Copy the folder again.") from error
    if not isinstance(data, dict):
        raise BadInput(f"{path} holds no JSON object.", "Copy the folder again.")
    return data


__all__ = ["TYPES", "Found", "load", "read_json"]
