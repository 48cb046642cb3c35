"""Where other libraries' Swin Transformers are not timm's, with the same weights."""

from __future__ import annotations

from typing import Any

from torch import nn

from mimiq.errors import BadInput


def keep_windows(module: nn.Module) -> None:
    """Leave one window unshifted where it covers all patches, as torchvision, which narrows none.

    Args:
        module: timm's Swin or Swin v2, built with ``always_partition``.
    """
    for block in _blocks(module):
        sides = zip(block.input_resolution, block.window_size, block.shift_size, strict=True)
        block.shift_size = tuple(0 if window >= size else shift for size, window, shift in sides)
        block._init_buffers()


def check_padding(module: nn.Module, origin: str) -> None:
    """
    Args:
        module: timm's Swin or Swin v2.
        origin: the network, for messages.

    Raises:
        BadInput: windows are filled up before they are shifted, and in timm after, which is not
            the same at this image size.
    """
    network: Any = module
    for block in _blocks(module):
        for size, window, shift in zip(
            block.input_resolution, block.window_size, block.shift_size, strict=True
        ):
            # Where both leave the same patches in each window, order makes no difference.
            if shift and size % window not in (0, shift):
                patch = network.patch_embed.patch_size[0]
                unit = patch * window * 2 ** (len(network.layers) - 1)
                raise BadInput(
                    f"At this image size {origin} has windows of {window} patches in {size}: its "
                    "library fills them up before it shifts them, and timm, whose network is "
                    "compiled, after.",
                    f"Give an `image_size` that is a multiple of {unit}.",
                )


def _blocks(module: nn.Module) -> list[Any]:
    network: Any = module
    return [block for stage in network.layers for block in stage.blocks]
