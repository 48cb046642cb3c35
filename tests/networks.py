"""What several folders' tests make small networks with."""

from __future__ import annotations

from timm.models.vision_transformer import VisionTransformer

from mimiq.models import LoadedModel
from mimiq.models.checkpoint import sha256_state
from mimiq.models.vit import ViTFamily
from mimiq.runtime.preprocessing import Preprocessing


def as_loaded(network: VisionTransformer) -> LoadedModel:
    """An untrained network of 32 pixels and 10 classes, as if it had been loaded by name."""
    family = ViTFamily()
    return LoadedModel(
        name="small",
        architecture="small",
        module=family.rewrite(network),
        family=family,
        preprocessing=Preprocessing(image_size=32, crop_pct=1.0, mean=(0.5,) * 3, std=(0.5,) * 3),
        num_classes=10,
        weights_hash=sha256_state(network.state_dict()),
        untrained=True,
    )
