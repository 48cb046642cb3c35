"""What blocks of the usual form have in common: norm1, attention, norm2, MLP, each added.

Their parts carry timm's names: ``norm1``, ``attn`` (an :class:`ExplicitAttention`), ``norm2`` and
``mlp`` with ``fc1`` and ``fc2``. A LayerScale is folded into the Linear before it where it can be.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from mimiq.models.attention import ExplicitAttention
from mimiq.models.family import Migration, Stream, Write

_SCALES = ("ls1", "ls2")


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
    if isinstance(parts.norm2, nn.LayerNorm) and not post_norm:
        found.append(Migration(parts.norm2, parts.mlp.fc1))
    if isinstance(getattr(parts.mlp, "norm", None), nn.LayerNorm):
        found.append(Migration(parts.mlp.norm, parts.mlp.fc2))
    return found


def writes(block: nn.Module) -> dict[str, Write]:
    """The Linears of a pre-norm block that write to the stream."""
    scaled = [not isinstance(getattr(block, name, nn.Identity()), nn.Identity) for name in _SCALES]
    found = {}
    if not scaled[0]:
        found["attn.proj"] = Write("norm2")
    if not scaled[1]:
        found["mlp.fc2"] = Write("")
    return found


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
