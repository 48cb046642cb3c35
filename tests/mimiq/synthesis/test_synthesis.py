"""Synthesis: what is optimised, that it can be interrupted, and that a seed fixes it."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from watched import WatchedProgress

from mimiq.config.synthesis import SYNTHESIS_RECIPES, Augmentation, SynthesisRecipe
from mimiq.errors import BadInput, CheckFailed, EnvironmentLacks
from mimiq.models import LoadedModel, load_model, observe_attention
from mimiq.synthesis import driver as synthesis_driver
from mimiq.synthesis import mimiq as synthesis
from mimiq.synthesis.mimiq import mimiq_objective, synthesize
from mimiq.synthesis.objective import Batch, draw_batch, make_teacher
from mimiq.synthesis.scenes import scenes
from mimiq.synthesis.similarity import inter_head_loss_definition

CPU = torch.device("cpu")
RECIPE = SynthesisRecipe(
    "test", images=7, iterations=4, batch_size=3, augmentation=Augmentation(roll=(1, 2))
)


@pytest.fixture(scope="module")
def model(small_vit: LoadedModel) -> LoadedModel:
    return small_vit


def make(model: LoadedModel, out: Path, recipe: SynthesisRecipe = RECIPE, seed: int = 0):
    return synthesize(model, recipe, seed=seed, out=out, device="cpu")


def interrupt_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Ctrl-C in the middle of the batch after so many."""
    original, calls = synthesis.augment, itertools.count(1)

    def augment(*args):
        if next(calls) == batches * RECIPE.iterations + 2:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(synthesis, "augment", augment)


def test_a_set_holds_what_was_asked_for(model: LoadedModel, tmp_path: Path) -> None:
    made = make(model, tmp_path / "set")
    assert len(made) == 7
    assert made.images().shape == (7, 32, 32, 3)
    assert set(made.labels.tolist()) <= set(range(model.num_classes))
    manifest = made.manifest
    assert manifest["kind"] == "synthetic"
    assert manifest["model"]["weights_sha256"] == model.weights_hash
    assert manifest["recipe"]["iterations"] == 4
    assert manifest["seed"] == 0
    assert manifest["software"]["torch"] == torch.__version__
    assert manifest["hardware"]


def test_a_seed_fixes_the_set(model: LoadedModel, tmp_path: Path) -> None:
    first = make(model, tmp_path / "a")
    assert np.array_equal(first.images(), make(model, tmp_path / "b").images())
    assert not np.array_equal(first.images(), make(model, tmp_path / "c", seed=1).images())


def test_a_larger_set_begins_with_the_smaller_one(model: LoadedModel, tmp_path: Path) -> None:
    small = make(model, tmp_path / "small", replace(RECIPE, images=3))
    large = make(model, tmp_path / "large")
    assert np.array_equal(large.images()[:3], small.images())
    assert np.array_equal(large.labels[:3], small.labels)


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_an_interrupted_run_goes_on_where_it_stopped(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    whole = make(model, tmp_path / "whole")
    out = tmp_path / "set"
    with monkeypatch.context() as patch:
        interrupt_after(patch, batches)
        with pytest.raises(KeyboardInterrupt):
            make(model, out)
    finished = sorted(out.glob("batch-*"))
    assert len(finished) == batches
    times = [file.stat().st_mtime_ns for file in finished]

    resumed = make(model, out)
    assert [file.stat().st_mtime_ns for file in finished] == times
    assert np.array_equal(resumed.images(), whole.images())
    assert np.array_equal(resumed.labels, whole.labels)


def test_a_finished_set_is_not_made_again(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(model, tmp_path / "set")
    monkeypatch.setattr(synthesis_driver, "make_teacher", None)
    assert np.array_equal(make(model, tmp_path / "set").images(), made.images())


def test_another_recipe_does_not_go_on_in_the_same_folder(
    model: LoadedModel, tmp_path: Path
) -> None:
    make(model, tmp_path / "set")
    with pytest.raises(BadInput, match="recipe"):
        make(model, tmp_path / "set", replace(RECIPE, tv_weight=1.0))
    with pytest.raises(BadInput, match="seed"):
        make(model, tmp_path / "set", seed=1)


@pytest.mark.parametrize("field", ["images", "iterations", "batch_size"])
def test_an_empty_recipe_is_refused(model: LoadedModel, tmp_path: Path, field: str) -> None:
    with pytest.raises(BadInput, match="makes nothing"):
        make(model, tmp_path / "set", replace(RECIPE, **{field: 0}))
    assert not (tmp_path / "set").exists()


def test_the_model_given_stays_as_it_is(model: LoadedModel, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    make(model, tmp_path / "set")
    after = model.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in model.module.parameters())
    assert not any(module._forward_hooks for module in model.module.modules())


def test_nan_is_an_error_and_no_batch(model: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="NaN"):
        make(model, tmp_path / "set", replace(RECIPE, label_weight=1e39))
    assert not list((tmp_path / "set").glob("batch-*"))


def test_too_little_gpu_memory_says_what_to_do(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def augment(*args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(synthesis, "augment", augment)
    with pytest.raises(EnvironmentLacks, match="batch of 3 images"):
        make(model, tmp_path / "set")


def test_progress_counts_steps_and_names_losses(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesis_driver, "_SECONDS_BETWEEN_REPORTS", 0)
    progress = WatchedProgress()
    synthesize(model, RECIPE, seed=0, out=tmp_path / "set", device="cpu", progress=progress)
    stage = progress.stages["synthesize"]
    assert stage.updates[-1][0] == stage.total == 3 * RECIPE.iterations
    assert all("label" in (text or "") for _, text, _ in stage.updates)


def run(model: LoadedModel, recipe: SynthesisRecipe, dtype: torch.dtype | None = None) -> Batch:
    batch = draw_batch(model, recipe.batch_size, 0, 0, CPU)
    for _ in mimiq_objective(make_teacher(model, CPU, dtype), recipe)(batch):
        pass
    return batch


def losses_of(model: LoadedModel, batch: Batch) -> tuple[float, float]:
    """Cross-entropy and similarity loss of the images as they are, by definition."""
    terms = []
    with (
        torch.no_grad(),
        observe_attention(
            model.family.attentions(model.module),
            scores=lambda _, scores: terms.append(inter_head_loss_definition(scores)),
        ),
    ):
        logits = model.module(batch.images)
    label = torch.nn.functional.cross_entropy(logits, batch.labels)
    return float(label), float(torch.stack(terms).mean())


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_each_loss_falls_when_it_is_asked_for(model: LoadedModel, dtype) -> None:
    # Sixteen fixed, un-augmented images, so that a fall is the objective's doing.
    still = replace(
        RECIPE, batch_size=16, iterations=40, tv_weight=0, augmentation=Augmentation((0, 0), 0, 0)
    )
    start = losses_of(model, draw_batch(model, 16, 0, 0, CPU))
    labels_only = losses_of(model, run(model, replace(still, similarity_weight=0), dtype))
    similarity_only = losses_of(model, run(model, replace(still, label_weight=0), dtype))
    assert labels_only[0] < 0.4 * start[0]
    assert similarity_only[1] < 0.3 * start[1]
    assert similarity_only[1] < 0.3 * labels_only[1]


def test_total_variation_smooths(model: LoadedModel) -> None:
    rough = run(model, replace(RECIPE, iterations=20, tv_weight=0)).images.detach()
    smooth = run(model, replace(RECIPE, iterations=20, tv_weight=1.0)).images.detach()
    assert smooth.diff(dim=-1).norm() < 0.7 * rough.diff(dim=-1).norm()


def test_images_may_start_from_scenes(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[np.ndarray] = []

    def draw(count: int, size: tuple[int, int], seed: int, *, channels: int) -> np.ndarray:
        drawn.append(scenes(count, size, seed, channels=channels))
        return drawn[-1]

    monkeypatch.setattr(synthesis, "scenes", draw)
    still = replace(RECIPE, start="scenes", lr=0.0, final_lr=0.0)
    made = make(model, tmp_path / "still", still).images()
    assert np.array_equal(made, np.concatenate(drawn))
    assert len({images.tobytes() for images in drawn}) == len(drawn)
    moved = make(model, tmp_path / "moved", replace(still, lr=0.03)).images()
    change = np.abs(moved.astype(float) - made).mean()
    assert 1 < change < np.abs(make(model, tmp_path / "noise").images() - made.astype(float)).mean()


def test_pixels_stay_valid(model: LoadedModel) -> None:
    batch = run(model, replace(RECIPE, lr=5.0))
    assert bool((batch.images >= batch.low).all())
    assert bool((batch.images <= batch.high).all())
    pixels = model.preprocessing.denormalize(batch.images.detach().numpy())
    assert {0, 255} <= set(pixels.flatten().tolist())
    # Rounded to the nearest of 256 values, and read back by the runtime's own pipeline.
    back = torch.from_numpy(model.preprocessing.normalize(pixels))
    half_step = 0.5 / 255 / min(model.preprocessing.std)
    assert float((back - batch.images.detach()).abs().max()) <= half_step * 1.001


def test_batches_are_drawn_independently_of_each_other(model: LoadedModel) -> None:
    first, second = (draw_batch(model, 64, 0, index, CPU) for index in (0, 1))
    assert not torch.equal(first.images, second.images)
    assert (
        abs(
            float(
                torch.corrcoef(
                    torch.stack([first.images.detach().flatten(), second.images.detach().flatten()])
                )[0, 1]
            )
        )
        < 0.01
    )
    assert float(first.images.detach().std()) == pytest.approx(1, abs=0.01)
    many = draw_batch(model, 5000, 0, 0, CPU).labels.bincount(minlength=10)
    assert many.min() > 420  # uniform over ten classes
    assert many.max() < 580


@pytest.mark.parametrize("name", ["vit_t", "deit_t_distilled"])
def test_the_forward_that_shows_the_maps_is_timms_own(name: str) -> None:
    loaded = load_model(name, untrained=True, image_size=64)
    original = timm.create_model(loaded.architecture, img_size=64).eval()
    original.load_state_dict(loaded.module.state_dict())
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = {}
    attentions = loaded.family.attentions(loaded.module)
    with torch.no_grad():
        with observe_attention(attentions, scores=maps.__setitem__):
            logits = loaded.module(images)
        torch.testing.assert_close(logits, original(images), rtol=0, atol=1e-4)

        # The maps themselves: the first block's q·kᵀ of the spatial tokens, made by hand.
        block = original.blocks[0]
        tokens = original.norm_pre(original._pos_embed(original.patch_embed(images)))
        qkv = block.attn.qkv(block.norm1(tokens))
        q, k, _ = qkv.reshape(4, tokens.shape[1], 3, 3, 64).permute(2, 0, 3, 1, 4)
        prefix = original.num_prefix_tokens
        wanted = (q @ k.mT)[:, :, prefix:, prefix:] / 8
    assert len(maps) == 12
    assert maps[0].shape == (4, 3, 16, 16)
    torch.testing.assert_close(maps[0], wanted, rtol=1e-4, atol=1e-5)


def test_without_similarity_no_map_is_looked_at(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthesis, "inter_head_loss", None)
    run(model, replace(RECIPE, similarity_weight=0))


def test_teacher_in_bf16_is_close_to_fp32(model: LoadedModel) -> None:
    images = draw_batch(model, 8, 0, 0, CPU).images.detach()
    teacher = make_teacher(model, CPU, torch.bfloat16)
    with teacher.autocast():
        fast = teacher.network(images)
    exact = model.module(images)
    assert fast.dtype == torch.bfloat16
    assert float((fast.float() - exact).norm() / exact.norm()) < 0.03


def test_failing_compilation_falls_back_with_a_message(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def failing_compile(look):
        def compiled(images, seen):
            calls.append(1)
            raise RuntimeError("no compiler here\nat all")

        return compiled

    monkeypatch.setattr(torch, "compile", failing_compile)
    look = synthesis._compiled(lambda images, seen: (images + 1, images.sum()))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(look(torch.zeros(2), None)[0], torch.ones(2))
    assert len(calls) == 1
    assert "no compiler here" in caplog.text
    assert "at all" not in caplog.text


@pytest.mark.parametrize("seen", [None, torch.tensor([0, 2, 3, 7])], ids=["whole", "sparse"])
def test_the_forward_pass_compiles_without_a_break(
    model: LoadedModel, seen: torch.Tensor | None
) -> None:
    """What CUDA compiles, traced here: hooks and the hand-written gradient in one graph."""
    look = synthesis._looking_at(make_teacher(model, CPU), with_similarity=True)
    compiled = torch.compile(look, backend="aot_eager", fullgraph=True)
    results = []
    for function in (look, compiled):
        batch = draw_batch(model, 2, 0, 0, CPU)
        logits, similarity = function(batch.images, seen)
        (logits.logsumexp(-1).sum() + similarity).backward()
        results.append((logits.detach(), similarity.detach(), batch.images.grad))
    torch.testing.assert_close(results[1], results[0])


def test_recipes() -> None:
    paper = SYNTHESIS_RECIPES["paper"]
    assert (paper.images, paper.iterations, paper.batch_size) == (10_000, 2000, 16)
    assert (paper.lr, paper.final_lr, paper.betas) == (0.1, 0.001, (0.9, 0.999))
    assert (paper.tv_weight, paper.weight_decay) == (2.5e-5, 1e-6)
    assert paper.augmentation == Augmentation(roll=(8, 16), shift_noise=0.5, jitter=1.0)
    assert all(recipe.name == name for name, recipe in SYNTHESIS_RECIPES.items())


def test_learning_rate_is_a_cosine(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        seen.append(self.param_groups[0]["lr"])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run(model, replace(RECIPE, iterations=8))
    reference = torch.optim.SGD([torch.zeros(1)], lr=RECIPE.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(reference, 8, RECIPE.final_lr)
    for lr in seen:
        assert lr == pytest.approx(schedule.get_last_lr()[0])
        reference.step()
        schedule.step()
    assert len(seen) == 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda(model: LoadedModel, tmp_path: Path) -> None:
    made = synthesize(model, RECIPE, seed=0, out=tmp_path / "set", device="cuda")
    on_cpu = make(model, tmp_path / "cpu")
    assert np.array_equal(made.labels, on_cpu.labels)
    difference = np.abs(made.images().astype(int) - on_cpu.images().astype(int))
    assert np.median(difference) <= 2
