"""Distillation: the losses against their definitions, and the loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mimiq.cache import Cache
from mimiq.config.distillation import DistillationRecipe, Views
from mimiq.config.precision import Precision, from_bits, int4
from mimiq.config.recipes import changed, recipe_for
from mimiq.distill.loop import distill
from mimiq.distill.losses import Target, distillation_loss, outputs_of, structural_loss
from mimiq.distill.views import random_views
from mimiq.errors import BadInput
from mimiq.models import LoadedModel
from mimiq.progress import Progress
from mimiq.quantize.insert import QuantizedModel, RangeRecipe, quantize
from mimiq.spec import Job
from mimiq.stages import tune
from mimiq.stages.images import calibration_set, tuning_images

_RECIPE = DistillationRecipe(steps=40, batch_size=8, lr_weights=3e-4, evaluate_every=10)
_NEAREST = RangeRecipe(observer="minmax", migrate=False, refit=False, rounding="nearest")


def _student(model: LoadedModel, images: torch.Tensor) -> QuantizedModel:
    return quantize(model, from_bits(3, 8), images, _NEAREST)


def test_structural_loss_equals_its_definition() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 3, 10, 4), torch.randn(2, 3, 10, 4)
    total = 0.0
    for b in range(2):
        for h in range(3):
            for c in range(4):
                t, q = teacher[b, h, :, c], student[b, h, :, c]
                covariance = ((t - t.mean()) * (q - q.mean())).mean()
                s = (2 * covariance + 9e-4) / (t.var(correction=0) + q.var(correction=0) + 9e-4)
                total += float(1 - s)
    assert float(structural_loss(teacher, student)) == pytest.approx(total / 24, rel=1e-5)
    assert float(structural_loss(teacher, teacher)) == pytest.approx(0, abs=1e-6)
    assert float(structural_loss(teacher, -teacher)) == pytest.approx(2, abs=1e-2)


def test_divergence_is_of_the_student_from_the_teacher() -> None:
    teacher, student = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    p, q = (student / 5).softmax(-1), (teacher / 5).softmax(-1)
    expected = 25 * (p * (p / q).log()).sum()
    recipe = DistillationRecipe(temperature=5, structural_weight=0)
    found = distillation_loss(Target(student, []), Target(teacher, []), recipe)
    torch.testing.assert_close(found, expected)


def test_heads_are_spatial_and_in_order(small_vit: LoadedModel, images: torch.Tensor) -> None:
    outputs = outputs_of(small_vit, small_vit.module, images[:2])
    assert [tuple(head.shape) for head in outputs.heads] == [(2, 2, 64, 32)] * 2
    assert torch.equal(outputs.answers, small_vit.module(images[:2]))


@pytest.mark.parametrize("views", [Views(), Views(crop=0.5, flip=0.5, jitter=0.3, mix=0.5)])
def test_lowers_the_held_out_loss(
    small_vit: LoadedModel, images: torch.Tensor, pixels: torch.Tensor, views: Views
) -> None:
    student = _student(small_vit, images)
    result = distill(student, pixels, replace(_RECIPE, views=views), seed=0)
    assert result.best_loss < 0.8 * result.initial_loss
    assert 0 < result.best_step <= result.steps == 40
    assert not any(p.requires_grad for p in student.module.parameters())


def test_keeps_the_best_state_when_training_goes_wrong(
    small_vit: LoadedModel, images: torch.Tensor, pixels: torch.Tensor
) -> None:
    student = _student(small_vit, images)
    before = student.module(images)
    result = distill(student, pixels, replace(_RECIPE, lr_weights=10.0, lr_scales=0.0), seed=0)
    assert result.best_step == 0
    assert torch.equal(student.module(images), before)


def test_rates_too_high_for_a_network_are_lowered_until_they_help(
    small_vit: LoadedModel, images: torch.Tensor, pixels: torch.Tensor
) -> None:
    recipe = replace(_RECIPE, steps=80, evaluate_every=5, lr_weights=0.1, lr_scales=0.1)
    result = distill(_student(small_vit, images), pixels, recipe, seed=0)
    assert max(loss for _, loss in result.history) > 1.1 * result.initial_loss
    assert result.best_loss < result.initial_loss


def test_a_loss_that_is_no_number_from_the_start_is_said(
    small_vit: LoadedModel, images: torch.Tensor, pixels: torch.Tensor
) -> None:
    student = _student(small_vit, images)
    with torch.no_grad():
        next(student.module.parameters()).fill_(float("nan"))
    with pytest.raises(BadInput, match="the loss is nan already") as caught:
        distill(student, pixels, _RECIPE, seed=0)
    assert "`steps=0`" in caught.value.next_step


def test_same_seed_same_result_and_resumed_run_too(
    small_vit: LoadedModel, images: torch.Tensor, pixels: torch.Tensor, tmp_path: Path
) -> None:
    recipe = replace(_RECIPE, steps=20, views=Views(flip=0.5, mix=0.5))
    whole = _student(small_vit, images)
    uninterrupted = distill(whole, pixels, recipe, seed=3)

    class Interrupted(Exception):
        pass

    def stop_at_15(step: int, *_: float) -> None:
        if step == 15:
            raise Interrupted

    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Interrupted):
        distill(
            _student(small_vit, images),
            pixels,
            recipe,
            seed=3,
            checkpoint=checkpoint,
            progress=stop_at_15,
        )
    assert checkpoint.exists()
    again = _student(small_vit, images)
    resumed = distill(again, pixels, recipe, seed=3, checkpoint=checkpoint)
    assert resumed.history == uninterrupted.history
    assert torch.equal(again.module(images), whole.module(images))
    assert not checkpoint.exists()


@pytest.mark.parametrize("damage", ["cut off", "emptied", "sectors of zeros"])
def test_a_damaged_checkpoint_is_begun_anew(
    small_vit: LoadedModel,
    images: torch.Tensor,
    pixels: torch.Tensor,
    tmp_path: Path,
    damage: str,
) -> None:
    recipe = replace(_RECIPE, steps=4, evaluate_every=2)
    wanted = distill(_student(small_vit, images), pixels, recipe, seed=3)
    checkpoint = tmp_path / "checkpoint.pt"

    def stop(step: int, *_: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    begun = _student(small_vit, images)
    with pytest.raises(KeyboardInterrupt):
        distill(begun, pixels, recipe, seed=3, checkpoint=checkpoint, progress=stop)
    content = bytearray(checkpoint.read_bytes())
    if damage == "cut off":
        del content[len(content) // 2 :]
    elif damage == "emptied":
        content.clear()
    else:  # what torch.load takes as it is
        content[len(content) // 2 : len(content) // 2 + 512] = bytes(512)
    checkpoint.write_bytes(content)
    notes: list[str] = []
    again = _student(small_vit, images)
    found = distill(again, pixels, recipe, seed=3, checkpoint=checkpoint, note=notes.append)
    assert found.history == wanted.history
    assert not checkpoint.exists()
    assert len(notes) == 1
    assert "damaged" in notes[0]


def test_paper_optimiser_runs(
    small_vit: LoadedModel, images: torch.Tensor, pixels: torch.Tensor
) -> None:
    student = quantize(small_vit, int4(), images, _NEAREST)
    recipe = replace(_RECIPE, optimizer="sgd", lr_weights=1e-4, lr_scales=1e-4, steps=20)
    result = distill(student, pixels, recipe, seed=0)
    assert result.best_loss < result.initial_loss


def test_one_image_is_too_few(
    small_vit: LoadedModel, images: torch.Tensor, pixels: torch.Tensor
) -> None:
    with pytest.raises(BadInput, match="too few"):
        distill(_student(small_vit, images), pixels[:1], _RECIPE)


@pytest.mark.parametrize("steps", [0, 5])
def test_what_chooses_or_estimates_is_kept_from_the_fit(
    small_vit: LoadedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
) -> None:
    precision = from_bits(3, 8)
    recipe = changed(recipe_for("tiny", precision), images=16, steps=steps)
    out = tmp_path / "out"
    job = Job(small_vit, precision, recipe, out, "noise", device="cpu")
    cache = Cache(tmp_path / "cache")
    images = calibration_set(job, cache, Progress())
    seen: list[torch.Tensor] = []

    def spy(model: LoadedModel, precision: Precision, images: torch.Tensor, *_: object) -> None:
        seen.append(images)
        raise InterruptedError

    monkeypatch.setattr(tune, "quantize", spy)
    with pytest.raises(InterruptedError):
        tune.tuned_network(job, images, tuning_images(job, images), cache, Progress())
    expected = small_vit.preprocessing.normalize(images.images()[:14])
    assert torch.equal(seen[0], torch.from_numpy(expected))


def test_views_keep_shape_and_depend_on_the_generator_alone(images: torch.Tensor) -> None:
    views = Views(crop=0.3, flip=0.5, jitter=0.4, grey=0.2, blur=0.5, mix=0.5)

    def drawn(seed: int) -> torch.Tensor:
        return random_views(views, images, torch.Generator().manual_seed(seed))

    assert drawn(1).shape == images.shape
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    assert torch.isfinite(drawn(1)).all()
    assert torch.equal(random_views(Views(), images, torch.Generator()), images)
    assert Views().fixed
    assert not views.fixed


def test_flip_alone_mirrors(images: torch.Tensor) -> None:
    flipped = random_views(Views(flip=1.0), images, torch.Generator().manual_seed(0))
    torch.testing.assert_close(flipped, images.flip(-1), rtol=1e-4, atol=1e-5)


def test_blur_smooths_some_images_and_leaves_the_others() -> None:
    rough = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = random_views(Views(blur=0.5), rough, torch.Generator().manual_seed(0))
    changed = (blurred - rough).abs().amax((1, 2, 3)) > 1e-4
    assert 4 < int(changed.sum()) < 28
    torch.testing.assert_close(blurred[~changed], rough[~changed], rtol=0, atol=1e-4)

    def roughness(images: torch.Tensor) -> torch.Tensor:
        return (images[..., 1:] - images[..., :-1]).square().mean((1, 2, 3))

    assert (roughness(blurred[changed]) < roughness(rough[changed])).all()


@pytest.mark.parametrize("shape", [(3, 24, 96), (1, 32, 32), (4, 48, 16), (2, 2, 64)])
def test_views_of_any_shape(shape: tuple[int, int, int]) -> None:
    images = torch.randn(8, *shape, generator=torch.Generator().manual_seed(0))
    views = Views(crop=0.3, flip=0.5, jitter=0.4, grey=0.2, blur=0.9, mix=0.5)
    drawn = random_views(views, images, torch.Generator().manual_seed(1))
    assert drawn.shape == images.shape
    assert torch.isfinite(drawn).all()
    assert (drawn - images).abs().amax((1, 2, 3)).min() > 0.01


def test_what_is_mixed_in_has_the_proportions_of_the_image() -> None:
    images = torch.arange(64.0).reshape(64, 1, 1, 1).expand(64, 1, 20, 80)
    drawn = random_views(Views(mix=1.0), images, torch.Generator().manual_seed(0))
    foreign = (drawn != images)[:, 0]
    heights = foreign.any(2).sum(1)[foreign.any(2).any(1)].float()
    widths = foreign.any(1).sum(1)[foreign.any(1).any(1)].float()
    assert 3 < float(widths.mean() / heights.mean()) < 5


def test_a_grey_image_has_no_colour_to_lose() -> None:
    images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    drawn = random_views(Views(grey=1.0), images, torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn, images, rtol=1e-5, atol=1e-6)
