"""Small ViTs of other shapes than the embedded one, for tests and benchmarks of the repository.

What is chosen on one network alone is judged by others here. They are no part of an installation:
``python -m mimiq.models.digits.train --variant NAME --out DIR`` trains one and writes a folder in
timm's form, which :func:`mimiq.models.load_model` takes by its path.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mimiq.models.digits import NUM_CLASSES, digits_labels, digits_preprocessing

if TYPE_CHECKING:
    from torch import nn

CONFIG = "config.json"
VARIANT_WEIGHTS = "model.safetensors"
ARCHITECTURE = "vit_tiny_patch16_224"  # timm's constructor, whose arguments are all changed


@dataclass(frozen=True)
class Variant:
    """A ViT for 32×32 digits; widths are whole numbers of INT4 blocks of 32 and 64.

    Attributes:
        name: of its folder.
        arguments: of timm's constructor, beside those that all have.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def model_args(self) -> dict[str, Any]:
        """All arguments of timm's constructor, as JSON values."""
        common = {"img_size": 32, "patch_size": 4, "num_classes": NUM_CLASSES}
        return common | self.arguments

    def build(self, seed: int) -> nn.Module:
        """The network before training; the caller's random state is left as it was."""
        import timm
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module: nn.Module = timm.create_model(ARCHITECTURE, **self.model_args)
        return module

    def config(self) -> dict[str, Any]:
        """The ``config.json`` of its folder, in timm's form."""
        preprocessing = digits_preprocessing()
        size = preprocessing.image_size
        return {
            "architecture": ARCHITECTURE,
            "num_classes": NUM_CLASSES,
            "label_names": list(digits_labels()),
            "model_args": self.model_args,
            "pretrained_cfg": {
                "input_size": [3, size, size],
                "crop_pct": preprocessing.crop_pct,
                "interpolation": preprocessing.interpolation,
                "mean": list(preprocessing.mean),
                "std": list(preprocessing.std),
                "num_classes": NUM_CLASSES,
            },
        }


VARIANTS = {
    variant.name: variant
    for variant in (
        # Deep and narrow, as the ViTs trained on much data are pooled.
        Variant(
            "registers",
            {
                "embed_dim": 64,
                "depth": 8,
                "num_heads": 2,
                "mlp_ratio": 4.0,
                "class_token": False,
                "reg_tokens": 4,
                "global_pool": "avg",
                "init_values": 0.1,
            },
        ),
        Variant(
            "qk_norm",
            {
                "embed_dim": 128,
                "depth": 3,
                "num_heads": 8,
                "mlp_ratio": 2.0,
                "qk_norm": True,
            },
        ),
    )
}
