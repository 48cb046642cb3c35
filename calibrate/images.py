"""The images that stages take: one type for synthesis, quantisation and distillation."""

from __future__ import annotations

import numpy as np
import torch

from mimiq.calibrate import CalibrationSet
from mimiq.errors import BadInput
from mimiq.runtime.preprocessing import ByteArray, Preprocessing

Images = CalibrationSet | ByteArray | torch.Tensor
"""A set on disk, or pixels as it gives them: uint8 (B, H, W, C)."""


def pixels_of(images: Images) -> torch.Tensor:
    """The pixels: uint8 (B, H, W, C), on the CPU.

    Raises:
        BadInput: another shape or type, or a set that is damaged.
    """
    found = images.images() if isinstance(images, CalibrationSet) else images
    pixels = torch.from_numpy(found) if isinstance(found, np.ndarray) else found
    if pixels.dtype != torch.uint8 or pixels.ndim != 4:
        raise BadInput(
            f"Images are uint8 (B, H, W, C), and these are {pixels.dtype} {tuple(pixels.shape)}.",
            "Give pixels as a calibration set holds them, not normalised.",
        )
    return pixels.cpu()


def network_input(images: Images, preprocessing: Preprocessing) -> torch.Tensor:
    """What the network takes: float32 (B, C, H, W), normalised.

    Floating-point tensors are taken to be that already, and stay on their device.

    Raises:
        BadInput: as :func:`pixels_of`, or images of another size than the network takes.
    """
    if isinstance(images, torch.Tensor) and images.is_floating_point():
        return images
    pixels = pixels_of(images)
    wanted = (preprocessing.height, preprocessing.width, preprocessing.channels)
    if tuple(pixels.shape[1:]) != wanted:
        raise BadInput(
            f"The images are {tuple(pixels.shape[1:])}, and the network takes {wanted}.",
            "Make them for this network, or load it with their `image_size`.",
        )
    return torch.from_numpy(preprocessing.normalize(pixels.numpy()))
