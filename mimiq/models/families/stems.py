"""What makes tokens of images: one convolution, or a convolutional network before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mimiq.config.precision import Roles
from mimiq.models.families import rewriting


def is_hybrid(network: nn.Module) -> bool:
    """Whether a convolutional network stands before the tokens."""
    return hasattr(getattr(network, "patch_embed", None), "backbone")


def require_plain(network: nn.Module) -> None:
    """
    Raises:
        UnsupportedModel: images are not cut into patches by one convolution.
    """
    stem = getattr(network, "patch_embed", None)
    if not isinstance(getattr(stem, "proj", None), nn.Conv2d) or is_hybrid(network):
        raise rewriting.unsupported("patch_embed", f"is a {type(stem).__name__}")


def describe(network: nn.Module) -> None:
    """A stem of one convolution is left as it is; in a hybrid's, weights are written out.

    Raises:
        UnsupportedModel: it is neither.
    """
    from timm.layers.hybrid_embed import HybridEmbed

    if not is_hybrid(network):
        require_plain(network)
        return
    stem: Any = network.patch_embed
    rewriting.require_type(stem, (HybridEmbed,), "patch_embed")
    _write_out_standardised(stem.backbone)


def roles(network: nn.Module, usual: Roles) -> Roles:
    """Those of the network: a convolutional network before the tokens stays in floating point."""
    if not is_hybrid(network):
        return usual
    return Roles(classifier=usual.classifier, unquantized=("patch_embed.*",))


@torch.no_grad()
def _write_out_standardised(backbone: nn.Module) -> None:
    """Convolutions that standardise their weights in every forward get those once."""
    from timm.layers.conv2d_same import Conv2dSame
    from timm.layers.std_conv import StdConv2d, StdConv2dSame

    for name, layer in list(backbone.named_modules()):
        if type(layer) not in (StdConv2d, StdConv2dSame):
            continue
        plain_type = Conv2dSame if getattr(layer, "same_pad", False) else nn.Conv2d
        flat = layer.weight.flatten(1)
        centred = flat - flat.mean(1, keepdim=True)
        deviation = (centred.square().mean(1, keepdim=True) + layer.eps).sqrt()
        plain = plain_type(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            bias=layer.bias is not None,
            device=layer.weight.device,
        )
        plain.weight.copy_((centred / deviation).reshape_as(layer.weight))
        if layer.bias is not None and plain.bias is not None:
            plain.bias.copy_(layer.bias)
        backbone.set_submodule(name, plain)
