"""BEiT, and timm's ViT with relative positions: a learned bias on the scores of every pair."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mimiq.models import prenorm, rewriting
from mimiq.models.attention import ExplicitAttention
from mimiq.models.family import Family, Migration, Step, Stream


class BeitFamily(Family):
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
        rewriting.require_plain_stem(rewritten)
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

    def steps(self, module: nn.Module) -> list[Step]:
        network: Any = module

        def embed(images: torch.Tensor) -> torch.Tensor:
            x: torch.Tensor = network.patch_embed(images)
            if network.cls_token is not None:
                x = torch.cat([network.cls_token.expand(len(x), -1, -1), x], dim=1)
            position = getattr(network, "pos_embed", None)
            return x if position is None else x + position

        return [Step("embed", embed), *_blocks(network), Step("head", head_of(network))]

    def migrations(self, module: nn.Module) -> list[Migration]:
        network: Any = module
        return [
            place
            for block in network.blocks
            for place in prenorm.migrations(block, post_norm=_is_post_norm(block))
        ]

    def streams(self, module: nn.Module) -> list[Stream]:
        network: Any = module
        if any(_is_post_norm(block) for block in network.blocks):
            return []
        tokens = [getattr(network, name, None) for name in ("cls_token", "pos_embed")]
        return pooled_stream(network, tokens, [network.patch_embed.norm])


def head_of(network: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Last norm, pooling and classifier of a timm network."""

    def head(tokens: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = network.forward_head(network.norm(tokens))
        return out

    return head


def pooled_stream(
    network: Any, tokens: list[nn.Parameter | None], between: list[nn.Module]
) -> list[Stream]:
    """The stream from a patch embedding to one norm, before or behind the pooling, and the head.

    Args:
        between: what may stand between the patch embedding and the first block, and must not.
    """
    norms = [norm for norm in (network.norm, network.fc_norm) if type(norm) is not nn.Identity]
    if len(norms) != 1 or any(type(part) is not nn.Identity for part in between):
        return []
    readers = [(norms[0], [network.head])]
    stem = [network.patch_embed.proj]
    found = prenorm.stream(network.embed_dim, tokens, stem, network.blocks, readers)
    return [] if found is None else [found]


def _blocks(network: Any) -> list[Step]:
    return [
        Step("block", block, block, {} if _is_post_norm(block) else prenorm.writes(block))
        for block in network.blocks
    ]


def _is_post_norm(block: nn.Module) -> bool:
    from timm.models.vision_transformer_relpos import ResPostRelPosBlock

    return isinstance(block, ResPostRelPosBlock)


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
