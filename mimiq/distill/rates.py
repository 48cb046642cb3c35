"""Learning rates of a distillation: a schedule, and what they are lowered by where they do harm."""

from __future__ import annotations

import math

import torch

# Held-out losses this many times the best one come from rates too high for a network: that of
# recipe `cpu` makes 0.9 to 3.6 in six steps on a DINOv2, a tenth of it 0.75 (docs/accuracy.md).
HARM = 1.1
_LOWERED = 0.25


class Rates:
    """What each step of an optimiser takes of the rates that it was made with.

    Args:
        optimizer: its groups have the peak rates.
        steps: of the whole run.

    Attributes:
        share: of the peak rates, 1 at first.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, steps: int) -> None:
        self.optimizer = optimizer
        self.steps = steps
        self.share = 1.0
        self._peaks = [group["lr"] for group in optimizer.param_groups]

    def set(self, step: int) -> None:
        """Those of a step: linear warm-up over a twentieth of the run, then a cosine to zero."""
        share = self.share * _schedule(step, self.steps)
        for group, peak in zip(self.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * share

    def lower(self) -> None:
        """To a quarter from here on, what the optimiser remembers of the higher ones forgotten."""
        self.share *= _LOWERED
        self.optimizer.state.clear()


def _schedule(step: int, steps: int) -> float:
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
