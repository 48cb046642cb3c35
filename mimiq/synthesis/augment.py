"""The random views through which synthesis looks at its images (MimiQ, AAAI 2025)."""

from __future__ import annotations

import torch

from mimiq.config.synthesis import Augmentation


def augment(
    images: torch.Tensor,
    augmentation: Augmentation,
    progress: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """A view of ``images`` through which gradients flow back.

    Args:
        images: (B, C, H, W) in normalised space.
        progress: share of the iterations already done, in [0, 1).
        generator: on the CPU, so that all devices see the same draws. Every call draws the same
            amount from it, whatever is switched off.
    """
    batch, channels = images.shape[:2]
    per_channel = (batch, channels, 1, 1)
    reach = augmentation.roll[0 if progress < 0.5 else 1]
    down, right = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
    noise = torch.randn(per_channel, generator=generator)
    offset = 2 * torch.rand(per_channel, generator=generator) - 1
    log_spread = 2 * torch.rand(per_channel, generator=generator) - 1

    noise *= augmentation.shift_noise * (1 - progress)
    factor = (-augmentation.jitter * log_spread).exp()
    bias = (noise - augmentation.jitter * offset) * factor
    rolled = images.roll((down, right), (2, 3)) if down or right else images
    # (rolled + noise − m)/s in one pass over the pixels.
    return torch.addcmul(bias.to(rolled), rolled, factor.to(rolled))
