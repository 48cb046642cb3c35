"""What blocks of the usual form have in common, and networks of them: norm1, attention, norm2, MLP.

Their parts carry timm's names: ``norm1``, ``attn`` (an :class:`ExplicitAttention`), ``norm2`` and
``mlp`` with ``fc1`` and ``fc2``. A LayerScale is folded into the Linear before it where it can be.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from mimiq.models.attention import ExplicitAttention
from mimiq.models.family import Family, Migration, Step, Stream, Write

_SCALES = ("ls1", "ls2")


class PrenormFamily(Family):
    """A family of one chain of such blocks, behind an embedding and before timm's head."""

    @abstractmethod
    def embed(self, network: Any, images: torch.Tensor) -> torch.Tensor:
        """Tokens (B, T, C) of images (B, channels, H, W)."""

    @abstractmethod
    def is_post_norm(self, block: nn.Module) -> bool:
        """Whether a block's norms stand behind attention and MLP instead of before them."""

    def steps(self, module: nn.Module) -> list[Step]:
        network: Any = module
        blocks = [
            # To the stream of a post-norm block no Linear writes as it is.
            Step("block", block, block, {} if self.is_post_norm(block) else writes(block))
            for block in network.blocks
        ]
        return [Step("embed", partial(self.embed, network)), *blocks, Step("head", head(network))]

    def migrations(self, module: nn.Module) -> list[Migration]:
        network: Any = module
        return [
            place
            for block in network.blocks
            for place in migrations(block, post_norm=self.is_post_norm(block))
        ]


def migrations(block: nn.Module, *, post_norm: bool = False) -> list[Migration]:
    """The places of a block where a factor can move.

    Args:
        post_norm: the norms stand behind attention and MLP instead of before them.
    """
    parts: Any = block
    attention: ExplicitAttention = parts.attn
    found = []
    if isinstance(parts.norm1, nn.LayerNorm) and not post_norm:
        found.append(Migration(parts.norm1, attention.qkv))
    if isinstance(attention.norm, nn.Identity):
        width = attention.num_heads * attention.head_dim
        # softmax·v is linear in v, so a channel's factor passes through to ``proj``.
        found.append(Migration(attention.qkv, attention.proj, (2 * width, 3 * width)))
    elif isinstance(attention.norm, nn.LayerNorm):
        found.append(Migration(attention.norm, attention.proj))
    # Of two norms, one behind the other, the MLP reads the second.
    norm2 = parts.norm2[-1] if isinstance(parts.norm2, nn.Sequential) else parts.norm2
    if isinstance(norm2, nn.LayerNorm) and not post_norm:
        found.append(Migration(norm2, parts.mlp.fc1))
    if isinstance(getattr(parts.mlp, "norm", None), nn.LayerNorm):
        found.append(Migration(parts.mlp.norm, parts.mlp.fc2))
    return found


def writes(block: nn.Module) -> dict[str, Write]:
    """The Linears of a pre-norm block that write to the stream."""
    scaled = [not isinstance(getattr(block, name, nn.Identity()), nn.Identity) for name in _SCALES]
    found = {}
    if not scaled[0]:
        # Beside each other, neither reads what the other writes.
        found["attn.proj"] = Write("" if getattr(block, "side_by_side", False) else "norm2")
    if not scaled[1]:
        found["mlp.fc2"] = Write("")
    return found


def head(network: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Last norm, pooling and classifier of a timm network."""

    def run(tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = network.forward_head(network.norm(tokens))
        return out

    return run


def pooled_streams(
    network: Any,
    tokens: Iterable[nn.Parameter | None],
    between: Iterable[nn.Module],
    heads: Sequence[nn.Module],
    is_post_norm: Callable[[nn.Module], bool],
) -> list[Stream]:
    """The stream from a patch embedding to one norm, before or behind the pooling, and the heads.

    Args:
        tokens: those that the network has.
        between: what may stand between the patch embedding and the first block, and must not.
        heads: what reads the last norm.
    """
    norms = [norm for norm in (network.norm, network.fc_norm) if type(norm) is not nn.Identity]
    if len(norms) != 1 or any(type(part) is not nn.Identity for part in between):
        return []
    if any(is_post_norm(block) for block in network.blocks):
        return []
    stem = [network.patch_embed.proj]
    found = stream(network.embed_dim, tokens, stem, network.blocks, [(norms[0], heads)])
    return [] if found is None else [found]


def stream(
    width: int,
    tokens: Iterable[nn.Parameter | None],
    beginning: Sequence[nn.Linear | nn.Conv2d],
    blocks: Iterable[nn.Module],
    readers: Sequence[tuple[nn.Module, Sequence[nn.Module]]],
) -> Stream | None:
    """The stream through pre-norm ``blocks``; None where its basis cannot be changed.

    Args:
        tokens: those that the network has.
        beginning: what the stream begins with.
        readers: of the stream's end, each norm with what alone reads it.
    """
    writers, reading = list(beginning), []
    for block in blocks:
        parts: Any = block
        if len(writes(block)) != 2:
            return None
        writers += [parts.attn.proj, parts.mlp.fc2]
        reading += [(parts.norm1, [parts.attn.qkv]), (parts.norm2, [parts.mlp.fc1])]
    reading += [(norm, list(linears)) for norm, linears in readers]
    if not all(_foldable(norm, linears) for norm, linears in reading):
        return None
    return Stream(width, [token for token in tokens if token is not None], writers, reading)


@torch.no_grad()
def fold_scale(gamma: torch.Tensor, linear: nn.Linear) -> None:
    """A factor for every channel of a Linear's output becomes part of its weights."""
    linear.weight.mul_(gamma.unsqueeze(1))
    if linear.bias is not None:
        linear.bias.mul_(gamma)


def _foldable(norm: nn.Module, linears: Sequence[nn.Module]) -> bool:
    """Whether the affine of ``norm`` can move into the Linears that read it."""
    affine = isinstance(norm, nn.LayerNorm) and norm.weight is not None and norm.bias is not None
    return affine and all(
        isinstance(linear, nn.Linear) and linear.bias is not None for linear in linears
    )
