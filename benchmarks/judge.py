"""How near a changed network stays to the original on real images, for the scripts beside this."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mimiq.models import LoadedModel
from mimiq.runtime.datasets import open_dataset


class Judge:
    """Real images, and what the full-precision network says of them.

    Args:
        model: the original.
        folder: labelled images, as ``mimiq eval`` takes them.
        most: how many of them, evenly spread.
    """

    def __init__(self, model: LoadedModel, folder: Path, most: int) -> None:
        dataset = open_dataset(folder, model.num_classes)
        batches = dataset.batches(model.preprocessing, 50)
        images = torch.cat([torch.from_numpy(pixels) for pixels, _ in batches])
        self.images = images[:: max(1, len(dataset) // most)]
        self.expected = self._logits(model.module)

    @torch.inference_mode()
    def _logits(self, module: nn.Module) -> torch.Tensor:
        return torch.cat([module(part) for part in self.images.split(50)])

    def judge(self, module: nn.Module) -> dict[str, float]:
        """``error``: of the logits, as a share of their variance; ``agreement``: of the answers."""
        found = self._logits(module)
        error = (found - self.expected).square().mean() / self.expected.var()
        same = found.argmax(-1) == self.expected.argmax(-1)
        return {"error": float(error), "agreement": float(same.float().mean())}
