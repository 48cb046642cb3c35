"""Classifiers that stand beside a network in a file, or that timm's ViT does not have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mimiq.errors import BadInput
from mimiq.models.checkpoint import CONTAINER, Tensors
from mimiq.models.prefixes import TRAINING, Found

_CLASSIFIER = re.compile(
    r"(\d+|\w*head\w*|\w*classifier\w*|fc\d*|linear\w*|cls|out(?:put)?|logits|final|"
    r"visual\.head\.proj)"
    r"((?:\.\w+)*)\.weight$"
)
# Where a network was changed or derived, its classifier may have another attribute's name.
_RENAMED = re.compile(r"(fc|classifier|cls_head|classification_head|mlp_head)(\.\d+)?\.weight$")
_EPSILON = 1e-6


class ClassAndPatches(VisionTransformer):
    """A ViT whose classifier sees the class token and the mean of the patches, as DINOv2's.

    The Linear over both is written as the sum of two over one each: ``head`` and ``head_patches``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head_patches = nn.Linear(self.embed_dim, self.num_classes)

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Tokens (B, T, C) to logits (B, classes)."""
        patches = x[:, self.num_prefix_tokens :].mean(dim=1)
        if pre_logits:
            return torch.cat((x[:, 0], patches), dim=1)
        logits: torch.Tensor = self.head(x[:, 0]) + self.head_patches(patches)
        return logits


class TanhPooled(VisionTransformer):
    """A ViT whose answer is its pooler's, tanh(W·class token + b), as Hugging Face's ViTModel."""

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Tokens (B, T, C) to the embedding (B, C)."""
        return x[:, 0] if pre_logits else torch.tanh(self.head(x[:, 0]))


def with_head(
    state: Mapping[str, torch.Tensor], found: Found, path: Path
) -> tuple[Tensors, tuple[str, ...]]:
    """The state with the classifier that stands outside the network, where it has none itself.

    Args:
        state: the network, in timm's names.
        found: where it was found, and what lies beside it.

    Raises:
        BadInput: a layer stands behind the network that is not its one Linear.
    """
    result, notes = _own_head(dict(state), found.beside)
    width = _width(state)
    own = result.get("head.weight", result.get("head.fc.weight"))
    if own is not None and own.ndim == 2 and not {"head.bias", "head.fc.bias"} & result.keys():
        result["head.bias"] = torch.zeros(len(own))
    beside = found.beside
    check_normalisation(beside, path)
    layers = {
        name: tensor
        for name, tensor in beside.items()
        if tensor.ndim == 2 and _is_classifier(name, found.prefix)
    }
    if any("last_layer" in name for name in beside):  # DINO's head, which only its loss sees
        layers = {}
    if own is None and len(layers) == 1:
        ((name, weight),) = layers.items()
        if weight.shape[1] == width:
            bias = beside.get(f"{name.removesuffix('.weight')}.bias", torch.zeros(len(weight)))
            result |= {"head.weight": weight, "head.bias": bias}
            rest = [key for key in beside if not key.startswith(name.removesuffix("weight"))]
            for other in rest:
                if width in beside[other].shape and not other.startswith(TRAINING):
                    raise BadInput(
                        f"{path} has {other} beside its classifier {name}, and the answer may pass "
                        "through both.",
                        f"Save a network whose only classifier is one Linear; without {other} in "
                        "the file, it is compiled as if that were not there.",
                    )
            return result, (
                *notes,
                f"The classifier is {name.removesuffix('.weight')!r}, which stands beside the "
                "network.",
                *_left_out(rest),
            )
    behind = width if own is None else int(own.shape[0])
    for name, tensor in layers.items():
        if own is None or tensor.shape[1] == behind or len(layers) > 1:
            raise BadInput(
                f"{path} has {len(layers)} Linear layer{'s' * (len(layers) > 1)} behind the "
                f"network ({', '.join(layers)}), and its own classifier is "
                f"{'missing' if own is None else 'not the last'}.",
                "Save a network whose only classifier is one Linear; give the network without "
                f"{name} to compile what comes before.",
            )
    return result, (*notes, *_left_out(list(beside)))


def _own_head(
    state: Tensors, beside: Mapping[str, torch.Tensor]
) -> tuple[Tensors, tuple[str, ...]]:
    """The state with the one Linear inside it that is its classifier under timm's name."""
    named = "head.fc" if "layers.0.blocks.0.norm1.weight" in state else "head"
    if f"{named}.weight" in state:
        return state, ()
    state, folded = _normalised(state)
    if folded:
        return state, folded
    inside = [name for name in state if name.startswith("head.")]
    if inside and any(name.startswith("predictor") for name in beside):
        for name in inside:
            del state[name]
        return state, ("Left out of the file: the projector of its pretraining, 'head'.",)
    linears = [
        name
        for name, tensor in state.items()
        if tensor.ndim == 2 and (name in inside or _RENAMED.fullmatch(name))
    ]
    if len(linears) != 1:
        return state, ()
    where = linears[0].removesuffix(".weight")
    parts = {f"{where}.{kind}": f"{named}.{kind}" for kind in ("weight", "bias")}
    if any(name not in parts for name in inside):
        return state, ()
    renamed = {parts.get(name, name): tensor for name, tensor in state.items()}
    return renamed, (f"The classifier is {where!r}.",)


def _normalised(state: Tensors) -> tuple[Tensors, tuple[str, ...]]:
    """The state with the batch norm of a linear probe folded into the classifier behind it."""
    parts = {name.removeprefix("head.") for name in state if name.startswith("head.")}
    if parts - {"0.num_batches_tracked"} != {
        *("0.running_mean", "0.running_var", "1.weight", "1.bias"),
        *(parts & {"0.weight", "0.bias"}),
    }:
        return state, ()
    scale = (state["head.0.running_var"] + _EPSILON).rsqrt() * state.get("head.0.weight", 1.0)
    shift = state.get("head.0.bias", 0.0) - state["head.0.running_mean"] * scale
    weight, bias = state["head.1.weight"], state["head.1.bias"]
    result = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    result |= {"head.weight": weight * scale, "head.bias": bias + weight @ shift}
    return result, (
        f"The batch norm before the classifier is folded into it, with the epsilon {_EPSILON} of "
        "MAE's linear probe.",
    )


def check_normalisation(beside: Mapping[str, torch.Tensor], path: Path | str) -> None:
    """
    Raises:
        BadInput: images are normalised inside the network, which would be left out.
    """
    for name, tensor in beside.items():
        if re.search(r"(^|[._])(mean|std)$", name) and tensor.numel() in (1, 3):
            raise BadInput(
                f"{path} normalises images itself, by {name}, before its network sees them.",
                "Save the network alone, and give its `mean` and `std`.",
            )


def _is_classifier(name: str, prefix: str) -> bool:
    """Whether the name is a Linear's of a classifier, beside the network or beside its parents."""
    if name.startswith(TRAINING):
        return False
    parts = prefix.rpartition(CONTAINER)[2].split(".")[:-1]
    parents = [".".join([*parts[:depth], ""]) for depth in range(len(parts))]
    return any(
        name.startswith(parent) and _CLASSIFIER.fullmatch(name.removeprefix(parent)) is not None
        for parent in parents
    )


def _left_out(names: list[str]) -> tuple[str, ...]:
    if not names:
        return ()
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (f"Left out of the file, beside the network: {', '.join(names[:3])}{more}.",)


def _width(state: Mapping[str, torch.Tensor]) -> int | None:
    norm = state.get("blocks.0.norm1.weight")
    return None if norm is None else int(norm.shape[0])
