"""How calibration images are synthesised, as values with names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from mimiq.augment import Augmentation


@dataclass(frozen=True)
class SynthesisRecipe:
    """MimiQ's synthesis (AAAI 2025): the loss, the optimiser and how many images.

    Attributes:
        name: of the recipe.
        images: images in the set.
        iterations: optimiser steps for each batch.
        batch_size: images optimised together.
        similarity_weight: of the inter-head similarity loss; 0 leaves it out altogether.
        label_weight: of the cross-entropy towards the drawn class.
        tv_weight: of the total variation, given for batches of ``tv_batch`` images (see
            :func:`mimiq.total_variation.total_variation` for other batch sizes). Of several
            weights the batches of a set take turns.
        tv_batch: the batch size that ``tv_weight`` was published for.
        lr, final_lr: learning rate at the start and at the end of a cosine.
        betas, weight_decay: AdamW's.
        augmentation: the random views.
    """

    name: str
    images: int
    iterations: int
    batch_size: int = 16
    similarity_weight: float = 1.0
    label_weight: float = 1.0
    tv_weight: float | tuple[float, ...] = 2.5e-5
    tv_batch: int = 16
    lr: float = 0.1
    final_lr: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-6
    augmentation: Augmentation = field(default_factory=Augmentation)

    def tv_weight_of(self, batch: int) -> float:
        """The weight that batch number ``batch`` of the set uses."""
        if isinstance(self.tv_weight, tuple):
            return self.tv_weight[batch % len(self.tv_weight)]
        return self.tv_weight

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


# With the published weight of the total variation, short runs keep the noise they start from. On
# DeiT-T after 80 iterations, label loss under the views / confidence in the label / standard
# deviation of the pixels (normalised, so natural images have 1): weight 2.5e-5 gives 1.49 / 0.55 /
# 1.09, 0.003 gives 0.61 / 0.78 / 0.67, and 0.01 gives 0.33 / 0.85 / 0.36. A set of several kinds
# serves best: tuned to W4A8 on 144 images of weight 0.01 the logits of DeiT-T are off by 11 % of
# their variance on images of weight 0.001, tuned on 72 of 0.01 and 72 of 2.5e-5 by 7 %.
SYNTHESIS_RECIPES = {
    "paper": SynthesisRecipe("paper", images=10_000, iterations=2000),
    "gpu": SynthesisRecipe(
        "gpu", images=1024, iterations=500, batch_size=64, tv_weight=(0.01, 0.001, 2.5e-5)
    ),
    "cpu": SynthesisRecipe("cpu", images=192, iterations=80, tv_weight=(0.01, 0.001, 2.5e-5)),
    # For images of 32 pixels in [-1, 1]: jitter as wide as the paper's leaves that range.
    "tiny": SynthesisRecipe(
        "tiny",
        images=256,
        iterations=60,
        batch_size=64,
        tv_weight=0.03,
        augmentation=Augmentation(roll=(1, 2), shift_noise=0.2, jitter=0.3),
    ),
}
