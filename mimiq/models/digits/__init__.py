"""The embedded model: a small DeiT-style ViT for handwritten digits, with its held-out images.

It lets the whole compiler run anywhere, offline, on real weights and real images. The weights are
trained by ``python -m mimiq.models.digits.train`` on scikit-learn's digits (a part of the UCI
"Optical Recognition of Handwritten Digits" data, 1797 images of 8×8 pixels), brought to 32×32 by
the preprocessing below. The images that the training never saw are packed beside the weights.

Importing this file and reading the held-out images needs neither torch nor timm.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mimiq.runtime.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import nn

FOLDER = Path(__file__).parent
WEIGHTS_FILE = "digits.safetensors"
HELDOUT_FILE = "heldout.npz"
NUM_CLASSES = 10


def create_digits() -> nn.Module:
    """The trained timm ``VisionTransformer``: (B, 3, 32, 32) to (B, 10) logits, eval mode, fp32.

    The file holds fp16; the parameters are exactly those values, widened.

    Raises:
        BadInput: when the installed weights file is absent or damaged.
    """
    from mimiq.models.checkpoint import load_into, read_tensors

    path = FOLDER / WEIGHTS_FILE
    module = build_digits(seed=0)
    load_into(module, read_tensors(path), path, "digits")
    return module.eval()


def build_digits(seed: int) -> nn.Module:
    """The same network before training; the caller's random state is left as it was.

    128 channels and 256 in the MLP are whole numbers of INT4 blocks of 32, 64 and 128. Four heads
    of 32 channels are a size at which TensorRT fuses INT8 attention.
    """
    import torch
    from timm.models.vision_transformer import VisionTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: nn.Module = VisionTransformer(
            img_size=32,
            patch_size=4,
            num_classes=NUM_CLASSES,
            embed_dim=128,
            depth=4,
            num_heads=4,
            mlp_ratio=2.0,
        )
    return module


def digits_labels() -> tuple[str, ...]:
    """The class names in order: ``"0"`` to ``"9"``."""
    return tuple(str(digit) for digit in range(NUM_CLASSES))


def digits_preprocessing() -> Preprocessing:
    """The pipeline of training and evaluation alike; a 32×32 image is only normalised."""
    return Preprocessing(
        image_size=32,
        crop_pct=1.0,
        interpolation="bicubic",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )


def digits_heldout() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The images the training never saw: uint8 (N, 32, 32, 3) RGB and their classes, int64 (N,)."""
    with np.load(FOLDER / HELDOUT_FILE, allow_pickle=False) as packed:
        return packed["images"], packed["labels"]
