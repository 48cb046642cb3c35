"""Blocks whose parts work side by side, brought to one attention and one MLP."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from mimiq.models.attention import ExplicitAttention
from mimiq.models.families import rewriting


class JoinedBlock(nn.Module):
    """A pre-norm block, whose attention and MLP may both read what enters it.

    Args:
        side_by_side: the MLP reads the stream as it is before the attention.
    """

    def __init__(
        self,
        norm1: nn.Module,
        attn: ExplicitAttention,
        norm2: nn.Module,
        mlp: nn.Module,
        *,
        side_by_side: bool,
    ) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = norm1, attn, norm2, mlp
        self.side_by_side = side_by_side

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (B, T, C) to the same."""
        between: torch.Tensor = x + self.attn(self.norm1(x))
        out: torch.Tensor = between + self.mlp(self.norm2(x if self.side_by_side else between))
        return out


def joined(block: nn.Module, where: str, num_prefix_tokens: int) -> JoinedBlock | None:
    """A parallel block of timm's as a :class:`JoinedBlock`; None for any other.

    Raises:
        UnsupportedModel: naming the part that cannot be joined.
    """
    from timm.models.vision_transformer import ParallelScalingBlock, ParallelThingsBlock

    if type(block) is ParallelScalingBlock:
        return _of_one_projection(block, num_prefix_tokens)
    if type(block) is ParallelThingsBlock:
        return _of_several(block, where, num_prefix_tokens)
    return None


@torch.no_grad()
def _of_one_projection(block: Any, num_prefix_tokens: int) -> JoinedBlock:
    """One Linear for the MLP and for q, k and v is cut in two, and each gets its norm."""
    from timm.layers.mlp import Mlp

    hidden, width = block.in_split[:2]
    mlp: Any = Mlp(width, hidden, bias=False)
    mlp.act = block.mlp_act
    mlp.fc1, qkv = _rows(block.in_proj, 0, hidden), _rows(block.in_proj, hidden, None)
    if block.mlp_bias is not None:
        mlp.fc1.bias = nn.Parameter(block.mlp_bias.clone())
    proj, mlp.fc2 = block.attn_out_proj, block.mlp_out_proj
    if block.out_proj is not None:
        proj, mlp.fc2 = _columns(block.out_proj, 0, width), _columns(block.out_proj, width, None)
        proj.bias = block.out_proj.bias  # once of the two
    for linear in (proj, mlp.fc2):
        rewriting.fold_layer_scale(block.ls, linear)
    attention = ExplicitAttention(
        qkv,
        proj,
        num_heads=block.num_heads,
        head_dim=block.head_dim,
        num_prefix_tokens=num_prefix_tokens,
        q_norm=block.q_norm,
        k_norm=block.k_norm,
    )
    norm = block.in_norm
    return JoinedBlock(norm, attention, copy.deepcopy(norm), mlp.eval(), side_by_side=True)


@torch.no_grad()
def _of_several(block: Any, where: str, num_prefix_tokens: int) -> JoinedBlock:
    """Attentions of H heads each are one of all their heads, MLPs one of all their hidden units."""
    from timm.layers.attention import Attention
    from timm.layers.mlp import Mlp

    attentions, mlps = list(block.attns), list(block.ffns)
    for index, (one, other) in enumerate(zip(attentions, mlps, strict=True)):
        rewriting.require_type(one.attn, (Attention,), f"{where}.attns.{index}.attn")
        rewriting.require_type(other.mlp, (Mlp,), f"{where}.ffns.{index}.mlp")
        inner = (one.attn.q_norm, one.attn.k_norm, one.attn.norm, other.mlp.norm)
        plain = all(isinstance(norm, nn.LayerNorm) for norm in (one.norm, other.norm))
        if not plain or any(type(norm) is not nn.Identity for norm in inner):
            raise rewriting.unsupported(where, "has norms that its parallel parts cannot share")
        if getattr(one.attn, "gate", None) is not None:
            raise rewriting.unsupported(f"{where}.attns.{index}.attn", "gates its output")
        rewriting.fold_layer_scale(one.ls, one.attn.proj)
        rewriting.fold_layer_scale(other.ls, other.mlp.fc2)
        _fold_norm(one.norm, one.attn.qkv)
        _fold_norm(other.norm, other.mlp.fc1)
    first = attentions[0].attn
    qkv = rewriting.joined_linears([part.attn.qkv for part in attentions])
    for parameter in (qkv.weight, qkv.bias):  # (attentions, qkv, heads × d) to (qkv, …)
        rows = parameter.unflatten(0, (len(attentions), 3, -1))
        parameter.copy_(rows.transpose(0, 1).flatten(0, 2))
    attention = ExplicitAttention(
        qkv,
        _added([part.attn.proj for part in attentions]),
        num_heads=len(attentions) * first.num_heads,
        head_dim=first.head_dim,
        num_prefix_tokens=num_prefix_tokens,
    )
    mlp = mlps[0].mlp
    fc1, fc2 = [part.mlp.fc1 for part in mlps], [part.mlp.fc2 for part in mlps]
    mlp.fc1, mlp.fc2 = rewriting.joined_linears(fc1), _added(fc2)
    return JoinedBlock(attentions[0].norm, attention, mlps[0].norm, mlp, side_by_side=False)


def _rows(linear: nn.Linear, first: int, end: int | None) -> nn.Linear:
    """The Linear that puts out a part of what this does."""
    return _linear(
        linear.weight[first:end], None if linear.bias is None else linear.bias[first:end]
    )


def _columns(linear: nn.Linear, first: int, end: int | None) -> nn.Linear:
    """The Linear of a part of this one's inputs, without its bias."""
    return _linear(linear.weight[:, first:end], None)


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    made = nn.Linear(
        weight.shape[1], weight.shape[0], bias is not None, weight.device, weight.dtype
    )
    made.weight.copy_(weight)
    if bias is not None:
        made.bias.copy_(bias)
    return made


def _added(linears: list[nn.Linear]) -> nn.Linear:
    """The Linear of all their inputs, side by side, that puts out the sum."""
    biases: list[torch.Tensor] = [linear.bias for linear in linears if linear.bias is not None]
    bias = torch.stack(biases).sum(0) if biases else None
    return _linear(torch.cat([linear.weight for linear in linears], 1), bias)


def _fold_norm(norm: Any, reader: Any) -> None:
    """The norm's affine becomes part of the Linear that reads it."""
    if norm.weight is None:
        return
    shift = reader.weight @ (torch.zeros_like(norm.weight) if norm.bias is None else norm.bias)
    reader.bias = nn.Parameter(shift if reader.bias is None else reader.bias + shift)
    reader.weight.mul_(norm.weight)
    norm.weight.fill_(1)
    if norm.bias is not None:
        norm.bias.zero_()
