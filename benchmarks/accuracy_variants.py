"""The precisions and the variants of the recipe that ``accuracy.py`` measures, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from mimiq.config.precision import Precision, from_bits, weight_only
from mimiq.config.recipes import Recipe, recipe_for
from mimiq.quantize.insert import RangeRecipe

PRECISIONS: dict[str, Precision] = {
    "w8a8": from_bits(8, 8),
    "w4a16-b64": weight_only(4, 64),
    "w4a8": from_bits(4, 8),
    "w5a5": from_bits(5, 5),
    "w4a4": from_bits(4, 4),
    # The classifier with the bits of every other Linear, as in the paper.
    "w4a16-b64-uniform": weight_only(4, 64, uniform=True),
    "w4a8-uniform": from_bits(4, 8, uniform=True),
    "w5a5-uniform": from_bits(5, 5, uniform=True),
    "w4a4-uniform": from_bits(4, 4, uniform=True),
}


def _synthesis(**changes: Any) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, synthesis=replace(recipe.synthesis, **changes))


def _distillation(**changes: Any) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, distillation=replace(recipe.distillation, **changes))


def _ranges(**changes: Any) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, ranges=RangeRecipe(**(asdict(recipe.ranges) | changes)))


# What is different from the named recipe: the calibration images, and the recipe.
VARIANTS: dict[str, tuple[str, Callable[[Recipe], Recipe]]] = {
    "default": ("synthetic", lambda recipe: recipe),
    "noise": ("noise", lambda recipe: recipe),
    "psaq": ("psaq", lambda recipe: recipe),
    "real": ("real", lambda recipe: recipe),  # an upper bound: those of --real
    "no-similarity": ("synthetic", _synthesis(similarity_weight=0.0)),
    "no-procedural": ("synthetic", lambda recipe: replace(recipe, procedural=0)),
    "from-noise": ("synthetic", _synthesis(start="noise", lr=0.1, tv_weight=0.01)),
    "no-head-distillation": ("synthetic", _distillation(structural_weight=0.0)),
    # At the published weight where activations are coarse; ours has a tenth of it there.
    "published-structure": ("synthetic", _distillation(structural_weight=10.0)),
    "no-distillation": ("synthetic", _distillation(steps=0)),
    "more-steps": ("synthetic", _distillation(steps=600)),
    "no-outliers": ("synthetic", _ranges(outliers=False)),
    "no-refit": ("synthetic", _ranges(refit=False)),
    "nearest-rounding": ("synthetic", _ranges(rounding="nearest")),
    "percentile-ranges": ("synthetic", _ranges(observer="percentile")),
    "minmax-ranges": ("synthetic", _ranges(observer="minmax")),
    "no-importance": ("synthetic", _ranges(importance=False)),
    "no-centring": ("synthetic", _ranges(centre=False)),
    "one-step": ("synthetic", _ranges(two_steps=False)),
    "no-rotation": ("synthetic", _ranges(rotate=False, migrate=False)),
    "migration": ("synthetic", _ranges(rotate=False, migrate=True)),
}


@dataclass(frozen=True)
class Scale:
    """What is asked for in place of the recipe's own numbers; None leaves them.

    Attributes:
        images: of the calibration set.
        iterations: of synthesis.
        steps: of distillation.
        optimizer: of distillation; ``adamw`` brings the rates of the fast recipes.
    """

    images: int | None = None
    iterations: int | None = None
    steps: int | None = None
    optimizer: str | None = None

    def __str__(self) -> str:
        return "".join(
            f"; {key} {value}" for key, value in asdict(self).items() if value is not None
        )

    def applied(self, recipe: Recipe) -> Recipe:
        """The recipe with these numbers."""
        synthesis, distillation = recipe.synthesis, recipe.distillation
        if self.images:
            synthesis = replace(synthesis, images=self.images)
        if self.iterations:
            synthesis = replace(synthesis, iterations=self.iterations)
        if self.steps is not None:
            distillation = replace(
                distillation,
                steps=self.steps,
                evaluate_every=max(1, min(distillation.evaluate_every, self.steps)),
            )
        if self.optimizer == "adamw":
            # SGD at the paper's rate is made for epochs; the fast recipes' rates serve a few
            # hundred steps.
            quick = recipe_for("tiny", from_bits(4, 8)).distillation
            distillation = replace(
                distillation,
                optimizer="adamw",
                lr_weights=quick.lr_weights,
                lr_scales=quick.lr_scales,
            )
        given = self.images or recipe.given
        return replace(recipe, synthesis=synthesis, distillation=distillation, given=given)


def recipe_of(name: str, row: str, variant: str, scale: Scale) -> Recipe:
    """The named recipe for a row's precision, at ``scale``, with the variant's change."""
    return VARIANTS[variant][1](scale.applied(recipe_for(name, PRECISIONS[row])))
