"""PSAQ-ViT's synthesis, the baseline: images whose patches are as unlike as those of real images.

Source: Li et al., "Patch Similarity Aware Data-Free Quantization for Vision Transformers" (ECCV
2022, arXiv 2203.02250), sections 3.2 and 4.1, and its published settings. For every block, the
cosine similarities of all pairs of patches of the attention's output (mean over heads) form a
distribution; its differential entropy, from a Gaussian kernel density, is maximised.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mimiq.calibrate.dataset import CalibrationSet
from mimiq.config.synthesis import SynthesisRecipe
from mimiq.models import LoadedModel, observe_attention
from mimiq.models.answers import label_loss
from mimiq.progress import SILENT, Progress
from mimiq.synthesis.driver import make_set
from mimiq.synthesis.objective import Batch, Objective, Teacher
from mimiq.synthesis.total_variation import total_variation

__all__ = [
    "PSAQ_PUBLISHED",
    "PsaqRecipe",
    "differential_entropy",
    "psaq_objective",
    "synthesize_psaq",
]

_SIDE_MEANT = 224  # pixels: the image size for which shifts and total variation were published


@dataclass(frozen=True)
class PsaqRecipe:
    """PSAQ-ViT's settings.

    Attributes:
        name: of the recipe.
        images: images in the set.
        iterations: optimiser steps for each batch, in two phases of half as many, each with a
            learning rate of its own that warms up and falls to 0.
        batch_size: images optimised together.
        entropy_weight: of the negative entropy, summed over the blocks.
        label_weight: of the cross-entropy towards the drawn class.
        tv_weight: of the distance of the total variation from a target.
        tv_target: the range from which a batch draws that target, for ``tv_batch`` images.
        lr, betas: Adam's.
        warm_up: share of each phase in which the learning rate rises.
        roll: largest cyclic shift in pixels, the same along both axes, in each phase.
        flip: probability of mirroring the batch.
        bandwidth: of the Gaussian kernel.
        grid: points at which the density is evaluated and integrated.
    """

    name: str
    images: int
    iterations: int = 1000
    batch_size: int = 32
    entropy_weight: float = 1.0
    label_weight: float = 1.0
    tv_weight: float = 0.05
    tv_target: tuple[float, float] = (2500.0, 3000.0)
    tv_batch: int = 32
    lr: float = 0.2
    betas: tuple[float, float] = (0.5, 0.9)
    warm_up: float = 0.2
    roll: tuple[int, int] = (15, 30)
    flip: float = 0.5
    bandwidth: float = 0.01
    grid: int = 10

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def matching(recipe: SynthesisRecipe) -> PsaqRecipe:
        """PSAQ-ViT with the effort of another recipe: as many images, batches and steps."""
        return PsaqRecipe(
            name=f"psaq-{recipe.name}",
            images=recipe.images,
            iterations=recipe.iterations,
            batch_size=recipe.batch_size,
        )


PSAQ_PUBLISHED = PsaqRecipe("psaq-published", images=32)


def synthesize_psaq(
    model: LoadedModel,
    recipe: PsaqRecipe | SynthesisRecipe,
    *,
    seed: int,
    out: Path,
    device: str = "auto",
    progress: Progress = SILENT,
) -> CalibrationSet:
    """A calibration set by PSAQ-ViT; resumable as :func:`mimiq.synthesis.mimiq.synthesize` is.

    Args:
        recipe: PSAQ-ViT's own, or MimiQ's, for as many images, batches and steps as that has.
        model, seed, out, device, progress: as for :func:`mimiq.synthesis.mimiq.synthesize`.

    Raises:
        BadInput, CheckFailed, EnvironmentLacks: as :func:`mimiq.synthesis.mimiq.synthesize`.
    """
    own = PsaqRecipe.matching(recipe) if isinstance(recipe, SynthesisRecipe) else recipe
    return make_set(
        model,
        "psaq",
        own,
        lambda teacher: psaq_objective(teacher, own),
        seed=seed,
        out=out,
        device=device,
        progress=progress,
    )


def psaq_objective(teacher: Teacher, recipe: PsaqRecipe) -> Objective:
    """PSAQ-ViT's loss and optimiser on a network."""
    entropies: list[torch.Tensor] = []

    def observe(block: int, heads: torch.Tensor) -> None:
        heads = heads.unflatten(1, (-1, attentions[block].num_heads)).flatten(0, 1)  # by window
        # Cosines in bf16 would be coarser than the kernel is wide.
        with torch.autocast(teacher.device.type, enabled=False):
            patches = F.normalize(heads.float().mean(1), dim=-1)
            cosines = patches @ patches.mT
            entropies.append(
                differential_entropy(cosines.flatten(1), recipe.bandwidth, recipe.grid)
            )

    attentions = teacher.model.family.attentions(teacher.network)

    def optimise(batch: Batch) -> Generator[Mapping[str, torch.Tensor], None, None]:
        images = batch.images
        optimizer = torch.optim.Adam([images], lr=recipe.lr, betas=recipe.betas, fused=True)
        _, channels, height, width = images.shape
        size = math.sqrt(height * width) / _SIDE_MEANT
        low, high = recipe.tv_target
        drawn = float(torch.rand((), generator=batch.generator))
        # A norm grows with the root of how many values it is of.
        target = size * math.sqrt(channels / 3) * (low + (high - low) * drawn)
        phase_length = math.ceil(recipe.iterations / 2)
        for step in range(recipe.iterations):
            phase, position = divmod(step, phase_length)
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(recipe, position, phase_length)
            view = _view(images, round(recipe.roll[phase] * size), recipe.flip, batch.generator)
            entropies.clear()
            with teacher.autocast(), observe_attention(attentions, heads=observe):
                answers = teacher.network(view)
            entropy = torch.stack(entropies).sum()
            to_labels = label_loss(answers, batch.labels, teacher.model.output)
            roughness = total_variation(view, batch_meant=recipe.tv_batch, diagonal_weight=1.0)
            loss = (
                recipe.label_weight * to_labels
                - recipe.entropy_weight * entropy
                + recipe.tv_weight * (roughness - target).abs()
            )
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            batch.clamp_()
            yield {"entropy": entropy.detach(), "label": to_labels.detach()}

    return optimise


def differential_entropy(samples: torch.Tensor, bandwidth: float, grid: int) -> torch.Tensor:
    """Mean over rows of ``−∫ p ln p``, p the Gaussian kernel density of a row of samples.

    The integral is a trapezoidal sum over ``grid`` points from the smallest to the largest sample
    of all rows; 10⁻⁴ is added to p before the logarithm, as published. No gradient flows through
    the grid.

    Args:
        samples: (rows, samples).
    """
    low, high = samples.detach().aminmax()
    points = low + (high - low) * torch.linspace(0, 1, grid, dtype=low.dtype, device=low.device)
    density: torch.Tensor = _KernelDensity.apply(samples, points, bandwidth)
    density = density + 1e-4
    return torch.trapezoid(-density * density.log(), points, dim=-1).mean()


class _KernelDensity(torch.autograd.Function):
    """Gaussian kernel densities (rows, points) of (rows, samples).

    Plain autograd would keep all rows × points × samples distances; here the backward pass makes
    those of a few rows again.
    """

    @staticmethod
    def forward(
        ctx: Any, samples: torch.Tensor, points: torch.Tensor, bandwidth: float
    ) -> torch.Tensor:
        ctx.save_for_backward(samples, points)
        ctx.bandwidth = bandwidth
        return torch.cat(
            [
                _kernel(_distances(part, points), bandwidth).mean(-1)
                for part in _parts(samples, points)
            ]
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_density: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        samples, points = ctx.saved_tensors
        scale = 1 / (samples.shape[-1] * ctx.bandwidth**2)
        by_density = (grad_density * scale)[:, None]  # (rows, 1, points)
        gradient = torch.empty_like(samples)
        first = 0
        for part in _parts(samples, points):
            distance = _distances(part, points)
            slope = _kernel(distance, ctx.bandwidth).mul_(distance)
            rows = slice(first, first + len(part))
            gradient[rows] = torch.bmm(by_density[rows], slope)[:, 0]
            first += len(part)
        return gradient, None, None


def _parts(samples: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Some rows at a time, so that their distances stay in a CPU's cache."""
    limit = (2 << 20) if samples.device.type == "cpu" else (256 << 20)
    per_row = len(points) * samples.shape[-1] * samples.itemsize
    parts: tuple[torch.Tensor, ...] = torch.split(samples, max(1, limit // per_row))
    return parts


def _distances(samples: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    return points[:, None] - samples[:, None]  # (rows, points, samples)


def _kernel(distance: torch.Tensor, bandwidth: float) -> torch.Tensor:
    """The normal density of that standard deviation."""
    exponent = (distance * distance).mul_(-0.5 / bandwidth**2)
    # Most kernels are far away; exponentials that underflow are several times slower.
    density = exponent.clamp_(min=-80).exp_()
    return density.mul_(1 / (bandwidth * math.sqrt(2 * math.pi)))


def _learning_rate(recipe: PsaqRecipe, position: int, length: int) -> float:
    """Linear rise, then a cosine to 0."""
    rising = round(recipe.warm_up * length)
    if position < rising:
        return recipe.lr * (position + 1) / rising
    return recipe.lr * (1 + math.cos(math.pi * (position - rising) / (length - rising))) / 2


def _view(
    images: torch.Tensor, reach: int, flip: float, generator: torch.Generator
) -> torch.Tensor:
    shift = int(torch.randint(-reach, reach + 1, (), generator=generator))
    mirrored = float(torch.rand((), generator=generator)) < flip
    view = images.roll((shift, shift), (2, 3))
    return view.flip(3) if mirrored else view
