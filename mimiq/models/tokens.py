"""A network's patch tokens in the place of its pooled embedding."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from torch import nn

from mimiq.errors import BadInput, UnsupportedModel
from mimiq.models.sources.original import Original

Features = Literal["pooled", "tokens"]  # what a network without a classifier answers with


class PatchTokens(nn.Module):
    """The patches' tokens of an image as one row, class and register tokens left out.

    Args:
        prefix: tokens before the patches'.
    """

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (B, prefix + N, C) to (B, N·C), row by row of the image."""
        return x[:, self.prefix :].flatten(1)


def check_features(features: str) -> None:
    """
    Raises:
        BadInput: there are no such features.
    """
    if features not in get_args(Features):
        raise BadInput(
            f"`features={features}` is unknown.",
            f"Choose one of {', '.join(get_args(Features))}.",
        )


def with_tokens(original: Original, name: str) -> tuple[Original, int]:
    """The network with its patches' tokens as its answer, behind its last norm, and their number.

    Args:
        original: it is copied, not changed.
        name: as errors call it.

    Raises:
        BadInput: the network has a classifier.
        UnsupportedModel: its tokens are no row of patches.
    """
    from timm.models.beit import Beit
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_relpos import VisionTransformerRelPos

    from mimiq.models.sources.heads import TanhPooled

    if original.output != "embedding":
        raise BadInput(
            f"{name} has a classifier: `features=tokens` is for networks that answer with an "
            "embedding.",
            "Leave it out, or give the network without its classifier.",
        )
    network: Any = copy.deepcopy(original.module)
    has_pooler = type(network) is TanhPooled
    if has_pooler:  # its pooler is its head, which goes
        network.__class__ = VisionTransformer
    if type(network) not in (VisionTransformer, Beit, Eva, VisionTransformerRelPos):
        raise UnsupportedModel(
            f"{name} is of the class {type(network).__name__}, whose patch tokens mimiq does not "
            "give.",
            "Leave `features` out to compile its pooled embedding.",
        )
    network.attn_pool, network.global_pool = None, ""
    network.fc_norm, network.head = nn.Identity(), PatchTokens(network.num_prefix_tokens)
    count = int(network.patch_embed.num_patches)
    said = f"The network answers with its {count} patch tokens of {network.embed_dim} numbers."
    return replace(
        original,
        module=network,
        structure=f"{original.structure};tokens",
        notes=(*original.notes, said),
    ), count
