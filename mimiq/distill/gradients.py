"""A distillation that several ranks share: gradients that add up, and one checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from mimiq import ranks


def sum_gradients(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    """Add up the gradients and the loss of all ranks, in place, in one message.

    Args:
        optimizer: of the parameters; one without a gradient on a rank counts as zero there.
        loss: this rank's share of the batch's mean.
    """
    group = ranks.current()
    if group.world == 1:
        return
    gradients = []
    for parameters in optimizer.param_groups:
        for parameter in parameters["params"]:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    group.sum_([*gradients, loss])


def kept_by_first(checkpoint: Path | None) -> bytes | None:
    """What the first rank has in its checkpoint, on every rank; None where it has none."""
    group = ranks.current()
    own = None
    if checkpoint is not None and group.first and checkpoint.exists():
        own = checkpoint.read_bytes()
    if not group.share(own is not None):
        return None
    return group.send(own, 0)
