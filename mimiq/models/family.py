"""What a family of networks must tell the compiler: one description, one file a family.

A family describes and does not compute: it writes attention out and names the parts. Fitting,
sensitivity, rotation, migration, distillation and export walk that description and know no family.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from mimiq.config.precision import Roles
from mimiq.models.attention import ExplicitAttention


@dataclass(frozen=True)
class Write:
    """A Linear whose output is added to the residual stream as it is.

    Attributes:
        reader: name, within the step's part, of what reads the stream next; empty for its end.
        rows: brings the stream, as the reader gets it, to the order of the Linear's rows; None
            where both have the same.
    """

    reader: str
    rows: Callable[[torch.Tensor], torch.Tensor] | None = None


@dataclass(frozen=True)
class Step:
    """One part of a network's forward; all of them, one after the other, are the forward.

    Attributes:
        kind: ``embed`` makes tokens of images (B, channels, height, width), or adds some,
            ``block`` is a transformer block, ``class`` one that changes the class token alone,
            ``merge`` joins neighbouring tokens, ``head`` answers. Tokens are (B, T, C) or (B,
            height, width, C).
        run: what it computes.
        part: of a block, of either kind, and a merge, the module that ``run`` is.
        writes: the Linears of ``part`` that write to the stream, by their names in it.
    """

    kind: Literal["embed", "block", "class", "merge", "head"]
    run: Callable[[torch.Tensor], torch.Tensor]
    part: nn.Module | None = None
    writes: Mapping[str, Write] = field(default_factory=dict)


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
    """Everything that meets a residual stream.

    Attributes:
        width: channels C of the stream.
        tokens: learned tokens and position embeddings (…, C).
        writers: whose C output channels are added to the stream, or begin it.
        readers: each LayerNorm over the stream, with the Linears that alone read it; all of them
            have biases. A LayerNorm over k·C channels reads k tokens side by side.
    """

    width: int
    tokens: list[nn.Parameter]
    writers: list[nn.Linear | nn.Conv2d]
    readers: list[tuple[nn.LayerNorm, list[nn.Linear]]]


class Family(ABC):
    """A network family: how to recognise it and where its parts are.

    Every method but :meth:`matches` and :meth:`rewrite` takes what :meth:`rewrite` gave, quantised
    or not.
    """

    name: str

    @abstractmethod
    def matches(self, module: nn.Module) -> bool:
        """Whether this family describes ``module``."""

    @abstractmethod
    def rewrite(self, module: nn.Module) -> nn.Module:
        """The network with :class:`ExplicitAttention` in place of its attention; same weights.

        Raises:
            UnsupportedModel: naming the part that has no counterpart here.
        """

    @abstractmethod
    def steps(self, module: nn.Module) -> list[Step]:
        """The forward in order, from an embed to a head."""

    def roles(self, module: nn.Module) -> Roles:
        """The layers that are quantised otherwise than the rest, by their module names."""
        return Roles(stem=("patch_embed.proj",), classifier=("head*",))

    def blocks(self, module: nn.Module) -> list[nn.Module]:
        """The transformer blocks in order: each maps tokens to tokens of the same shape."""
        steps = self.steps(module)
        return [step.part for step in steps if step.kind == "block" and step.part is not None]

    def attentions(self, module: nn.Module) -> list[ExplicitAttention]:
        """Every attention, in the order in which data meets them."""
        return [part for part in module.modules() if isinstance(part, ExplicitAttention)]

    def streams(self, module: nn.Module) -> list[Stream]:
        """The residual streams whose basis can be changed, one a width.

        None where something stands between a stream and a Linear that writes to it, or where what
        reads it could not undo the change.
        """
        return []

    def migrations(self, module: nn.Module) -> list[Migration]:
        """Every place where outliers of an activation can move into weights."""
        return []


def quantizable_layers(module: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Every Linear and convolution by module name, in the order of the module tree."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }
