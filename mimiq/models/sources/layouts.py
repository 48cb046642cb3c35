"""The layouts in which libraries name a ViT's parameters, each told by one name, read as timm's."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mimiq.models.checkpoint import Tensors, read_tensors
from mimiq.models.prefixes import TRAINING, Found, find_network, unwrapped
from mimiq.models.sources import clip, explain, jax, openmmlab, torchvision
from mimiq.models.sources.transformers import keys as transformers_keys


@dataclass(frozen=True)
class Layout:
    """How one library names the parameters.

    Attributes:
        title: the library and network.
        anchor: a name that such a network has exactly once.
        translate: to timm's names.
    """

    title: str
    anchor: str
    translate: Callable[[Found], Found]


def _as_timm(found: Found) -> Found:
    """With the blocks counted through, which DINOv2's training keeps in chunks for FSDP."""
    state = {
        re.sub(r"^blocks\.\d+\.(?=\d+\.)", "blocks.", name): tensor
        for name, tensor in found.state.items()
    }
    projects = any(name.endswith(_PROJECTION) for name in found.beside)
    return replace(found, state=state, projection=found.projection or projects)


_PROJECTION = "visual.head.proj.weight"  # of open_clip, beside a trunk of timm's
LAYOUTS = (
    Layout("timm", "patch_embed.proj.weight", _as_timm),
    Layout(
        "Hugging Face's vision transformers",
        "embeddings.patch_embeddings.projection.weight",
        transformers_keys.vit,
    ),
    Layout("Hugging Face DINOv3", "embeddings.patch_embeddings.weight", transformers_keys.dinov3),
    Layout(
        "Hugging Face CLIP or SigLIP", "embeddings.patch_embedding.weight", transformers_keys.clip
    ),
    Layout("torchvision", "conv_proj.weight", torchvision.to_timm),
    Layout("torchvision", "features.1.0.attn.qkv.weight", torchvision.swin_to_timm),
    Layout("OpenMMLab", "patch_embed.projection.weight", openmmlab.to_timm),
    Layout("OpenAI CLIP", "class_embedding", clip.to_timm),
    Layout("JAX", "embedding/kernel", jax.to_timm),
)


def read_network(path: Path, base: Any, ema: bool | None, name: str) -> Found:
    """The network in a file, in timm's names.

    Args:
        path: the weights.
        base: the network that it shall fit; None for any vision transformer.
        ema: as of :func:`mimiq.models.prefixes.find_network`.
        name: the network's, as the user wrote it.

    Raises:
        BadInput: the file cannot be read, or no vision transformer is in it.
    """
    tensors = unwrapped(read_tensors(path), path)
    for layout in LAYOUTS:
        found = _jax(tensors, layout) or find_network(tensors, layout.anchor, ema, path)
        if found is None:
            continue
        translated = layout.translate(found)
        if layout.title != "timm" and base is not None:  # a folder's config.json says it itself
            said = f"The file has the layout of {layout.title}; it was read as timm's."
            translated = replace(translated, notes=(*translated.notes, said))
        return _without_training(translated)
    if base is not None and not _is_vision_transformer(base):
        return Found(dict(tensors))
    raise explain.no_network(tensors, path, name)


def _without_training(found: Found) -> Found:
    """The network alone, and a note of what was left out."""
    # timm tells DINOv2's layout by its mask token, and drops it itself.
    dropped = [name for name in found.state if name.startswith(TRAINING) and name != "mask_token"]
    state = {name: tensor for name, tensor in found.state.items() if name not in dropped}
    if not dropped:
        return found
    said = f"Left out of the file: {', '.join(dropped[:3])}{_more(len(dropped) - 3)}."
    return replace(found, state=state, notes=(*found.notes, said))


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def _jax(tensors: Tensors, layout: Layout) -> Found | None:
    """JAX's names have slashes of their own, and no wrappers."""
    if layout.title != "JAX":
        return None
    for prefix in ("", "opt/target/", "params/", "params/img/"):
        if prefix + layout.anchor in tensors:
            return Found(
                {
                    name.removeprefix(prefix): tensor
                    for name, tensor in tensors.items()
                    if name.startswith(prefix)
                }
            )
    return None


def _is_vision_transformer(module: torch.nn.Module) -> bool:
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(module, VisionTransformer)
