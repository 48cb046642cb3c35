"""What a family of networks must tell the compiler: one small interface, one file a family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from mimiq.models.attention import ExplicitAttention


@dataclass(frozen=True)
class Migration:
    """A place where a per-channel factor can move from an activation into the weights around it.

    The activation that feeds ``consumer`` is produced by ``producer``: a LayerNorm's affine, or the
    half-open range ``rows`` of a Linear's outputs. Dividing those by s and multiplying the
    consumer's input columns by s changes nothing in exact arithmetic.
    """

    producer: nn.LayerNorm | nn.Linear
    consumer: nn.Linear
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class Stream:
    """Everything that meets a network's residual stream.

    Attributes:
        width: channels C of the stream.
        tokens: learned tokens and position embeddings (…, C).
        writers: whose C output channels are added to the stream, or begin it.
        readers: each LayerNorm over the stream, with the Linears that alone read it; all of them
            have biases.
    """

    width: int
    tokens: list[nn.Parameter]
    writers: list[nn.Linear | nn.Conv2d]
    readers: list[tuple[nn.LayerNorm, list[nn.Linear]]]


class Family(Protocol):
    """A network family: how to recognise it and where its parts are."""

    name: str

    def matches(self, module: nn.Module) -> bool:
        """Whether this family describes ``module``."""

    def rewrite(self, module: nn.Module) -> nn.Module:
        """The network with :class:`ExplicitAttention` in place of its attention; same weights.

        Raises:
            UnsupportedModel: naming the part that has no counterpart here.
        """

    def blocks(self, module: nn.Module) -> list[nn.Module]:
        """The transformer blocks in order: each maps (B, T, C) tokens to (B, T, C)."""

    def attentions(self, module: nn.Module) -> list[ExplicitAttention]:
        """The attention of each block, in order."""

    def migrations(self, module: nn.Module) -> list[Migration]:
        """Every place where outliers of an activation can move into weights."""

    def stream_readers(self, block: nn.Module) -> dict[str, str]:
        """Of the Linears whose output is added to the residual stream as it is, by their names in
        the block: the name of the part that reads the stream next; empty for the block's end.
        """

    def stream(self, module: nn.Module) -> Stream | None:
        """The residual stream; None where something stands between it and a Linear that writes to
        it, or where what reads it could not undo a change of its basis.
        """

    def embed(self, module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        """Images (B, 3, H, W) to the first block's input tokens (B, T, C)."""


def quantizable_layers(module: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Every Linear and convolution by module name, in the order of the module tree."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }
