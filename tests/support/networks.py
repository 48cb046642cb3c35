"""What several folders' tests make small networks with."""

from __future__ import annotations

from torch import nn

from mimiq.models import LoadedModel
from mimiq.models.checkpoint import sha256_state
from mimiq.models.families.known import FAMILIES
from mimiq.runtime.preprocessing import Preprocessing


def as_loaded(network: nn.Module) -> LoadedModel:
    """An untrained network of 10 classes, as if it had been loaded by name."""
    family = next(family for family in FAMILIES if family.matches(network))
    side = int(network.patch_embed.img_size[0])  # type: ignore[index,union-attr]
    return LoadedModel(
        name="small",
        architecture="small",
        module=family.rewrite(network),
        family=family,
        preprocessing=Preprocessing(image_size=side, crop_pct=1.0, mean=(0.5,) * 3, std=(0.5,) * 3),
        num_classes=10,
        weights_hash=sha256_state(network.state_dict()),
        untrained=True,
    )
