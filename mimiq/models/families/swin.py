"""Swin and Swin v2: attention in windows that shift, tokens merged between stages."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mimiq.models.attention import ExplicitAttention, UnitNorm
from mimiq.models.families import prenorm, rewriting, stems
from mimiq.models.family import Family, Migration, Step, Stream, Write


class SwinFamily(Family):
    """timm's ``SwinTransformer``: pre-norm blocks with a bias and, where shifted, a mask."""

    name = "swin"

    def matches(self, module: nn.Module) -> bool:
        from timm.models.swin_transformer import SwinTransformer

        return isinstance(module, SwinTransformer)

    def rewrite(self, module: nn.Module) -> nn.Module:
        from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention

        rewritten: Any = copy.deepcopy(module).eval()
        stems.require_plain(rewritten)
        for where, block in _blocks(rewritten):
            rewriting.require_type(block, (SwinTransformerBlock,), where)
            rewriting.require_type(block.attn, (WindowAttention,), f"{where}.attn")
            _write_out(block, where, block.attn._get_rel_pos_bias().detach())
        for stage in rewritten.layers:
            if _merges(stage):  # its norm's affine can move into it only with a bias
                reduction = stage.downsample.reduction
                reduction.bias = nn.Parameter(reduction.weight.new_zeros(reduction.out_features))
        frozen: nn.Module = rewritten.requires_grad_(False)
        return frozen

    def steps(self, module: nn.Module) -> list[Step]:
        return _steps(module, prenorm_writes=True)

    def migrations(self, module: nn.Module) -> list[Migration]:
        network: Any = module
        places = []
        for stage in network.layers:
            if _merges(stage):
                places.append(Migration(stage.downsample.norm, stage.downsample.reduction))
            places += [place for block in stage.blocks for place in prenorm.migrations(block)]
        return places

    def streams(self, module: nn.Module) -> list[Stream]:
        """One a stage, but the first: it begins with a norm, which cannot be turned.

        Nor where windows are filled up with zeros behind a norm: its bias must stay where it is.
        """
        network: Any = module
        found = []
        for stage, after in zip(network.layers, [*network.layers[1:], None], strict=True):
            if not _merges(stage) or any(_pads(block) for block in stage.blocks):
                continue
            if after is None:
                end = (network.norm, [network.head.fc])
            else:
                end = (after.downsample.norm, [after.downsample.reduction])
            writer = stage.downsample.reduction
            stream = prenorm.stream(writer.out_features, [], [writer], stage.blocks, [end])
            if stream is not None:
                found.append(stream)
        return found


class SwinV2Family(Family):
    """timm's ``SwinTransformerV2``: post-norm blocks with cosine attention."""

    name = "swin_v2"

    def matches(self, module: nn.Module) -> bool:
        from timm.models.swin_transformer_v2 import SwinTransformerV2

        return isinstance(module, SwinTransformerV2)

    def rewrite(self, module: nn.Module) -> nn.Module:
        from timm.models.swin_transformer_v2 import SwinTransformerV2Block, WindowAttention

        rewritten: Any = copy.deepcopy(module).eval()
        stems.require_plain(rewritten)
        for where, block in _blocks(rewritten):
            rewriting.require_type(block, (SwinTransformerV2Block,), where)
            rewriting.require_type(block.attn, (WindowAttention,), f"{where}.attn")
            _write_out(block, where, _continuous_bias(block.attn), cosine=True)
        frozen: nn.Module = rewritten.requires_grad_(False)
        return frozen

    def steps(self, module: nn.Module) -> list[Step]:
        return _steps(module, prenorm_writes=False)

    def migrations(self, module: nn.Module) -> list[Migration]:
        return [
            place
            for _, block in _blocks(module)
            for place in prenorm.migrations(block, post_norm=True)
        ]


def _blocks(network: Any) -> list[tuple[str, Any]]:
    return [
        (f"layers.{number}.blocks.{index}", block)
        for number, stage in enumerate(network.layers)
        for index, block in enumerate(stage.blocks)
    ]


def _merges(stage: Any) -> bool:
    return not isinstance(stage.downsample, nn.Identity)


def _pads(block: Any) -> bool:
    sides = zip(block.input_resolution, block.window_size, strict=True)
    return any(size % window for size, window in sides)


def _steps(network: Any, *, prenorm_writes: bool) -> list[Step]:
    steps = [Step("embed", lambda images: network.patch_embed(images))]
    for stage in network.layers:
        if _merges(stage):
            steps.append(Step("merge", stage.downsample, stage.downsample))
        for block in stage.blocks:
            writes = {}
            if prenorm_writes:
                writes = prenorm.writes(block) | {"attn.proj": Write("norm2", _in_windows(block))}
            steps.append(Step("block", block, block, writes))
    return [*steps, Step("head", prenorm.head(network))]


def _in_windows(block: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Tokens (B, T, C) of an image in the order in which attention sees them, window by window."""
    height, width = block.input_resolution
    shift, window = block.shift_size, block.window_size

    def arrange(tokens: torch.Tensor) -> torch.Tensor:
        x: torch.Tensor = tokens.reshape(len(tokens), height, width, -1)
        x = x.roll((-shift[0], -shift[1]), (1, 2))
        x = F.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
        x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0])).transpose(2, 3)
        return x.flatten(1, 4)

    return arrange


@torch.no_grad()
def _write_out(block: Any, where: str, bias: torch.Tensor, *, cosine: bool = False) -> None:
    attention = block.attn
    qkv = rewriting.joined_qkv(attention, f"{where}.attn")
    sides = zip(block.input_resolution, block.window_size, strict=True)
    mask = block.get_attn_mask(device=bias.device, dtype=bias.dtype)
    norms: dict[str, Any] = {}
    if cosine:
        scale = attention.logit_scale.clamp(max=math.log(100)).exp()
        norms = {"q_norm": UnitNorm(), "k_norm": UnitNorm(), "root_scale": scale.sqrt()}
    block.attn = ExplicitAttention(
        qkv,
        attention.proj,
        num_heads=attention.num_heads,
        head_dim=qkv.out_features // (3 * attention.num_heads),
        num_prefix_tokens=0,
        bias=bias,
        mask=None if mask is None else mask.unsqueeze(1),
        windows=math.prod(math.ceil(size / window) for size, window in sides),
        **norms,
    )
    block.mlp = rewriting.described_mlp(block.mlp, f"{where}.mlp")
    block.attn_mask, block.dynamic_mask = None, False  # is in the attention


@torch.no_grad()
def _continuous_bias(attention: Any) -> torch.Tensor:
    """What Swin v2's small network makes of relative coordinates: (1, H, N, N)."""
    table = attention.cpb_mlp(attention.relative_coords_table).view(-1, attention.num_heads)
    index = attention.relative_position_index
    bias: torch.Tensor = table[index.flatten()].view(*index.shape, -1)
    bounded: torch.Tensor = 16 * bias.permute(2, 0, 1).unsqueeze(0).sigmoid().contiguous()
    return bounded
