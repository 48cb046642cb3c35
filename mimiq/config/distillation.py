"""How a quantised network is distilled, as values with names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mimiq.errors import BadInput

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Views:
    """How much each view is changed; zero switches a part off.

    Attributes:
        crop: the smallest share of the image's area that a random resized crop keeps; 1: no crop.
        flip: probability of a horizontal flip.
        jitter: brightness, contrast and saturation are scaled by factors in 1 ± jitter. What one
            channel shows has no saturation; of many, it is how far they are from their mean.
        grey: probability of losing the colour.
        blur: probability of a Gaussian blur with σ up to 1/64 of the root of the image's area.
            Synthetic images have more energy at high frequencies than photographs.
        mix: probability that a random rectangle comes from another image of the batch (CutMix).
    """

    crop: float = 1.0
    flip: float = 0.0
    jitter: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    mix: float = 0.0

    @property
    def fixed(self) -> bool:
        """Whether every view is the image itself, so that the teacher need see it only once."""
        return self == Views()


@dataclass(frozen=True)
class DistillationRecipe:
    """How scales and weights are tuned.

    Attributes:
        steps: optimiser steps; 0 leaves the calibrated network as it is.
        batch_size: images a step.
        optimizer: ``adamw``, or the paper's ``sgd`` (Nesterov momentum 0.9).
        lr_weights: peak learning rate of weights, biases and norms; 0 leaves them as they are.
        lr_scales: peak learning rate of the scales' logarithms.
        temperature: T of the divergence.
        structural_weight: w, the weight of the head-wise structural loss.
        views: random changes of the images.
        held_out: share of the images that choose the best state and are never trained on.
        evaluate_every: steps between two looks at the held-out images.
    """

    name: str = "default"
    steps: int = 600
    batch_size: int = 16
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr_weights: float = 1e-4
    lr_scales: float = 1e-3
    temperature: float = 5.0
    structural_weight: float = 10.0
    views: Views = field(default_factory=Views)
    held_out: float = 0.125
    evaluate_every: int = 50

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def split(
        self, images: torch.Tensor, of_set: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(images to learn from, the last ones, held out).

        Whatever is fitted before distillation must not see those held out either: a fit looks
        better on what it was made from than anything that tuning finds afterwards.

        Args:
            images: those of the set last.
            of_set: how many are the set's, where others are shown beside it: an eighth of them at
                most is held out. All of them by default.

        Raises:
            BadInput: when there are too few images to hold any out.
        """
        most = len(images) if of_set is None else of_set // 8
        held_out = max(1, min(round(len(images) * self.held_out), most))
        if len(images) <= held_out:
            raise BadInput(
                f"{len(images)} calibration images are too few to tune with and hold some out.",
                "Use a set of at least 2 images; 64 or more give good results.",
            )
        return images[:-held_out], images[-held_out:]
