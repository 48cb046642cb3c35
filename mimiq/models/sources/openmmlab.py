"""OpenMMLab's names (mmpretrain, mmcls) for the parameters of a ViT, as timm's."""

from __future__ import annotations

from dataclasses import replace

from mimiq.models.prefixes import Found
from mimiq.models.sources.renaming import renamed

_NAMES = (
    (r"patch_embed\.projection\.", "patch_embed.proj."),
    (r"layers\.(\d+)\.ln(\d)\.", r"blocks.\1.norm\2."),
    (r"layers\.(\d+)\.attn\.", r"blocks.\1.attn."),
    (r"layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
    (r"layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
    (r"ln1\.", "norm."),
    (r"ln2\.", "fc_norm."),
)


def to_timm(found: Found) -> Found:
    """The same network in timm's names; its classifier stands beside it."""
    state = {renamed(name, _NAMES): tensor for name, tensor in found.state.items()}
    return replace(found, state=state)
