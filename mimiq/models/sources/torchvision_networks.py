"""torchvision's ViT and Swin as they are in memory, as timm's network of the same function."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from mimiq.errors import BadInput, UnsupportedModel
from mimiq.models import checkpoint
from mimiq.models.prefixes import Found
from mimiq.models.sources import explain, torchvision, windows
from mimiq.models.sources.heads import with_head

_CLASSES = {
    "torchvision.models.vision_transformer": "VisionTransformer",
    "torchvision.models.swin_transformer": "SwinTransformer",
}


def is_one(module: nn.Module) -> bool:
    """Whether it is torchvision's, told without importing torchvision."""
    return any(_CLASSES.get(kind.__module__) == kind.__name__ for kind in type(module).__mro__)


def as_timm(module: nn.Module, image_size: tuple[int, int] | None) -> nn.Module:
    """timm's network with the same weights, in eval mode, fp32, on the CPU.

    Args:
        module: torchvision's, which is left as it is.
        image_size: height and width of its images; None where the network itself says.

    Raises:
        BadInput: the size is missing, or windows do not divide it as timm's do; or there is another
            layer before the classifier.
        UnsupportedModel: a stem of several convolutions.
    """
    name = type(module).__name__
    found = Found({key: tensor.detach().cpu() for key, tensor in module.state_dict().items()})
    if hasattr(module, "conv_proj"):
        built = _vit(module)
        found = torchvision.to_timm(found)
    else:
        if image_size is None:
            raise BadInput(
                f"torchvision's {name} does not say how large its images are.",
                "Give `preprocessing`: mimiq.Preprocessing(image_size=224, …).",
            )
        built = _swin(module, image_size)
        windows.keep_windows(built)
        windows.check_padding(built, f"this {name}")
        found = torchvision.swin_to_timm(found)
    path = Path(f"This {name}")  # as messages name what is read
    state, _ = with_head(found.state, found, path)
    head = state.get("head.weight", state.get("head.fc.weight"))
    built.reset_classifier(0 if head is None else len(head))
    error = explain.misfit(state, built.state_dict(), path, "timm's form of it")
    if error is not None:
        raise error
    checkpoint.load_into(built, state, path, name)
    network: nn.Module = built.eval()
    return network


def _vit(module: Any) -> Any:
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(module.conv_proj, nn.Conv2d):
        raise UnsupportedModel(
            "This VisionTransformer of torchvision's has a stem of several convolutions.",
            "Choose one whose patches are projected by one convolution.",
        )
    return VisionTransformer(
        img_size=module.image_size,
        patch_size=module.patch_size,
        in_chans=module.conv_proj.in_channels,
        embed_dim=module.hidden_dim,
        depth=len(module.encoder.layers),
        num_heads=module.encoder.layers[0].num_heads,
        mlp_ratio=module.mlp_dim / module.hidden_dim,
        norm_layer=partial(nn.LayerNorm, eps=module.encoder.ln.eps),
    )


def _swin(module: Any, image_size: tuple[int, int]) -> Any:
    from timm.models.swin_transformer import SwinTransformer
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    stem, stages = module.features[0], module.features[1::2]
    first = stages[0][0]
    build: Any = SwinTransformerV2 if hasattr(first.attn, "logit_scale") else SwinTransformer
    return build(
        img_size=image_size,
        patch_size=stem[0].kernel_size[0],
        in_chans=stem[0].in_channels,
        embed_dim=stem[0].out_channels,
        depths=tuple(len(stage) for stage in stages),
        num_heads=tuple(stage[0].attn.num_heads for stage in stages),
        window_size=tuple(first.attn.window_size),
        always_partition=True,
        mlp_ratio=first.mlp[0].out_features / first.mlp[0].in_features,
        norm_layer=partial(nn.LayerNorm, eps=module.norm.eps),
    )
