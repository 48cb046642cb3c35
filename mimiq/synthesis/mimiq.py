"""Calibration images from a trained network alone: MimiQ's synthesis (AAAI 2025, arXiv 2407.20021).

Images start as noise and descend on ``similarity + cross-entropy + total variation`` as the frozen
network sees them through random views: heads of a block shall attend alike, as they do on real
images, and the network shall see the drawn class. Where it knows no classes, that term is left out.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Mapping
from pathlib import Path

import torch
from torch import nn

from mimiq.calibrate.dataset import CalibrationSet
from mimiq.config.shard import Shard
from mimiq.config.synthesis import SYNTHESIS_RECIPES, SynthesisRecipe
from mimiq.errors import BadInput
from mimiq.models import LoadedModel
from mimiq.models.answers import label_loss
from mimiq.progress import SILENT, Told, progress_for
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.synthesis.augment import augment
from mimiq.synthesis.driver import Unfinished, make_set, make_shard
from mimiq.synthesis.objective import Batch, Objective, Teacher
from mimiq.synthesis.scenes import scenes
from mimiq.synthesis.similarity import inter_head_loss
from mimiq.synthesis.sparse import patches_of, run_steps
from mimiq.synthesis.total_variation import total_variation

__all__ = [
    "SYNTHESIS_RECIPES",
    "SynthesisRecipe",
    "mimiq_objective",
    "synthesize",
    "synthesize_shard",
]

_log = logging.getLogger("mimiq")

# Images, and the tokens that are seen of them, to answers and the blocks' mean similarity loss.
_Look = Callable[[torch.Tensor, torch.Tensor | None], tuple[torch.Tensor, torch.Tensor]]


def synthesize(
    model: LoadedModel,
    recipe: SynthesisRecipe | str,
    *,
    seed: int = 0,
    out: str | Path,
    device: str = "auto",
    progress: Told = SILENT,
) -> CalibrationSet:
    """Synthesise a calibration set for ``model``.

    Every finished batch stays on disk: after an interruption the same call goes on where it
    stopped. A batch depends on the seed and its number alone, up to the rounding of the device.

    Args:
        model: the trained network.
        recipe: one of :data:`SYNTHESIS_RECIPES`, by its name or as a value, perhaps changed.
        seed: fixes the set on one machine.
        out: folder of the set.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        progress: told how far it is, as of :func:`mimiq.compile`.

    Returns:
        The set; ``images()`` gives its pixels, uint8 (N, H, W, C), as ``mimiq.quantize`` and
        ``mimiq.distill`` take them, and these take the set as well.

    Raises:
        BadInput: the folder holds another set, or device or recipe make no sense.
        CheckFailed: the images diverged.
        EnvironmentLacks: no such device, too little GPU memory, or a full disk.
    """
    chosen = _recipe(recipe)
    return make_set(
        model,
        "synthetic",
        chosen,
        lambda teacher: mimiq_objective(teacher, chosen),
        seed=seed,
        out=Path(out),
        device=device,
        progress=progress_for(progress),
    )


def synthesize_shard(
    model: LoadedModel,
    recipe: SynthesisRecipe | str,
    shard: Shard,
    *,
    seed: int = 0,
    out: str | Path,
    device: str = "auto",
    progress: Told = SILENT,
) -> CalibrationSet | Unfinished:
    """One shard of the set that :func:`synthesize` makes, in a folder that all shards share.

    Args:
        shard: which batches.

    Returns:
        The set, once no shard is missing.
    """
    chosen = _recipe(recipe)
    return make_shard(
        model,
        "synthetic",
        chosen,
        lambda teacher: mimiq_objective(teacher, chosen),
        shard,
        seed=seed,
        out=Path(out),
        device=device,
        progress=progress_for(progress),
    )


def _recipe(recipe: SynthesisRecipe | str) -> SynthesisRecipe:
    if not isinstance(recipe, str):
        return recipe
    if recipe not in SYNTHESIS_RECIPES:
        raise BadInput(
            f"Recipe {recipe!r} is unknown.", f"Choose one of {', '.join(SYNTHESIS_RECIPES)}."
        )
    return SYNTHESIS_RECIPES[recipe]


def mimiq_objective(teacher: Teacher, recipe: SynthesisRecipe) -> Objective:
    """MimiQ's synthesis loss and optimiser on a network (method, section 2 of the paper)."""
    look = _looking_at(teacher, with_similarity=recipe.similarity_weight != 0)
    patches = patches_of(teacher.model) if recipe.seen < 1 else None

    def optimise(batch: Batch) -> Generator[Mapping[str, torch.Tensor], None, None]:
        if recipe.start == "scenes":
            _start_from_scenes(batch, teacher.model.preprocessing)
        images = batch.images
        optimizer = torch.optim.AdamW(
            [images], lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
        )
        for step in range(recipe.iterations):
            done = step / recipe.iterations
            for group in optimizer.param_groups:
                group["lr"] = _cosine(recipe.lr, recipe.final_lr, done)
            seen = None
            if patches is not None:
                seen = patches.drawn(recipe.seen, batch.generator).to(images.device)
            view = augment(images, recipe.augmentation, done, batch.generator)
            answers, similarity = look(view, seen)
            to_labels = label_loss(answers, batch.labels, teacher.model.output)
            roughness = total_variation(images, batch_meant=recipe.tv_batch)
            loss = (
                recipe.similarity_weight * similarity
                + recipe.label_weight * to_labels
                + recipe.tv_weight * roughness
            )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            batch.clamp_()
            yield {"similarity": similarity.detach()} | _shown(to_labels, teacher)

    return optimise


def _shown(to_labels: torch.Tensor, teacher: Teacher) -> dict[str, torch.Tensor]:
    return {} if teacher.model.output == "embedding" else {"label": to_labels.detach()}


@torch.no_grad()
def _start_from_scenes(batch: Batch, preprocessing: Preprocessing) -> None:
    count, channels, height, width = batch.images.shape
    seed = int(torch.randint(2**62, (), generator=batch.generator))
    drawn = preprocessing.normalize(scenes(count, (height, width), seed, channels=channels))
    batch.images.copy_(torch.from_numpy(drawn))


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


def _looking_at(teacher: Teacher, *, with_similarity: bool) -> _Look:
    """The teacher's forward pass with the similarity loss taken where the maps pass."""
    terms: list[torch.Tensor] = []
    if with_similarity:
        for attention in teacher.model.family.attentions(teacher.network):
            attention.scores.register_forward_hook(_collect(terms, attention.num_prefix_tokens))

    steps = teacher.model.family.steps(teacher.network)

    def look(images: torch.Tensor, seen: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        terms.clear()
        with teacher.autocast():
            answers = run_steps(steps, images, seen)
        similarity = torch.stack(terms).mean() if terms else answers.new_zeros(())
        return answers, similarity

    return _compiled(look) if teacher.device.type == "cuda" else look


def _collect(terms: list[torch.Tensor], prefix_tokens: int) -> Callable[..., None]:
    # The whole scores with the number of prefix tokens, not a slice of them: the gradient of a
    # slice is a second tensor of zeros as large as all scores.
    def hook(_module: nn.Module, _inputs: tuple[torch.Tensor, ...], scores: torch.Tensor) -> None:
        terms.append(inter_head_loss(scores, prefix_tokens=prefix_tokens))

    return hook


def _compiled(look: _Look) -> _Look:
    """``look`` through torch.compile, or as it is once compilation has failed."""
    compiled: _Look | None = torch.compile(look)

    def attempt(
        images: torch.Tensor, seen: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal compiled
        if compiled is not None:
            try:
                return compiled(images, seen)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                _log.warning("torch.compile failed, going on without it: %s", reason)
                compiled = None
        return look(images, seen)

    return attempt
