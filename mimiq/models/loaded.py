"""A network as it came from its source, rewritten, checked and made a :class:`LoadedModel`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mimiq.errors import BadInput, UnsupportedModel
from mimiq.models import checkpoint
from mimiq.models.families.known import family_of
from mimiq.models.family import Family
from mimiq.models.sources.original import Original
from mimiq.models.tokens import Features, check_features, with_tokens
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.runtime.session import Output


@dataclass(frozen=True)
class LoadedModel:
    """A trained network, ready for every stage.

    Attributes:
        name: as the user wrote it.
        architecture: timm's name, ``digits``, or the library's and its type.
        module: the network with explicit attention, eval mode, frozen, fp32, on the CPU.
            Maps normalised images (B, channels, height, width) to logits (B, num_classes), or to
            embeddings (B, tokens·embedding_dim).
        family: where its parts are.
        preprocessing: from image file to network input.
        num_classes: width of the logits; 0 for an embedding.
        weights_hash: SHA-256 of the state dict, and of what else makes the function.
        labels: class names, where known.
        untrained: random weights, good for latency alone.
        output: whether the network answers with ``logits`` or with an ``embedding``.
        embedding_dim: width of the embedding, or of each of its tokens; 0 for logits.
        tokens: patch tokens in an embedding, one row of them all; 1 for a pooled one.
        notes: what was decided while loading, sentences for the user.
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
    output: Output = "logits"
    embedding_dim: int = 0
    tokens: int = 1
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Numbers that an image is answered with."""
        if self.output == "embedding":
            return self.tokens * self.embedding_dim
        return self.num_classes

    @property
    def cache_key(self) -> dict[str, Any]:
        """What stands for it in a cache's key."""
        return {
            "weights": self.weights_hash,
            "architecture": self.architecture,
            "preprocessing": self.preprocessing.to_json(),
            "output": self.output,
        }

    def describe(self) -> dict[str, Any]:
        """The manifest's entry."""
        entry = {
            "name": self.name,
            "architecture": self.architecture,
            "family": self.family.name,
            "num_classes": self.num_classes,
            "parameters": sum(p.numel() for p in self.module.parameters()),
            "weights_sha256": self.weights_hash,
            "untrained": self.untrained,
        }
        if self.output == "embedding":
            entry |= {"output": self.output, "embedding_dim": self.embedding_dim}
        if self.tokens > 1:
            entry["tokens"] = self.tokens
        return entry


def finished(
    original: Original,
    name: str,
    labels: tuple[str, ...] | None = None,
    *,
    untrained: bool = False,
    features: Features = "pooled",
) -> LoadedModel:
    """A network as it came from its source, rewritten and checked.

    Args:
        features: of a network without a classifier, its pooled embedding or its patches' tokens.

    Raises:
        BadInput: image size or labels do not fit, or tokens are asked of a classifier.
        UnsupportedModel: the network is of no family described here, or gives no vector.
    """
    check_features(features)
    tokens = 1
    if features == "tokens":
        original, tokens = with_tokens(original, name)
    family, rewritten, width = described(original, name)
    embedding = original.output == "embedding"
    labels = labels or original.labels
    if labels is not None and embedding:
        raise BadInput(
            f"{name} has no classifier: it answers with an embedding of {width} numbers.",
            "Leave `labels` out.",
        )
    if labels is not None and len(labels) != width:
        raise BadInput(
            f"{len(labels)} labels were given, but {name} has {width} classes.",
            "Give one label a line, in class order.",
        )
    return LoadedModel(
        name=name,
        architecture=original.architecture,
        module=rewritten,
        family=family,
        preprocessing=original.preprocessing,
        num_classes=0 if embedding else width,
        weights_hash=_hash(original),
        labels=labels,
        untrained=untrained,
        output=original.output,
        embedding_dim=width // tokens if embedding else 0,
        tokens=tokens,
        notes=original.notes,
    )


def described(original: Original, name: str) -> tuple[Family, nn.Module, int]:
    """The network's family, the network as that writes it out, and how many numbers it answers.

    Args:
        original: on any device; on the meta device nothing is computed but shapes.
        name: as errors call it.

    Raises:
        BadInput: the image does not divide into patches.
        UnsupportedModel: no family describes the network, or a part of it, or it gives no vector.
    """
    family = family_of(original.module, original.architecture)
    _check_patches(original.module, name, original.preprocessing)
    rewritten = family.rewrite(original.module)
    return family, rewritten, _check_answer(rewritten, original, name)


def _check_patches(module: nn.Module, name: str, preprocessing: Preprocessing) -> None:
    patches = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    sides = (preprocessing.height, preprocessing.width)
    for side, patch in zip(sides, patches or (), strict=False):
        if side % patch:
            raise BadInput(
                f"Images of {side} pixels do not divide into the patches of {name}, "
                f"{patch} pixels each.",
                f"Give an `image_size` that is a multiple of {patch}.",
            )


@torch.inference_mode()
def _check_answer(module: nn.Module, original: Original, name: str) -> int:
    """How many numbers the network answers with for an image.

    Raises:
        UnsupportedModel: they are no vector.
    """
    device = next(module.parameters()).device
    answer = module(torch.zeros(1, *original.preprocessing.input_shape, device=device))
    if not isinstance(answer, torch.Tensor) or answer.ndim != 2:
        shape = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise UnsupportedModel(
            f"{name} answers an image with {shape}, not with one vector.",
            "Choose a network that pools its tokens: `model_kwargs=global_pool=token`.",
        )
    return int(answer.shape[1])


def _hash(original: Original) -> str:
    weights = checkpoint.sha256_state(original.module.state_dict())
    if not original.structure:
        return weights
    return hashlib.sha256(f"{weights};{original.structure}".encode()).hexdigest()
