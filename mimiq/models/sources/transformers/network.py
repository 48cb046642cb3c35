"""Hugging Face's folders: ``config.json``, its weights, its image processor and its labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mimiq.errors import MISREAD, BadInput
from mimiq.files import exhausted
from mimiq.models import checkpoint
from mimiq.models.checkpoint import Tensors
from mimiq.models.sources import explain, layouts, positions, windows
from mimiq.models.sources.original import Original, Request
from mimiq.models.sources.transformers import image_processor
from mimiq.models.sources.transformers.config import Build, described
from mimiq.models.sources.transformers.kinds import (
    BEIT_TYPES,
    CLIP_TYPES,
    DINO_TYPES,
    DINOV3_TYPES,
    SWIN_TYPES,
    TYPES,
    with_defaults,
)
from mimiq.models.sources.transformers.refused import unknown_type
from mimiq.runtime.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

PROCESSORS = ("preprocessor_config.json", "processor_config.json")

_LARGEST = 1_000_000

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
    if "model_type" not in config:
        raise BadInput(
            f"{folder / 'config.json'} names neither a model_type, as transformers, nor an "
            "architecture, as timm.",
            "Give a folder that save_pretrained or timm wrote.",
        )
    if kind not in TYPES:
        raise unknown_type(kind, folder)
    if request.model_kwargs:
        raise BadInput(
            f"{folder / 'config.json'} says how its network is built, and `model_kwargs` too.",
            "Leave `model_kwargs` out, or change the file.",
        )
    found = layouts.read_network(weights, None, request.ema, str(folder))
    state = dict(found.state)
    _check_classifier(config, state, weights)
    try:
        vision = with_defaults(kind, config.get("vision_config") or config)
        processed, processor_note = _preprocessing(folder, kind, vision)
        size = request.image_size or _network_size(kind, vision, processed)
        kwargs, build = described(kind, vision, state)
        _check_sizes(kwargs)
        notes = [*found.notes, *([processor_note] if processor_note else [])]
        notes += _resize(state, vision, size, kind, kwargs)
    except MISREAD as error:
        raise _unreadable(folder, error) from error
    if (processed.height, processed.width) != size and request.image_size is None:
        notes.append(
            f"The image processor gives {processed.height}×{processed.width} pixels, and the "
            f"network takes {size[0]}×{size[1]}: images are resized to that."
        )
    try:
        module = _built(build, kwargs | {"img_size": size})
    except (*MISREAD, RuntimeError) as error:
        raise exhausted(error, f"{folder} cannot be built") or _unreadable(folder, error) from error
    if kind in SWIN_TYPES:
        windows.check_padding(module, str(folder))
    misfit = explain.misfit(state, module.state_dict(), weights, str(folder))
    if misfit is not None:
        raise misfit
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
    named = config.get("id2label") or {}
    if classes and named and len(named) != classes:
        notes.append(
            f"config.json names {len(named)} labels, and the network has {classes} classes: they "
            "are left out."
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


def _resize(
    state: Tensors,
    vision: Mapping[str, Any],
    size: tuple[int, int],
    kind: str,
    kwargs: Mapping[str, Any],
) -> list[str]:
    """Bring positions to the size; what was done, for the user."""
    patch = int(kwargs["patch_size"])
    own = _pair(vision["image_size"])
    trained, grid = ((side[0] // patch, side[1] // patch) for side in (own, size))
    if kind in BEIT_TYPES and (trained != grid or trained[0] != trained[1]):
        for name in [name for name in state if name.endswith("relative_position_bias_table")]:
            state[name] = positions.resized_biases(state[name], trained, grid)
    position = state.get("pos_embed")
    prefix = 0 if position is None else position.shape[1] - trained[0] * trained[1]
    if trained == grid or prefix < 0 or kind in (*SWIN_TYPES, *DINOV3_TYPES):
        return []
    if position is not None:
        # As transformers itself, which is how the network was meant: without antialiasing but for
        # one.
        state["pos_embed"] = positions.resized(
            position, trained, grid, prefix, antialias=kind == "dinov2_with_registers"
        )
    return [
        f"The position embedding was resized from {trained[0]}×{trained[1]} patches to "
        f"{grid[0]}×{grid[1]}."
    ]


def _built(build: Build, kwargs: Mapping[str, Any]) -> nn.Module:
    given = {key: value for key, value in kwargs.items() if key != "eps"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(**given).eval()


def _check_sizes(kwargs: Mapping[str, Any]) -> None:
    """
    Raises:
        ValueError: a size that no network has, and for which building one would take for ever.
    """
    for key, value in kwargs.items():
        if isinstance(value, int) and not 0 <= value <= _LARGEST:
            raise ValueError(f"{key} is {value}")


def _unreadable(folder: Path, error: Exception) -> BadInput:
    return BadInput(
        f"{folder / 'config.json'} describes no network that can be built: "
        f"{type(error).__name__}: {error}",
        "Copy it again from where the network was saved.",
    )


def _check_classifier(config: Mapping[str, Any], state: Tensors, path: Path) -> None:
    names = _architectures(config)
    wanted = any("ForImageClassification" in name for name in names)
    if wanted and not _has_head(state):
        raise BadInput(
            f"{path} has no classifier, and its config.json says {names[0]}.",
            "Give the weights of the whole network, or remove 'architectures' from config.json "
            "to compile an embedding.",
        )


def _is_embedding(config: Mapping[str, Any], state: Tensors) -> bool:
    """A pooler or a projection gives an embedding, and only a classifier gives classes."""
    if not _has_head(state):
        return True
    if config.get("model_type") in CLIP_TYPES:
        return not bool(state["head.bias"].any()) and "norm.weight" in state
    names = _architectures(config)
    return bool(names) and not any("Classification" in name for name in names)


def _architectures(config: Mapping[str, Any]) -> list[str]:
    names = config.get("architectures")
    return [str(name) for name in names] if isinstance(names, list) else []


def _has_head(state: Tensors) -> bool:
    return bool({"head.weight", "head.fc.weight"} & state.keys())


def _preprocessing(
    folder: Path, kind: str, vision: Mapping[str, Any]
) -> tuple[Preprocessing, str | None]:
    default = _pair(vision["image_size"])
    for name in PROCESSORS:
        path = folder / name
        if path.is_file():
            config = read_json(path)
            config = config.get("image_processor") or config
            return image_processor.preprocessing(config, default, path), None
    mean, std = (0.5,) * 3, (0.5,) * 3
    if kind in CLIP_TYPES:
        mean, std = _OPENAI_MEAN, _OPENAI_STD
    elif kind in (*DINO_TYPES, *DINOV3_TYPES, *SWIN_TYPES, "deit", "vit_mae", "vit_msn"):
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
    if kind in (*DINO_TYPES, *DINOV3_TYPES):
        return processed.height, processed.width
    return _pair(vision["image_size"])


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
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise exhausted(error, f"{path} cannot be read") or BadInput(
            f"{path} cannot be read: {error}", "Copy the folder again."
        ) from error
    if not isinstance(data, dict):
        raise BadInput(f"{path} holds no JSON object.", "Copy the folder again.")
    return data
