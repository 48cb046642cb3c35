"""How calibration images are synthesised, as values with names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

# Where calibration images come from, by name; anything else is a folder.
FORMATS = ("npy", "npz", "png")  # in which a set is written for other tools
CALIBRATIONS = ("synthetic", "psaq", "noise")


@dataclass(frozen=True)
class Augmentation:
    """How far a view of synthesis departs from the image; 0 switches a part off.

    Attributes:
        roll: largest cyclic shift in pixels along both axes, in the first and the second half of
            the iterations. One shift for the whole batch.
        shift_noise: standard deviation, in normalised space, of an offset per image and channel,
            annealed linearly to 0.
        jitter: j of the colour jitter (x − m)/s, m ∈ U(−j, j), s = exp(U(−j, j)) per image and
            channel.
    """

    roll: tuple[int, int] = (8, 16)
    shift_noise: float = 0.5
    jitter: float = 1.0


@dataclass(frozen=True)
class SynthesisRecipe:
    """MimiQ's synthesis (AAAI 2025): the loss, the optimiser and how many images.

    Attributes:
        name: of the recipe.
        images: images in the set.
        iterations: optimiser steps for each batch.
        batch_size: images optimised together.
        start: what a batch is before the first step: standard normal ``noise``, or random
            ``scenes`` (:mod:`mimiq.synthesis.scenes`).
        seen: share of the patches that each step looks at, other ones each time; networks that know
            patches by their place look at all.
        similarity_weight: of the inter-head similarity loss; 0 leaves it out altogether.
        label_weight: of the cross-entropy towards the drawn class.
        tv_weight: of the total variation, given for batches of ``tv_batch`` images (see
            :func:`mimiq.synthesis.total_variation.total_variation` for other batch sizes).
        tv_batch: the batch size that ``tv_weight`` was published for.
        lr, final_lr: learning rate at the start and at the end of a cosine.
        betas, weight_decay: AdamW's.
        augmentation: the random views.
    """

    name: str
    images: int
    iterations: int
    batch_size: int = 16
    start: Literal["noise", "scenes"] = "noise"
    seen: float = 1.0
    similarity_weight: float = 1.0
    label_weight: float = 1.0
    tv_weight: float = 2.5e-5
    tv_batch: int = 16
    lr: float = 0.1
    final_lr: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-6
    augmentation: Augmentation = field(default_factory=Augmentation)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


# What starts from noise keeps its texture, whatever the weight of the total variation; what starts
# from shapes keeps their edges, colours and spectrum, and gets the parts of objects on top.
# DeiT-T at W4A8, weights fitted on 48 images, logit error in % of the variance on kinds of images
# never fitted (pink noise / dead leaves / images from noise with total variation 2.5e-5): from
# noise 12.5 / 18.6 / 12.5; from dead leaves at learning rate 0.1 13.0 / 11.2 / 13.9, at 0.03 9.1 /
# 9.2 / 15.5, at 0.01 7.3 / 6.5 / 18.5; at 0.03 with a total variation of 0.001 in place of 0.01
# 11.1 / 9.1 / 12.5, which W4A4 likes best as well. Twice the iterations are no better.
SYNTHESIS_RECIPES = {
    "paper": SynthesisRecipe("paper", images=10_000, iterations=2000),
    "gpu": SynthesisRecipe(
        "gpu", images=2048, iterations=160, batch_size=64, start="scenes", tv_weight=0.001, lr=0.03
    ),
    # Beside 192 scenes 16, 48 and 192 images give the same errors within 6 % on photographs and
    # crops of wallpapers, for the same time more images of fewer steps the lesser ones, and half
    # the patches about the same in half the time (two networks; docs/accuracy.md).
    "cpu": SynthesisRecipe(
        "cpu", images=96, iterations=40, start="scenes", tv_weight=0.001, lr=0.03
    ),
    "fast": SynthesisRecipe(
        "fast", images=48, iterations=40, start="scenes", seen=0.5, tv_weight=0.001, lr=0.03
    ),
    # For images of 32 pixels in [-1, 1]: jitter as wide as the paper's leaves that range.
    "tiny": SynthesisRecipe(
        "tiny",
        images=128,
        iterations=60,
        batch_size=64,
        tv_weight=0.03,
        augmentation=Augmentation(roll=(1, 2), shift_noise=0.2, jitter=0.3),
    ),
}
