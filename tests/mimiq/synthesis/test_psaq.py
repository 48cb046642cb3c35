"""PSAQ-ViT's objective against the published formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mimiq.config.synthesis import SynthesisRecipe
from mimiq.models import LoadedModel, observe_attention
from mimiq.synthesis.objective import Batch, draw_batch, make_teacher
from mimiq.synthesis.psaq import (
    PsaqRecipe,
    _learning_rate,
    _view,
    differential_entropy,
    psaq_objective,
    synthesize_psaq,
)

CPU = torch.device("cpu")
RECIPE = PsaqRecipe("test", images=5, iterations=4, batch_size=3)


@pytest.fixture(scope="module")
def model(small_vit: LoadedModel) -> LoadedModel:
    return small_vit


def formula(samples: torch.Tensor, bandwidth: float, grid: int) -> torch.Tensor:
    """Kernel density, entropy and integral as they are written."""
    low, high = (float(edge) for edge in samples.detach().aminmax())
    points = torch.linspace(low, high, grid, dtype=samples.dtype)
    distance = points[None, :, None] - samples[:, None, :]
    kernel = torch.exp(-(distance**2) / (2 * bandwidth**2)) / math.sqrt(2 * math.pi * bandwidth**2)
    density = kernel.mean(-1) + 1e-4
    return torch.trapezoid(-density * density.log(), points).mean()


@pytest.mark.parametrize("bandwidth", [0.01, 0.2])
def test_entropy_equals_the_formula(bandwidth: float) -> None:
    generator = torch.Generator().manual_seed(0)
    samples = torch.rand(3, 40, generator=generator, dtype=torch.float64) * 0.5
    values, gradients = [], []
    for function in (differential_entropy, formula):
        leaf = samples.clone().requires_grad_()
        value = function(leaf, bandwidth, 10)
        values.append(value.detach())
        gradients.append(torch.autograd.grad(value, leaf)[0])
    torch.testing.assert_close(values[0], values[1])
    # The formula's grid is made of the samples' own extremes, detached there by float().
    torch.testing.assert_close(gradients[0], gradients[1])


def test_spread_samples_have_more_entropy_than_clustered_ones() -> None:
    spread = torch.linspace(0, 1, 200)[None]
    clustered = torch.cat([torch.zeros(100), torch.ones(100)])[None]
    assert differential_entropy(spread, 0.01, 10) > differential_entropy(clustered, 0.01, 10)


def test_learning_rate_rises_then_falls() -> None:
    rates = [_learning_rate(RECIPE, step, 500) for step in range(500)]
    assert rates[0] == pytest.approx(0.2 / 100)
    assert rates[99] == rates[100] == pytest.approx(0.2)
    assert rates[300] == pytest.approx(0.1)
    assert rates[-1] < 1e-4
    assert _learning_rate(RECIPE, 0, 1) > 0


def test_view_moves_and_mirrors_the_whole_batch() -> None:
    images = torch.randn(2, 3, 8, 8)
    generator = torch.Generator().manual_seed(0)
    mirrored, shifts = 0, set()
    for _ in range(200):
        view = _view(images, 2, 0.5, generator)
        for shift in range(-2, 3):
            moved = images.roll((shift, shift), (2, 3))
            if torch.equal(view, moved) or torch.equal(view, moved.flip(3)):
                shifts.add(shift)
                mirrored += torch.equal(view, moved.flip(3))
    assert shifts == set(range(-2, 3))
    assert 60 < mirrored < 140


def run(model: LoadedModel, recipe: PsaqRecipe) -> Batch:
    batch = draw_batch(model, recipe.batch_size, 0, 0, CPU)
    for _ in psaq_objective(make_teacher(model, CPU), recipe)(batch):
        pass
    return batch


def entropy_of(model: LoadedModel, batch: Batch) -> float:
    total = []

    def observe(_: int, heads: torch.Tensor) -> None:
        patches = heads.mean(1)
        cosines = torch.cosine_similarity(patches[:, None], patches[:, :, None], dim=-1)
        total.append(float(formula(cosines.flatten(1), 0.01, 10)))

    attentions = model.family.attentions(model.module)
    with torch.no_grad(), observe_attention(attentions, heads=observe):
        model.module(batch.images)
    return sum(total)


def test_the_objective_raises_the_entropy(model: LoadedModel) -> None:
    recipe = replace(
        RECIPE, batch_size=8, iterations=60, label_weight=0, tv_weight=0, roll=(0, 0), flip=0
    )
    before = entropy_of(model, draw_batch(model, 8, 0, 0, CPU))
    after = run(model, recipe)
    ignored = entropy_of(model, run(model, replace(recipe, entropy_weight=0, label_weight=1)))
    assert entropy_of(model, after) > max(before, ignored)


def test_it_reports_the_entropy_of_what_it_sees(model: LoadedModel) -> None:
    recipe = replace(RECIPE, roll=(0, 0), flip=0)
    batch = draw_batch(model, 3, 0, 0, CPU)
    expected = entropy_of(model, batch)
    losses = next(psaq_objective(make_teacher(model, CPU), recipe)(batch))
    assert float(losses["entropy"]) == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_total_variation_approaches_its_target(model: LoadedModel) -> None:
    target = 1000.0  # for 224 pixels and batches of 32
    recipe = replace(
        RECIPE, iterations=100, entropy_weight=0, tv_weight=1, tv_target=(target, target)
    )
    images = run(model, recipe).images.detach()
    norms = [
        images.diff(dim=-1),
        images.diff(dim=-2),
        images[..., 1:, 1:] - images[..., :-1, :-1],
        images[..., 1:, :-1] - images[..., :-1, 1:],
    ]
    value = sum(float(norm.norm()) for norm in norms) * math.sqrt(32 / 3)
    assert value == pytest.approx(target * 32 / 224, rel=0.2)


def test_a_set_with_the_effort_of_another_recipe(model: LoadedModel, tmp_path: Path) -> None:
    other = SynthesisRecipe("other", images=5, iterations=3, batch_size=2)
    made = synthesize_psaq(model, other, seed=0, out=tmp_path / "set", device="cpu")
    assert len(made) == 5
    assert made.manifest["kind"] == "psaq"
    assert made.manifest["recipe"]["name"] == "psaq-other"
    assert made.manifest["recipe"]["iterations"] == 3
    again = synthesize_psaq(model, other, seed=0, out=tmp_path / "again", device="cpu")
    assert np.array_equal(made.images(), again.images())
