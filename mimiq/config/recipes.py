"""Named recipes: synthesis, ranges and distillation that belong together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mimiq.config.distillation import DistillationRecipe, Views
from mimiq.config.precision import Precision
from mimiq.config.synthesis import SYNTHESIS_RECIPES, SynthesisRecipe
from mimiq.errors import BadInput
from mimiq.models.names import EMBEDDED
from mimiq.quantize.insert import RangeRecipe

NAMES = tuple(SYNTHESIS_RECIPES)


@dataclass(frozen=True)
class Recipe:
    """Everything about how a network is compiled that is not its precision.

    Attributes:
        name: one of :data:`NAMES`.
        synthesis: how images are made.
        procedural: how many random scenes are shown beside synthetic images when ranges are found
            and the network is tuned; none beside images from elsewhere.
        ranges: how first scales are found.
        distillation: how they are tuned.
        given: how many images are taken of a folder, or drawn as noise, where none are synthesised:
            they cost no minutes.
    """

    name: str
    synthesis: SynthesisRecipe
    ranges: RangeRecipe
    distillation: DistillationRecipe
    procedural: int = 0
    given: int = 192

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "synthesis": self.synthesis.to_json(),
            "ranges": self.ranges.to_json(),
            "distillation": self.distillation.to_json(),
            "procedural": self.procedural,
            "given": self.given,
        }


# What the teacher is shown beside the images themselves.
_VIEWS = Views(crop=0.3, flip=0.5, jitter=0.3, grey=0.1, mix=0.5)

# Synthetic images are all made by one process, and what is fitted to them alone fits photographs
# less well.
_PROCEDURAL = {"gpu": 1024, "cpu": 192, "fast": 192}

_LEAST_GIVEN = 192

_DISTILLATION = {
    "paper": DistillationRecipe(
        name="paper",
        steps=62_500,  # 100 epochs of 10 000 images
        optimizer="sgd",
        lr_weights=1e-3,
        lr_scales=1e-3,
        views=Views(crop=0.2, flip=0.5, jitter=0.8, grey=0.2, blur=0.5),
        evaluate_every=625,
    ),
    # 900 steps of 16 images at these rates (W4A8; W4A4 at twice these), of 336 synthetic ones and
    # 384 scenes, lower DeiT-T's logit error on kinds of images not fitted: docs/accuracy.md.
    "gpu": DistillationRecipe(name="gpu", steps=4000, batch_size=32, views=_VIEWS),
    # 300 steps lower the logit error of 150 by 6 to 11 % on two networks: docs/accuracy.md.
    "cpu": DistillationRecipe(
        name="cpu", steps=300, lr_weights=2e-4, lr_scales=2e-3, views=_VIEWS, evaluate_every=25
    ),
    "fast": DistillationRecipe(
        name="fast", steps=100, lr_weights=2e-4, lr_scales=2e-3, views=_VIEWS, evaluate_every=25
    ),
    # 300 steps leave the embedded network's errors as they are at W4A4, and raise them above.
    "tiny": DistillationRecipe(name="tiny", steps=0, views=_VIEWS, lr_weights=2e-4),
}


def recipe_for(name: str, precision: Precision) -> Recipe:
    """The named recipe, its distillation fitted to the precision.

    Raises:
        BadInput: when the name is unknown.
    """
    if name not in NAMES:
        raise BadInput(f"Recipe {name!r} is unknown.", f"Choose one of {', '.join(NAMES)}.")
    distillation = _DISTILLATION[name]
    if name == "paper":
        ranges = RangeRecipe(
            "mse",
            two_steps=False,
            rotate=False,
            migrate=False,
            refit=False,
            outliers=False,
            rounding="nearest",
        )
    else:
        ranges, distillation = _ranges(precision), _fitted(distillation, precision)
        if name in ("cpu", "fast") and not _eight_bits(precision):
            distillation = _short(distillation, precision)
    synthesis = SYNTHESIS_RECIPES[name]
    if name == "cpu" and _eight_bits(precision):
        # Distillation takes most of the time there, and evens out what half the patches cost.
        synthesis = replace(synthesis, seen=0.5)
    given = max(synthesis.images, _LEAST_GIVEN)
    return Recipe(name, synthesis, ranges, distillation, _PROCEDURAL.get(name, 0), given)


def default_recipe(model: str, device: str) -> str:
    """The recipe that suits a network and a device.

    Args:
        model: its name.
        device: ``cpu`` or ``cuda``.
    """
    if model == EMBEDDED:
        return "tiny"
    return "gpu" if device == "cuda" else "cpu"


def resized(recipe: SynthesisRecipe, images: int | None) -> SynthesisRecipe:
    """The recipe for another number of images; None leaves it as it is."""
    if images is None:
        return recipe
    # A batch larger than the set would leave nothing to resume from.
    return replace(recipe, images=images, batch_size=min(recipe.batch_size, images))


def changed(recipe: Recipe, images: int | None = None, steps: int | None = None) -> Recipe:
    """The recipe with another number of images, or of steps of distillation."""
    distillation = recipe.distillation
    if steps is not None:
        distillation = replace(distillation, steps=steps)
    return replace(
        recipe,
        synthesis=resized(recipe.synthesis, images),
        distillation=distillation,
        given=recipe.given if images is None else images,
    )


def _ranges(precision: Precision) -> RangeRecipe:
    # INT4 weights have no room for the outliers of INT8 activations, which can bear them.
    weights = precision.linear.weight_bits or 16
    activations = precision.linear.activation_bits or 16
    coarse = activations < 8
    # DeiT-T, W4A4, logit error on crops of photographs: centred 34 → 32 %, and with tokens by their
    # importance 30 %. At W4A8 the second made 9.3 % to 10.1 %, and 256 levels have room for what
    # all tokens share.
    return RangeRecipe(
        centre=coarse, migrate=not (weights < 8 and activations == 8), importance=coarse
    )


def _fitted(recipe: DistillationRecipe, precision: Precision) -> DistillationRecipe:
    """Eight bits need small steps; coarse activations less of the structural term.

    DeiT-T, weights already fitted layer by layer. W8A8: no more than 2e-5 (150 steps, 192 images).
    W4A8: 1e-4 and 4e-4 lower the held-out loss from 1.11 to 1.09 and 1.05, and leave the logit
    error on synthetic images of another recipe as it was, 0.067. W5A5: 1e-4 lowers that error from
    0.161 to 0.147, 4e-4 raises it. W4A4 in 600 steps, held-out loss and logit error on crops of
    two photographs: 2e-4 3.29 and 0.40, 4e-4 3.22 and 0.43 (0.44 before tuning), 1e-3 far worse.

    With coarse activations the published weight of the structural term makes it 3.9 of a loss of
    4.3. Four times the steps then bring the loss down to 3.3 and the answers further away: the
    agreement on held-out images falls from 0.58 to 0.29. With a tenth of that weight both terms
    count alike. The embedded network at W4A4: four times the steps lower the held-out loss from
    0.058 to 0.046, and raise the logit error on real images from 0.9 to 1.1 %.
    """
    activation_bits = precision.linear.activation_bits or 16
    if _eight_bits(precision):
        return replace(recipe, lr_weights=recipe.lr_weights / 10, lr_scales=recipe.lr_scales / 2)
    if activation_bits > 6:
        return recipe
    return replace(recipe, structural_weight=recipe.structural_weight / 10)


def _short(recipe: DistillationRecipe, precision: Precision) -> DistillationRecipe:
    """Few steps below 8 bits, or none: docs/accuracy.md.

    W4A8, 200 steps, logit error on photographs and wallpapers: DeiT-T 9.0 → 8.6 and 8.5 → 8.1 %,
    ViT-T 8.5 → 8.2 and 8.1 → 7.8 %. Weights alone gain what images held out cost their fit. 600
    steps take three times these rates, which raise the loss of a short run.
    """
    if recipe.name == "cpu" and precision.linear.activation_bits == 8:
        return replace(recipe, steps=200, lr_weights=3e-5, lr_scales=3e-4)
    return replace(recipe, steps=0, lr_weights=1e-4, lr_scales=1e-3)


def _eight_bits(precision: Precision) -> bool:
    """Whether neither weights nor activations have fewer."""
    widths = (precision.linear.weight_bits or 16, precision.linear.activation_bits or 16)
    return min(widths) >= 8
