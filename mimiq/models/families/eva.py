"""EVA, EVA02 and DINOv3: rotary positions, SwiGLU, norms inside attention and MLP."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from mimiq.models.attention import ExplicitAttention, RotaryEmbedding
from mimiq.models.families import prenorm, rewriting, stems
from mimiq.models.family import Stream


class EvaFamily(prenorm.PrenormFamily):
    """timm's ``Eva``: EVA, EVA02, DINOv3, the Perception Encoder and ViTs with RoPE."""

    name = "eva"

    def matches(self, module: nn.Module) -> bool:
        from timm.models.eva import Eva

        return isinstance(module, Eva)

    def rewrite(self, module: nn.Module) -> nn.Module:
        from timm.layers.attention import AttentionRope
        from timm.models.eva import EvaAttention, EvaBlock, EvaBlockPostNorm

        rewritten: Any = copy.deepcopy(module).eval()
        stems.require_plain(rewritten)
        angles = _angles(rewritten)
        for index, block in enumerate(rewritten.blocks):
            where = f"blocks.{index}"
            rewriting.require_type(block, (EvaBlock, EvaBlockPostNorm), where)
            attention = block.attn
            rewriting.require_type(attention, (EvaAttention, AttentionRope), f"{where}.attn")
            if attention.gate is not None:
                raise rewriting.unsupported(f"{where}.attn", "gates its output")
            own = angles[index] if rewritten.rope_mixed and angles is not None else angles
            block.attn = _explicit(attention, own, f"{where}.attn")
            block.mlp = rewriting.described_mlp(block.mlp, f"{where}.mlp")
            rewriting.fold_layer_scales(block)
        rewritten.rope = None  # is in every attention
        frozen: nn.Module = rewritten.requires_grad_(False)
        return frozen

    def embed(self, network: Any, images: torch.Tensor) -> torch.Tensor:
        tokens, _ = network._pos_embed(network.patch_embed(images))
        out: torch.Tensor = network.norm_pre(tokens)
        return out

    def is_post_norm(self, block: nn.Module) -> bool:
        from timm.models.eva import EvaBlockPostNorm

        return isinstance(block, EvaBlockPostNorm)

    def streams(self, module: nn.Module) -> list[Stream]:
        network: Any = module
        if network.attn_pool is not None:
            return []
        tokens = [getattr(network, name, None) for name in ("cls_token", "reg_token", "pos_embed")]
        between = [network.patch_embed.norm, network.norm_pre]
        return prenorm.pooled_streams(network, tokens, between, [network.head], self.is_post_norm)


@torch.no_grad()
def _angles(network: Any) -> torch.Tensor | None:
    """Sines and cosines side by side (T, 2·d); (depth, H, T, 2·d) where blocks have their own."""
    if network.rope is None:
        return None
    if getattr(network.rope, "feat_shape", None) is not None:
        angles: torch.Tensor = network.rope.get_embed()
    else:
        angles = network.rope.get_embed(shape=network.patch_embed.grid_size)
    return angles.float()


@torch.no_grad()
def _explicit(attention: Any, angles: torch.Tensor | None, where: str) -> ExplicitAttention:
    qkv = rewriting.joined_qkv(attention, where)
    heads, size = attention.num_heads, qkv.out_features // (3 * attention.num_heads)
    rope = None
    if angles is not None:
        sin, cos = angles.chunk(2, -1)
        if not attention.rotate_half:
            # Neighbouring channels turn together: sorted apart, those d/2 from each other do.
            order = torch.cat([torch.arange(0, size, 2), torch.arange(1, size, 2)])
            sin, cos = sin[..., order], cos[..., order]
            _sort_channels(qkv, heads, order)
            for norm in (attention.q_norm, attention.k_norm):
                for parameter in norm.parameters():
                    parameter.copy_(parameter[order])
        sin = torch.cat([-sin[..., : size // 2], sin[..., size // 2 :]], -1)
        before = (*cos.shape[:-2], attention.num_prefix_tokens, size)  # these have no position
        rope = RotaryEmbedding(
            torch.cat([cos.new_ones(before), cos], -2), torch.cat([sin.new_zeros(before), sin], -2)
        )
    return ExplicitAttention(
        qkv,
        attention.proj,
        num_heads=heads,
        head_dim=size,
        num_prefix_tokens=attention.num_prefix_tokens,
        q_norm=attention.q_norm,
        k_norm=attention.k_norm,
        norm=attention.norm,
        rope=rope,
    )


def _sort_channels(qkv: nn.Linear, heads: int, order: torch.Tensor) -> None:
    """The channels of every head's queries and keys in another order: products stay the same."""
    size = len(order)
    for parameter in (qkv.weight, qkv.bias):
        if parameter is not None:
            rows = parameter.view(3, heads, size, *parameter.shape[1:])
            rows[:2] = rows[:2, :, order].clone()
