"""Random views of calibration images for distillation, drawn from an explicit generator.

The teacher labels whatever it is shown, so a view need not look natural: it must only make the
network's layers do what they do on real images.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from mimiq.config.distillation import Views


def random_views(views: Views, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Views of (B, C, H, W) images in normalised space; ``generator`` lives on the CPU."""
    if views.crop < 1 or views.flip > 0:
        images = _crop_and_flip(views, images, generator)
    if views.jitter > 0 or views.grey > 0:
        images = _colour(views, images, generator)
    if views.blur > 0:
        images = _blur(views, images, generator)
    if views.mix > 0:
        images = _mix(views, images, generator)
    return images


def _crop_and_flip(views: Views, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    count = len(images)
    # Half the image's extent that is kept, and where its centre lies, in [-1, 1] coordinates.
    area = views.crop + (1 - views.crop) * _uniform(count, generator)
    aspect = ((2 * _uniform(count, generator) - 1) * 0.2877).exp()  # 3:4 to 4:3
    if views.crop == 1:
        aspect = torch.ones(count)
    half_width = (area * aspect).sqrt().clamp(max=1)
    half_height = (area / aspect).sqrt().clamp(max=1)
    sign = torch.where(_uniform(count, generator) < views.flip, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = half_width * sign
    theta[:, 1, 1] = half_height
    theta[:, 0, 2] = (2 * _uniform(count, generator) - 1) * (1 - half_width)
    theta[:, 1, 2] = (2 * _uniform(count, generator) - 1) * (1 - half_height)
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _colour(views: Views, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    def factor() -> torch.Tensor:
        drawn = 1 + views.jitter * (2 * _uniform(len(images), generator) - 1)
        return drawn.reshape(-1, 1, 1, 1).to(images.device)

    images = images * factor()
    images = torch.lerp(images.mean((1, 2, 3), keepdim=True), images, factor())
    grey = images.mean(1, keepdim=True)
    saturation = factor()
    colourless = _uniform(len(images), generator).reshape(-1, 1, 1, 1) < views.grey
    saturation = saturation * (~colourless).to(images.device)
    return torch.lerp(grey, images, saturation)


def _blur(views: Views, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    count, channels, height, width = images.shape
    size = math.sqrt(height * width)
    chosen = _uniform(count, generator) < views.blur
    sigma = (0.1 + 0.9 * _uniform(count, generator)) * size / 64
    reach = min(math.ceil(2.5 * size / 64), height - 1, width - 1)
    offsets = torch.arange(-reach, reach + 1).float()
    kernel = (-(offsets**2) / (2 * sigma.unsqueeze(1) ** 2)).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(images)
    kernel = kernel.repeat_interleave(channels, 0).reshape(count * channels, 1, 1, -1)
    flat = images.reshape(1, count * channels, height, width)
    for weight, pad in (
        (kernel, (reach, reach, 0, 0)),
        (kernel.transpose(2, 3), (0, 0, reach, reach)),
    ):
        padded = F.pad(flat, pad, mode="reflect")
        flat = F.conv2d(padded, weight, groups=count * channels)
    chosen = chosen.reshape(-1, 1, 1, 1).to(images.device)
    return torch.where(chosen, flat.reshape(images.shape), images)


def _mix(views: Views, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    height, width = images.shape[2:]
    extent = torch.tensor([height, width]).float()
    partner = torch.randperm(len(images), generator=generator)
    centre = _uniform((len(images), 2), generator) * extent
    half = (0.2 + 0.3 * _uniform((len(images), 2), generator)) * extent / 1.4
    rows = (torch.arange(height).float() - centre[:, :1]).abs() < half[:, :1]
    columns = (torch.arange(width).float() - centre[:, 1:]).abs() < half[:, 1:]
    mixed = (_uniform(len(images), generator) < views.mix).reshape(-1, 1, 1)
    inside = (rows.unsqueeze(2) & columns.unsqueeze(1) & mixed).unsqueeze(1)
    return torch.where(inside.to(images.device), images[partner.to(images.device)], images)


def _uniform(shape: int | tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    return torch.rand(shape, generator=generator)
