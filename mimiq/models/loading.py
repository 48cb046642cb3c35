"""From a name (and perhaps a file of weights) to a :class:`LoadedModel`."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mimiq.errors import BadInput, UnsupportedModel
from mimiq.models import checkpoint
from mimiq.models.family import Family
from mimiq.models.vit import ViTFamily
from mimiq.runtime.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

EMBEDDED = "digits"

SHORT_NAMES = {
    "deit_t": "deit_tiny_patch16_224",
    "deit_s": "deit_small_patch16_224",
    "deit_b": "deit_base_patch16_224",
    "deit_t_distilled": "deit_tiny_distilled_patch16_224",
    "deit_s_distilled": "deit_small_distilled_patch16_224",
    "deit_b_distilled": "deit_base_distilled_patch16_224",
    # Trained on ImageNet-21k and fine-tuned on 1k with AugReg: the weights of the published tables.
    "vit_t": "vit_tiny_patch16_224",
    "vit_s": "vit_small_patch16_224",
    "vit_b": "vit_base_patch16_224",
}

FAMILIES: tuple[Family, ...] = (ViTFamily(),)


@dataclass(frozen=True)
class LoadedModel:
    """A trained network, ready for every stage.

    Attributes:
        name: as the user wrote it.
        architecture: timm's name, or ``digits``.
        module: the network with explicit attention, eval mode, frozen, fp32, on the CPU.
            Maps (B, 3, S, S) normalised images to (B, num_classes) logits.
        family: where its parts are.
        preprocessing: from image file to network input.
        num_classes: width of the logits.
        weights_hash: SHA-256 of the state dict.
        labels: class names, where known.
        untrained: random weights, good for latency alone.
    """

    name: str
    architecture: str
    module: nn.Module
    family: Family
    preprocessing: Preprocessing
    num_classes: int
    weights_hash: str
    labels: tuple[str, ...] | None = None
    untrained: bool = False

    def describe(self) -> dict[str, Any]:
        """The manifest's entry."""
        return {
            "name": self.name,
            "architecture": self.architecture,
            "family": self.family.name,
            "num_classes": self.num_classes,
            "parameters": sum(p.numel() for p in self.module.parameters()),
            "weights_sha256": self.weights_hash,
            "untrained": self.untrained,
        }


def load_model(
    name: str,
    *,
    weights: Path | None = None,
    untrained: bool = False,
    num_classes: int | None = None,
    image_size: int | None = None,
    crop_pct: float | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    labels: tuple[str, ...] | None = None,
) -> LoadedModel:
    """Load a trained ViT.

    Args:
        name: a short name (:data:`SHORT_NAMES`), ``digits``, or any timm ViT/DeiT name.
        weights: a ``.safetensors`` or ``.pth`` file; without it, timm downloads its own.
        untrained: random weights instead (seed 0), for latency work only.
        num_classes, image_size: override what the checkpoint's head and position embedding say;
            a contradiction is an error.
        crop_pct, mean, std: override the preprocessing that belongs to the timm name.
        labels: class names in order.

    Raises:
        BadInput: unknown name, unreadable or foreign checkpoint, contradiction, or neither network
            nor file.
        UnsupportedModel: the network is of no family described here.
    """
    if untrained and weights is not None:
        raise BadInput("--untrained and --weights exclude each other.", "Give one of them.")
    if name == EMBEDDED:
        from mimiq.models.digits import create_digits, digits_labels, digits_preprocessing

        original, architecture = create_digits(), EMBEDDED
        preprocessing = digits_preprocessing()
        labels = labels or digits_labels()
        if weights is not None:
            checkpoint.load_into(original, checkpoint.read_state_dict(weights), weights, name)
        own = (crop_pct, mean, std) == (None, None, None)
        if untrained or num_classes not in (None, 10) or image_size not in (None, 32) or not own:
            raise BadInput(
                "The embedded model is trained, has 10 classes and takes 32×32 images as they are.",
                "Leave out --untrained, --num-classes, --image-size, --crop-pct, --mean and --std.",
            )
    else:
        architecture = SHORT_NAMES.get(name, name)
        _check_known(name, architecture)
        state = checkpoint.read_state_dict(weights) if weights is not None else None
        shape = _shape_of(state, num_classes, image_size, weights) if state is not None else {}
        if state is None:
            shape = _given(num_classes=num_classes, img_size=image_size)
        pretrained = state is None and not untrained
        if pretrained and _is_doubtful(architecture):
            _family_of(_create(name, architecture, False, shape), architecture)  # ere it downloads
        original = _create(name, architecture, pretrained, shape)
        if state is not None:
            assert weights is not None
            checkpoint.load_into(original, state, weights, name)
        preprocessing = _preprocessing(original, shape.get("img_size"), crop_pct, mean, std)

    family = _family_of(original, architecture)
    _check_patches(original, name, preprocessing.image_size)
    classes = int(getattr(original, "num_classes", 0))
    if labels is not None and len(labels) != classes:
        raise BadInput(
            f"{len(labels)} labels were given, but {name} has {classes} classes.",
            "Give one label a line, in class order.",
        )
    return LoadedModel(
        name=name,
        architecture=architecture,
        module=family.rewrite(original),
        family=family,
        preprocessing=preprocessing,
        num_classes=classes,
        weights_hash=checkpoint.sha256_state(original.state_dict()),
        labels=labels,
        untrained=untrained,
    )


def _family_of(module: nn.Module, architecture: str) -> Family:
    for family in FAMILIES:
        if family.matches(module):
            return family
    raise UnsupportedModel(
        f"{architecture} is a {type(module).__name__}, no vision transformer known here.",
        "Choose a ViT or DeiT from timm, e.g. deit_s.",
    )


def _is_doubtful(architecture: str) -> bool:
    """Whether timm builds it elsewhere than the ViTs that are known here."""
    import timm

    module = timm.models.model_entrypoint(architecture.split(".")[0]).__module__
    return module.rpartition(".")[2] not in ("vision_transformer", "deit")


def _check_patches(module: nn.Module, name: str, image_size: int) -> None:
    patches = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    for patch in patches or ():
        if image_size % patch:
            raise BadInput(
                f"Images of {image_size} pixels do not divide into the patches of {name}, "
                f"{patch} pixels each.",
                f"Give an --image-size that is a multiple of {patch}.",
            )


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _check_known(name: str, architecture: str) -> None:
    import timm

    if timm.is_model(architecture.split(".")[0]):
        return
    known = [*SHORT_NAMES, EMBEDDED, *timm.list_models("*vit*"), *timm.list_models("deit*")]
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"Did you mean {' or '.join(close)}?" if close else "Run: mimiq models"
    raise BadInput(f"Model {name!r} is unknown.", hint)


def _create(name: str, architecture: str, pretrained: bool, shape: Mapping[str, Any]) -> nn.Module:
    import timm

    # timm and its hub client warn about retries at length; our error says what is needed.
    logging.getLogger("timm").setLevel(logging.ERROR)
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module: nn.Module = timm.create_model(architecture, pretrained=pretrained, **shape)
    except Exception as error:
        if not pretrained:
            raise UnsupportedModel(
                f"{architecture} cannot be created with {dict(shape)}: {error}",
                "Choose a ViT or DeiT from timm, e.g. deit_s.",
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(
            f"The pretrained weights of {name} could not be downloaded: {reason}",
            "Connect to the network, or give a checkpoint with --weights FILE "
            "(--untrained serves for latency alone).",
        ) from error
    return module.eval()


def _shape_of(
    state: Mapping[str, torch.Tensor],
    num_classes: int | None,
    image_size: int | None,
    weights: Path | None,
) -> dict[str, Any]:
    """Class count and image size as the checkpoint has them; flags may only agree."""
    shape: dict[str, Any] = {}
    head = state.get("head.weight")
    if head is not None and head.ndim == 2:
        shape["num_classes"] = int(head.shape[0])
    patch, position = state.get("patch_embed.proj.weight"), state.get("pos_embed")
    if patch is not None and position is not None and patch.ndim == 4 and position.ndim == 3:
        # Prefix tokens are fewer than a row of patches, so the square root's floor is the grid.
        grid = math.isqrt(int(position.shape[1]))
        shape["img_size"] = grid * int(patch.shape[-1])
    for flag, given, key in (
        ("--num-classes", num_classes, "num_classes"),
        ("--image-size", image_size, "img_size"),
    ):
        if given is not None and key in shape and shape[key] != given:
            raise BadInput(
                f"{weights} was trained with {key.replace('_', ' ')} {shape[key]}, "
                f"but {flag} says {given}.",
                f"Leave {flag} out: it follows the checkpoint.",
            )
        if given is not None:
            shape[key] = given
    return shape


def _preprocessing(
    module: nn.Module,
    image_size: int | None,
    crop_pct: float | None,
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
) -> Preprocessing:
    config: dict[str, Any] = dict(getattr(module, "pretrained_cfg", None) or {})
    return Preprocessing(
        image_size=image_size or int(config.get("input_size", (3, 224, 224))[-1]),
        crop_pct=crop_pct or float(config.get("crop_pct") or 0.9),
        interpolation=str(config.get("interpolation") or "bicubic"),
        mean=mean or tuple(config.get("mean", IMAGENET_MEAN)),
        std=std or tuple(config.get("std", IMAGENET_STD)),
    )
