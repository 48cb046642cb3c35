"""What an objective of synthesis works on: a network of its own, and batches of images."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from mimiq.models import LoadedModel


@dataclass(frozen=True, eq=False)
class Batch:
    """Images that are being optimised.

    Attributes:
        images: fp32 (B, C, H, W) leaf in normalised space, on the device of the network.
        labels: int64 (B,), the classes they shall show; -1 where the network knows none.
        low, high: (C, 1, 1), normalised values of the pixel values 0 and 1.
        generator: on the CPU; all further randomness of the batch.
    """

    images: torch.Tensor
    labels: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    generator: torch.Generator

    @torch.no_grad()
    def clamp_(self) -> None:
        """Move every pixel to the nearest valid value."""
        self.images.clamp_(self.low, self.high)


# Yields detached scalars by name after each step; the driver looks at a few of them.
Objective = Callable[[Batch], Generator[Mapping[str, torch.Tensor], None, None]]


@dataclass(frozen=True, eq=False)
class Teacher:
    """The network an objective looks at: a private copy, free to be hooked.

    Attributes:
        network: on ``device``, frozen. Under autocast its Linears and convolutions hold their
            weights in ``dtype`` already, as autocast would cast frozen ones again at every step.
        model: where it came from.
        dtype: what to autocast to; None for plain fp32.
    """

    network: nn.Module
    model: LoadedModel
    device: torch.device
    dtype: torch.dtype | None

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)


def make_teacher(
    model: LoadedModel, device: torch.device, dtype: torch.dtype | None = None
) -> Teacher:
    """A copy of the network on ``device``, computing in ``dtype`` (None: fp32)."""
    network = copy.deepcopy(model.module).to(device).eval().requires_grad_(False)
    if dtype is not None:
        for layer in network.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                layer.to(dtype)
    return Teacher(network, model, device, dtype)


def draw_batch(model: LoadedModel, size: int, seed: int, index: int, device: torch.device) -> Batch:
    """Standard normal images and uniform labels: the same for every device and order of batches.

    A network without a classifier gives no labels.
    """
    digest = hashlib.sha256(f"mimiq synthesis {seed} {index}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    if model.output == "embedding":
        labels = torch.full((size,), -1)
    else:  # one logit tells two classes apart
        labels = torch.randint(max(model.num_classes, 2), (size,), generator=generator)
    images = torch.randn((size, *model.preprocessing.input_shape), generator=generator)
    mean = torch.tensor(model.preprocessing.mean).reshape(-1, 1, 1)
    std = torch.tensor(model.preprocessing.std).reshape(-1, 1, 1)
    return Batch(
        images=images.to(device).requires_grad_(),
        labels=labels.to(device),
        low=((0 - mean) / std).to(device),
        high=((1 - mean) / std).to(device),
        generator=generator,
    )
