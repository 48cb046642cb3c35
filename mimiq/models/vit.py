"""The ViT/DeiT family: timm's ``VisionTransformer`` and its distilled form."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mimiq.errors import UnsupportedModel
from mimiq.models.attention import ExplicitAttention
from mimiq.models.family import Migration, Stream


class ViTFamily:
    """timm's ViT and DeiT: pre-norm blocks with fused-qkv attention and a two-layer MLP."""

    name = "vit"

    def matches(self, module: nn.Module) -> bool:
        from timm.models.vision_transformer import VisionTransformer

        return isinstance(module, VisionTransformer)

    def rewrite(self, module: nn.Module) -> nn.Module:
        from timm.layers.attention import Attention
        from timm.models.vision_transformer import Block

        rewritten: Any = copy.deepcopy(module).eval()
        stem = rewritten.patch_embed
        if hasattr(stem, "backbone") or not isinstance(getattr(stem, "proj", None), nn.Conv2d):
            raise UnsupportedModel(
                f"patch_embed is a {type(stem).__name__}, not one convolution over patches.",
                "Choose a ViT or DeiT without a convolutional stem, such as deit_s or vit_b.",
            )
        for index, block in enumerate(rewritten.blocks):
            attention = getattr(block, "attn", None)
            if type(block) is not Block or type(attention) is not Attention:
                raise UnsupportedModel(
                    f"blocks.{index} is a {type(block).__name__} with {type(attention).__name__}, "
                    "which is not the plain pre-norm ViT block.",
                    "Choose a ViT or DeiT with standard blocks, such as deit_s or vit_b.",
                )
            mlp = getattr(block, "mlp", None)
            if not all(isinstance(getattr(mlp, name, None), nn.Linear) for name in ("fc1", "fc2")):
                raise UnsupportedModel(
                    f"blocks.{index}.mlp is a {type(mlp).__name__}, not two Linears with an "
                    "activation between them.",
                    "Choose a ViT or DeiT with standard blocks, such as deit_s or vit_b.",
                )
            if getattr(attention, "gate", None) is not None:
                raise UnsupportedModel(
                    f"blocks.{index}.attn gates its output.",
                    "Gated attention is not supported; choose a plain ViT or DeiT.",
                )
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
            _fold_scale(block, "ls1", "attn.proj")
            _fold_scale(block, "ls2", "mlp.fc2")
        frozen: nn.Module = rewritten.requires_grad_(False)
        return frozen

    def blocks(self, module: nn.Module) -> list[nn.Module]:
        blocks: Any = module.blocks
        return list(blocks)

    def attentions(self, module: nn.Module) -> list[ExplicitAttention]:
        found = [getattr(block, "attn", None) for block in self.blocks(module)]
        return [attention for attention in found if isinstance(attention, ExplicitAttention)]

    def migrations(self, module: nn.Module) -> list[Migration]:
        places: list[Migration] = []
        for block in self.blocks(module):
            parts: Any = block
            attention: ExplicitAttention = parts.attn
            if isinstance(parts.norm1, nn.LayerNorm):
                places.append(Migration(parts.norm1, attention.qkv))
            if isinstance(attention.norm, nn.Identity):
                width = attention.num_heads * attention.head_dim
                # softmax·v is linear in v, so a channel's factor passes through to ``proj``.
                places.append(Migration(attention.qkv, attention.proj, (2 * width, 3 * width)))
            if isinstance(parts.norm2, nn.LayerNorm):
                places.append(Migration(parts.norm2, parts.mlp.fc1))
        return places

    def stream_readers(self, block: nn.Module) -> dict[str, str]:
        parts: Any = block
        readers = {}
        if isinstance(parts.ls1, nn.Identity):
            readers["attn.proj"] = "norm2"
        if isinstance(parts.ls2, nn.Identity):
            readers["mlp.fc2"] = ""
        return readers

    def stream(self, module: nn.Module) -> Stream | None:
        network: Any = module
        tokens = [
            getattr(network, name, None)
            for name in ("cls_token", "dist_token", "reg_token", "pos_embed")
        ]
        writers, readers = [network.patch_embed.proj], []
        between = [network.patch_embed.norm, network.norm_pre]
        for block in network.blocks:
            writers += [block.attn.proj, block.mlp.fc2]
            readers += [(block.norm1, [block.attn.qkv]), (block.norm2, [block.mlp.fc1])]
            between += [block.ls1, block.ls2]
        heads = [getattr(network, name, None) for name in ("head", "head_dist", "head_patches")]
        norms = [norm for norm in (network.norm, network.fc_norm) if type(norm) is not nn.Identity]
        if len(norms) != 1 or network.attn_pool is not None:
            return None
        readers.append((norms[0], [head for head in heads if head is not None]))
        if any(type(part) is not nn.Identity for part in between):
            return None
        if not all(_foldable(norm, linears) for norm, linears in readers):
            return None
        return Stream(
            network.embed_dim, [part for part in tokens if part is not None], writers, readers
        )

    def embed(self, module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        network: Any = module

        def tokens(images: torch.Tensor) -> torch.Tensor:
            x = network._pos_embed(network.patch_embed(images))
            out: torch.Tensor = network.norm_pre(network.patch_drop(x))
            return out

        return tokens


@torch.no_grad()
def _fold_scale(block: nn.Module, name: str, linear_name: str) -> None:
    """LayerScale multiplies the channels of a Linear's output: so can the Linear's own weights."""
    from timm.layers.layer_scale import LayerScale

    scale, linear = block.get_submodule(name), block.get_submodule(linear_name)
    if isinstance(scale, LayerScale) and isinstance(linear, nn.Linear):
        linear.weight.mul_(scale.gamma.unsqueeze(1))
        if linear.bias is not None:
            linear.bias.mul_(scale.gamma)
        block.set_submodule(name, nn.Identity())


def _foldable(norm: nn.Module, linears: list[nn.Module]) -> bool:
    """Whether the affine of ``norm`` can move into the Linears that read it."""
    affine = isinstance(norm, nn.LayerNorm) and norm.weight is not None and norm.bias is not None
    return affine and all(
        isinstance(linear, nn.Linear) and linear.bias is not None for linear in linears
    )
