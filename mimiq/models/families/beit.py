"""BEiT, and timm's ViT with relative positions: a learned bias on the scores of every pair."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from mimiq.models.attention import ExplicitAttention
from mimiq.models.families import prenorm, rewriting, stems
from mimiq.models.family import Stream


class BeitFamily(prenorm.PrenormFamily):
    """timm's ``Beit`` (BEiT, BEiT v2, Data2Vec) and ``VisionTransformerRelPos``."""

    name = "beit"

    def matches(self, module: nn.Module) -> bool:
        from timm.models.beit import Beit
        from timm.models.vision_transformer_relpos import VisionTransformerRelPos

        return isinstance(module, Beit | VisionTransformerRelPos)

    def rewrite(self, module: nn.Module) -> nn.Module:
        from timm.models.beit import Attention, Block
        from timm.models.vision_transformer_relpos import (
            RelPosAttention,
            RelPosBlock,
            ResPostRelPosBlock,
        )

        rewritten: Any = copy.deepcopy(module).eval()
        stems.require_plain(rewritten)
        shared = _shared_bias(rewritten)
        for index, block in enumerate(rewritten.blocks):
            where = f"blocks.{index}"
            rewriting.require_type(block, (Block, RelPosBlock, ResPostRelPosBlock), where)
            attention = block.attn
            rewriting.require_type(attention, (Attention, RelPosAttention), f"{where}.attn")
            qkv = rewriting.joined_qkv(attention, f"{where}.attn")
            block.attn = ExplicitAttention(
                qkv,
                attention.proj,
                num_heads=attention.num_heads,
                head_dim=qkv.out_features // (3 * attention.num_heads),
                num_prefix_tokens=rewritten.num_prefix_tokens,
                q_norm=getattr(attention, "q_norm", None),
                k_norm=getattr(attention, "k_norm", None),
                bias=_bias(attention, shared),
            )
            block.mlp = rewriting.described_mlp(block.mlp, f"{where}.mlp")
            rewriting.fold_layer_scales(block)
        rewritten.rel_pos_bias = rewritten.shared_rel_pos = None  # is in every attention
        frozen: nn.Module = rewritten.requires_grad_(False)
        return frozen

    def embed(self, network: Any, images: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = network.patch_embed(images)
        if network.cls_token is not None:
            x = torch.cat([network.cls_token.expand(len(x), -1, -1), x], dim=1)
        position = getattr(network, "pos_embed", None)
        return x if position is None else x + position

    def is_post_norm(self, block: nn.Module) -> bool:
        from timm.models.vision_transformer_relpos import ResPostRelPosBlock

        return isinstance(block, ResPostRelPosBlock)

    def streams(self, module: nn.Module) -> list[Stream]:
        network: Any = module
        tokens = [getattr(network, name, None) for name in ("cls_token", "pos_embed")]
        return prenorm.pooled_streams(
            network, tokens, [network.patch_embed.norm], [network.head], self.is_post_norm
        )


@torch.no_grad()
def _shared_bias(network: Any) -> torch.Tensor | None:
    """(1, H, T, T), of networks whose blocks have one bias."""
    if getattr(network, "rel_pos_bias", None) is not None:  # timm's own drops the first axis
        bias: torch.Tensor = network.rel_pos_bias()
        return bias.reshape(1, *bias.shape[-3:])
    if getattr(network, "shared_rel_pos", None) is not None:
        shared: torch.Tensor = network.shared_rel_pos.get_bias()
        return shared
    return None


@torch.no_grad()
def _bias(attention: Any, shared: torch.Tensor | None) -> torch.Tensor | None:
    own: torch.Tensor | None = None
    if getattr(attention, "relative_position_bias_table", None) is not None:
        own = attention._get_rel_pos_bias()
    elif getattr(attention, "rel_pos", None) is not None:
        own = attention.rel_pos.get_bias()
    if own is None or shared is None:
        return shared if own is None else own.contiguous()
    return own + shared
