"""What rewriting a network's blocks takes in every family: joined projections, MLPs, refusals."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mimiq.errors import UnsupportedModel
from mimiq.models.families import prenorm

_HINT = "Choose a network without it: `mimiq models` lists those that are known to compile."


def unsupported(where: str, what: str) -> UnsupportedModel:
    """The error for a part of a network that no description covers.

    Args:
        where: module name of the part.
        what: what it is or does, ending the sentence.
    """
    return UnsupportedModel(f"{where} {what}, which has no description here.", _HINT)


def require_type(part: nn.Module | None, kinds: tuple[type, ...], where: str) -> None:
    """
    Raises:
        UnsupportedModel: ``part`` is of none of these classes; subclasses may compute otherwise.
    """
    if type(part) not in kinds:
        raise unsupported(where, f"is a {type(part).__name__}")


@torch.no_grad()
def joined_qkv(attention: nn.Module, where: str) -> nn.Linear:
    """One Linear from C to (q, k, v) × heads × d, of whatever form the projections have.

    ``qkv`` with or without biases of its own, ``q_bias`` and ``v_bias`` beside it, or ``q_proj``,
    ``k_proj`` and ``v_proj``.

    Raises:
        UnsupportedModel: keys and values have fewer heads than queries.
    """
    parts: Any = attention
    if getattr(parts, "qkv", None) is not None:
        joined: nn.Linear = parts.qkv
        if getattr(parts, "q_bias", None) is not None:
            biases = (parts.q_bias, torch.zeros_like(parts.q_bias), parts.v_bias)
            joined.bias = nn.Parameter(torch.cat(biases))
        return joined
    projections: list[nn.Linear] = [parts.q_proj, parts.k_proj, parts.v_proj]
    if len({linear.out_features for linear in projections}) > 1:
        raise unsupported(where, "has fewer heads for keys and values than for queries")
    return joined_linears(projections)


@torch.no_grad()
def joined_linears(linears: list[nn.Linear]) -> nn.Linear:
    """One Linear that puts out what these put out, side by side, of the same input."""
    width = sum(linear.out_features for linear in linears)
    has_bias = any(linear.bias is not None for linear in linears)
    first = linears[0].weight
    joined = nn.Linear(linears[0].in_features, width, has_bias, first.device, first.dtype)
    joined.weight.copy_(torch.cat([linear.weight.detach() for linear in linears]))
    if has_bias:
        biases: list[torch.Tensor] = [
            linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
            for linear in linears
        ]
        joined.bias.copy_(torch.cat(biases))
    return joined


def lift_inner_norm(block: nn.Module) -> None:
    """A norm that ViTamin's MLP begins with moves out, behind the block's ``norm2``."""
    from timm.models.vitamin import GeGluMlp

    parts: Any = block
    if type(parts.mlp) is GeGluMlp:
        parts.norm2 = nn.Sequential(parts.norm2, parts.mlp.norm)
        parts.mlp.norm = nn.Identity()


def described_mlp(mlp: nn.Module, where: str) -> nn.Module:
    """The MLP with its Linears ``fc1`` and ``fc2``: itself, or gated with its two first joined.

    Raises:
        UnsupportedModel: it is neither.
    """
    from timm.layers.mlp import GluMlp, Mlp, SwiGLU
    from timm.models.vitamin import GeGluMlp

    require_type(mlp, (Mlp, GluMlp, SwiGLU, GeGluMlp), where)
    parts: Any = mlp
    if type(mlp) is SwiGLU:
        return _gated([parts.fc1_g, parts.fc1_x], parts.act, parts.norm, parts.fc2)
    if type(mlp) is GeGluMlp:
        return _gated([parts.w0, parts.w1], parts.act, parts.norm, parts.w2)
    if not all(isinstance(getattr(mlp, name), nn.Linear) for name in ("fc1", "fc2")):
        raise unsupported(where, "works on convolutions")
    return mlp


def _gated(first: list[nn.Linear], act: nn.Module, norm: nn.Module, second: nn.Linear) -> nn.Module:
    """timm's MLP of one first Linear for the gate and what it opens, in this order."""
    from timm.layers.mlp import GluMlp

    hidden = 2 * first[0].out_features
    packed: Any = GluMlp(first[0].in_features, hidden, second.out_features, gate_last=False)
    packed.fc1 = joined_linears(first)
    packed.act, packed.norm, packed.fc2 = act, norm, second
    module: nn.Module = packed.eval()
    return module


def fold_layer_scale(scale: nn.Module | None, linear: nn.Linear) -> bool:
    """Whether ``scale`` is a LayerScale, which then is part of the Linear before it."""
    from timm.layers.layer_scale import LayerScale

    if not isinstance(scale, LayerScale):
        return False
    prenorm.fold_scale(scale.gamma, linear)
    return True


def fold_layer_scales(block: nn.Module) -> None:
    """LayerScale multiplies the channels of a Linear's output: so can the Linear's own weights.

    Folded are ``ls1`` and ``ls2``, or ``gamma_1`` and ``gamma_2``, of a block with ``attn`` and
    ``mlp``.
    """
    parts: Any = block
    for number, linear in ((1, parts.attn.proj), (2, parts.mlp.fc2)):
        if fold_layer_scale(getattr(block, f"ls{number}", None), linear):
            block.set_submodule(f"ls{number}", nn.Identity())
        gamma = getattr(block, f"gamma_{number}", None)
        if gamma is not None:
            prenorm.fold_scale(gamma, linear)
            setattr(block, f"gamma_{number}", None)
