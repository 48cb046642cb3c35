"""Named recipes: what each precision gets."""

from __future__ import annotations

import pytest

from mimiq.config.precision import Precision, from_bits, weight_only
from mimiq.config.recipes import NAMES, changed, recipe_for
from mimiq.errors import BadInput

PRECISIONS = {
    "w8a8": from_bits(8, 8),
    "w4a16-b64": weight_only(4, 64),
    "w4a8": from_bits(4, 8),
    "w5a5": from_bits(5, 5),
    "w4a4": from_bits(4, 4),
}


def test_the_paper_s_recipe_has_none_of_ours() -> None:
    for precision in PRECISIONS.values():
        recipe = recipe_for("paper", precision)
        ranges = recipe.ranges
        assert not any((ranges.two_steps, ranges.rotate, ranges.migrate, ranges.refit))
        assert (ranges.observer, ranges.rounding) == ("mse", "nearest")
        assert recipe.distillation.structural_weight == 10
        assert recipe.procedural == 0
        assert recipe.distillation.steps == 62_500


@pytest.mark.parametrize("label", PRECISIONS)
def test_what_is_for_coarse_activations_alone(label: str) -> None:
    ranges = recipe_for("cpu", PRECISIONS[label]).ranges
    coarse = label in ("w5a5", "w4a4")
    assert (ranges.centre, ranges.importance) == (coarse, coarse)


def test_a_cpu_tunes_where_it_was_seen_to_help() -> None:
    def steps(name: str) -> dict[str, int]:
        return {
            label: recipe_for(name, precision).distillation.steps
            for label, precision in PRECISIONS.items()
        }

    assert steps("cpu") == {"w8a8": 300, "w4a16-b64": 0, "w4a8": 200, "w5a5": 0, "w4a4": 0}
    assert not any(steps("tiny").values())
    assert all(count > 0 for name in ("gpu", "paper") for count in steps(name).values())


def test_the_fast_recipe_is_the_cpu_s_with_less_of_everything() -> None:
    for precision in PRECISIONS.values():
        fast, cpu = recipe_for("fast", precision), recipe_for("cpu", precision)
        assert fast.synthesis.images < cpu.synthesis.images
        assert fast.distillation.steps <= cpu.distillation.steps
        assert (fast.ranges, fast.procedural) == (cpu.ranges, cpu.procedural)


@pytest.mark.parametrize(("name", "given"), [("fast", 192), ("cpu", 192), ("gpu", 2048)])
def test_images_that_need_no_synthesis_are_not_spared(name: str, given: int) -> None:
    recipe = recipe_for(name, PRECISIONS["w8a8"])
    assert recipe.given == given
    assert changed(recipe, images=7).given == 7


def test_unknown_recipes_are_refused() -> None:
    with pytest.raises(BadInput, match=", ".join(NAMES)):
        recipe_for("quick", Precision())
