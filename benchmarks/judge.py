"""How near a changed network stays to the original on some images, for the scripts beside this."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mimiq.calibrate.sources import image_files
from mimiq.models import LoadedModel
from mimiq.runtime.evaluation.datasets import unlabelled


class Judge:
    """Images, and what the full-precision network says of them.

    Args:
        model: the original.
        images: (B, 3, S, S), normalised.
    """

    def __init__(self, model: LoadedModel, images: torch.Tensor) -> None:
        self.images = images
        self.expected = self._logits(model.module)

    @classmethod
    def on_folder(cls, model: LoadedModel, folder: Path, most: int) -> Judge:
        """On ``most`` images in a folder or below it, evenly spread; labels are not looked at."""
        batches = unlabelled(image_files(folder), most).batches(model.preprocessing, 50)
        return cls(model, torch.cat([torch.from_numpy(pixels) for pixels, _ in batches]))

    @torch.inference_mode()
    def _logits(self, module: nn.Module) -> torch.Tensor:
        return torch.cat([module(part) for part in self.images.split(50)])

    def judge(self, module: nn.Module) -> dict[str, float]:
        """``error``: of the logits, as a share of their variance; ``agreement``: of the answers."""
        found = self._logits(module)
        error = (found - self.expected).square().mean() / self.expected.var()
        same = found.argmax(-1) == self.expected.argmax(-1)
        return {"error": float(error), "agreement": float(same.float().mean())}
