"""Small networks of other shapes and families than the embedded one, for tests and benchmarks.

What is chosen on one network alone is judged by others here, and every family that compiles has a
trained one. They are no part of an installation: ``python -m mimiq.models.digits.train --variant
NAME --out DIR`` trains one and writes a folder in timm's form, which
:func:`mimiq.models.load_model` takes by its path.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mimiq.models.digits import NUM_CLASSES, digits_labels, digits_preprocessing

if TYPE_CHECKING:
    from torch import nn

CONFIG = "config.json"
VARIANT_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Variant:
    """A network for 32×32 digits; widths are whole numbers of INT4 blocks of 32 and 64.

    Attributes:
        name: of its folder.
        arguments: of timm's constructor, beside those that all have.
        architecture: timm's constructor, for what the arguments leave as it is.
        epochs: of training; None for those of the embedded network.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    architecture: str = "vit_tiny_patch16_224"
    epochs: int | None = None

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
            module: nn.Module = timm.create_model(self.architecture, **self.model_args)
        return module

    def config(self) -> dict[str, Any]:
        """The ``config.json`` of its folder, in timm's form."""
        preprocessing = digits_preprocessing()
        size = preprocessing.image_size
        return {
            "architecture": self.architecture,
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


# Heads of 32 channels are a size at which TensorRT fuses INT8 attention.
_SMALL: dict[str, Any] = {"embed_dim": 64, "depth": 4, "num_heads": 2, "mlp_ratio": 4.0}
_WINDOWS: dict[str, Any] = {
    "embed_dim": 64,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 4,
    "mlp_ratio": 2.0,
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
        # One of each family and of what its blocks may be.
        Variant("deit_distilled", _SMALL, "deit_tiny_distilled_patch16_224"),
        Variant("swiglu", _SMALL | {"mlp_ratio": 2.5}, "aimv2_large_patch14_224"),
        Variant("post_norm", _SMALL | {"init_values": 0.1}, "vit_base_patch16_rpn_224"),
        Variant("parallel", _SMALL, "vit_base_patch16_xp_224"),
        Variant("hybrid", _SMALL | {"patch_size": 1}, "vit_tiny_r_s16_p8_224"),
        Variant(
            "cait",
            _SMALL | {"depth": 3, "depth_token_only": 1, "init_values": 0.1},
            "cait_xxs24_224",
        ),
        # Its only positions are biases that begin at zero: it learns late.
        Variant("beit", _SMALL | {"init_values": 1.0}, "beit_base_patch16_224", epochs=120),
        Variant("relpos", _SMALL, "vit_relpos_small_patch16_224"),
        Variant("eva", _SMALL, "eva_giant_patch14_224"),
        Variant(
            "eva02",
            _SMALL | {"mlp_ratio": 2.5, "ref_feat_shape": [8, 8]},
            "eva02_base_patch14_224",
        ),
        Variant("dinov3", _SMALL | {"init_values": 0.1}, "vit_small_patch16_dinov3"),
        Variant("swin", _WINDOWS, "swin_tiny_patch4_window7_224"),
        Variant("swin_v2", _WINDOWS, "swinv2_tiny_window8_256"),
    )
}
