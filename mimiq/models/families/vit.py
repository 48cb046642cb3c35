"""The ViT/DeiT family: timm's ``VisionTransformer`` and its distilled form."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from mimiq.config.precision import Roles
from mimiq.models.attention import ExplicitAttention
from mimiq.models.families import parallel, prenorm, rewriting, stems
from mimiq.models.family import Stream


class ViTFamily(prenorm.PrenormFamily):
    """timm's ViT and DeiT: blocks with fused-qkv attention and an MLP, gated or not.

    Its hybrids too, whose convolutional stem stays in floating point, and ViTamin.
    """

    name = "vit"

    def matches(self, module: nn.Module) -> bool:
        from timm.models.vision_transformer import VisionTransformer

        return isinstance(module, VisionTransformer)

    def rewrite(self, module: nn.Module) -> nn.Module:
        from timm.layers.attention import Attention
        from timm.models.vision_transformer import Block, ResPostBlock

        rewritten: Any = copy.deepcopy(module).eval()
        stems.describe(rewritten)
        for index, block in enumerate(rewritten.blocks):
            where = f"blocks.{index}"
            joined = parallel.joined(block, where, rewritten.num_prefix_tokens)
            if joined is not None:
                rewritten.blocks[index] = joined
                continue
            rewriting.require_type(block, (Block, ResPostBlock), where)
            attention = block.attn
            rewriting.require_type(attention, (Attention,), f"{where}.attn")
            if getattr(attention, "gate", None) is not None:
                raise rewriting.unsupported(f"{where}.attn", "gates its output")
            block.attn = ExplicitAttention(
                attention.qkv,
                attention.proj,
                num_heads=attention.num_heads,
                head_dim=attention.head_dim,
                num_prefix_tokens=rewritten.num_prefix_tokens,
                q_norm=attention.q_norm,
                k_norm=attention.k_norm,
                norm=getattr(attention, "norm", None),
            )
            rewriting.lift_inner_norm(block)
            block.mlp = rewriting.described_mlp(block.mlp, f"{where}.mlp")
            rewriting.fold_layer_scales(block)
        frozen: nn.Module = rewritten.requires_grad_(False)
        return frozen

    def roles(self, module: nn.Module) -> Roles:
        return stems.roles(module, super().roles(module))

    def embed(self, network: Any, images: torch.Tensor) -> torch.Tensor:
        x = network._pos_embed(network.patch_embed(images))
        out: torch.Tensor = network.norm_pre(network.patch_drop(x))
        return out

    def is_post_norm(self, block: nn.Module) -> bool:
        from timm.models.vision_transformer import ResPostBlock

        return isinstance(block, ResPostBlock)

    def streams(self, module: nn.Module) -> list[Stream]:
        network: Any = module
        names = ("cls_token", "dist_token", "reg_token", "pos_embed")
        tokens = [getattr(network, name, None) for name in names]
        heads = [getattr(network, name, None) for name in ("head", "head_dist", "head_patches")]
        if network.attn_pool is not None or not isinstance(network.patch_embed.proj, nn.Conv2d):
            return []
        return prenorm.pooled_streams(
            network,
            tokens,
            [getattr(network.patch_embed, "norm", nn.Identity()), network.norm_pre],
            [head for head in heads if head is not None],
            self.is_post_norm,
        )
