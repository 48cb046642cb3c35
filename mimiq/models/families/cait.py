"""CaiT: heads that talk to each other, and a class token that only the last blocks have."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from mimiq.models.attention import ExplicitAttention, HeadMixing
from mimiq.models.families import prenorm, rewriting, stems
from mimiq.models.families.parallel import JoinedBlock
from mimiq.models.family import Family, Migration, Step, Stream, Write


class ClassAttention(nn.Module):
    """Attention of the class token to all tokens: one query an image.

    Its two products are a few thousandths of a network's, and stay in floating point.

    Args:
        q: Linear from C to H·d; kv: to 2·H·d, ordered (k, v) × heads × d.
        proj: Linear from H·d to C.
        num_heads: H.
    """

    def __init__(self, q: nn.Linear, kv: nn.Linear, proj: nn.Linear, num_heads: int) -> None:
        super().__init__()
        self.q, self.kv, self.proj = q, kv, proj
        self.num_heads = num_heads
        self.head_dim = q.out_features // num_heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (B, T, C), the class token first, to what is added to it (B, 1, C)."""
        batch, tokens, _ = x.shape
        q = self.q(x[:, :1]).reshape(batch, 1, self.num_heads, self.head_dim).transpose(1, 2)
        kv = self.kv(x).reshape(batch, tokens, 2, self.num_heads, self.head_dim)
        k, v = kv.permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)
        heads = scores.softmax(dim=-1) @ v
        out: torch.Tensor = self.proj(heads.transpose(1, 2).reshape(batch, 1, -1))
        return out


class ClassBlock(nn.Module):
    """A block that changes the class token alone; the patches' tokens pass."""

    def __init__(
        self, norm1: nn.Module, attn: ClassAttention, norm2: nn.Module, mlp: nn.Module
    ) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = norm1, attn, norm2, mlp

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (B, T, C), the class token first, to the same."""
        first = x[:, :1] + self.attn(self.norm1(x))
        first = first + self.mlp(self.norm2(first))
        return torch.cat([first, x[:, 1:]], dim=1)


class ClassAttentionTransformer(nn.Module):
    """CaiT written out: blocks of patches, the class token, and the blocks that change it.

    Args:
        cait: timm's network, of which the parts are taken.
        blocks, class_blocks: its blocks as they are written out.
    """

    def __init__(self, cait: Any, blocks: list[nn.Module], class_blocks: list[ClassBlock]) -> None:
        super().__init__()
        self.embed_dim: int = cait.embed_dim
        self.global_pool: str = cait.global_pool
        self.patch_embed = cait.patch_embed
        self.cls_token: nn.Parameter = cait.cls_token
        self.pos_embed: nn.Parameter = cait.pos_embed
        self.blocks = nn.ModuleList(blocks)
        self.class_blocks = nn.ModuleList(class_blocks)
        self.norm = cait.norm
        self.head = cait.head

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Tokens (B, N, C) of images (B, channels, H, W)."""
        tokens: torch.Tensor = self.patch_embed(images) + self.pos_embed
        return tokens

    def with_class_token(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, C) to (B, 1 + N, C)."""
        return torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)

    def answer(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (B, 1 + N, C) to logits, or to an embedding, (B, width)."""
        x = self.norm(x)
        if self.global_pool:
            x = x[:, 1:].mean(dim=1) if self.global_pool == "avg" else x[:, 0]
        out: torch.Tensor = self.head(x)
        return out

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, channels, H, W) to logits, or to an embedding, (B, width)."""
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
        x = self.with_class_token(x)
        for block in self.class_blocks:
            x = block(x)
        return self.answer(x)


class CaitFamily(Family):
    """timm's ``Cait``: talking heads, LayerScale, class attention."""

    name = "cait"

    def matches(self, module: nn.Module) -> bool:
        from timm.models.cait import Cait

        return isinstance(module, Cait)

    def rewrite(self, module: nn.Module) -> nn.Module:
        from timm.models.cait import LayerScaleBlock, LayerScaleBlockClassAttn

        network: Any = copy.deepcopy(module).eval()
        stems.require_plain(network)
        blocks: list[nn.Module] = []
        class_blocks: list[ClassBlock] = []
        for index, block in enumerate(network.blocks):
            rewriting.require_type(block, (LayerScaleBlock,), f"blocks.{index}")
            blocks.append(_patch_block(block, f"blocks.{index}"))
        for index, block in enumerate(network.blocks_token_only):
            where = f"blocks_token_only.{index}"
            rewriting.require_type(block, (LayerScaleBlockClassAttn,), where)
            class_blocks.append(_class_block(block, where))
        rewritten = ClassAttentionTransformer(network, blocks, class_blocks)
        return rewritten.eval().requires_grad_(False)

    def steps(self, module: nn.Module) -> list[Step]:
        network: Any = module
        return [
            Step("embed", network.embed),
            *(Step("block", block, block, prenorm.writes(block)) for block in network.blocks),
            Step("embed", network.with_class_token),
            *(
                # The MLP writes to the class token, which is the first of those at the end.
                Step(
                    "class",
                    block,
                    block,
                    {"attn.proj": Write("norm2"), "mlp.fc2": Write("", lambda x: x[:, :1])},
                )
                for block in network.class_blocks
            ),
            Step("head", network.answer),
        ]

    def streams(self, module: nn.Module) -> list[Stream]:
        network: Any = module
        stem = network.patch_embed
        if type(stem.norm) is not nn.Identity:
            return []
        writers, readers = [stem.proj], []
        for block in network.class_blocks:
            writers += [block.attn.proj, block.mlp.fc2]
            readers += [
                (block.norm1, [block.attn.q, block.attn.kv]),
                (block.norm2, [block.mlp.fc1]),
            ]
        readers.append((network.norm, [network.head]))
        tokens = [network.cls_token, network.pos_embed]
        found = prenorm.stream(network.embed_dim, tokens, writers, network.blocks, readers)
        return [] if found is None else [found]

    def migrations(self, module: nn.Module) -> list[Migration]:
        network: Any = module
        found = [place for block in network.blocks for place in prenorm.migrations(block)]
        for block in network.class_blocks:
            width = block.attn.proj.in_features
            found.append(Migration(block.attn.kv, block.attn.proj, (width, 2 * width)))
            found.append(Migration(block.norm2, block.mlp.fc1))
        return found


def _patch_block(block: Any, where: str) -> JoinedBlock:
    from timm.models.cait import TalkingHeadAttn

    attention = block.attn
    rewriting.require_type(attention, (TalkingHeadAttn,), f"{where}.attn")
    block.attn = ExplicitAttention(
        attention.qkv,
        attention.proj,
        num_heads=attention.num_heads,
        head_dim=attention.qkv.out_features // (3 * attention.num_heads),
        num_prefix_tokens=0,
        mix_scores=HeadMixing(attention.proj_l),
        mix_probs=HeadMixing(attention.proj_w),
    )
    block.mlp = rewriting.described_mlp(block.mlp, f"{where}.mlp")
    rewriting.fold_layer_scales(block)
    return JoinedBlock(block.norm1, block.attn, block.norm2, block.mlp, side_by_side=False)


def _class_block(block: Any, where: str) -> ClassBlock:
    from timm.models.cait import ClassAttn

    attention = block.attn
    rewriting.require_type(attention, (ClassAttn,), f"{where}.attn")
    kv = rewriting.joined_linears([attention.k, attention.v])
    block.attn = ClassAttention(attention.q, kv, attention.proj, attention.num_heads)
    block.mlp = rewriting.described_mlp(block.mlp, f"{where}.mlp")
    rewriting.fold_layer_scales(block)
    return ClassBlock(block.norm1, block.attn, block.norm2, block.mlp)
