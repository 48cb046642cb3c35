"""What a student is measured by: its answers and the structure of its attention heads' outputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from mimiq.config.distillation import DistillationRecipe
from mimiq.models import LoadedModel, observe_attention
from mimiq.models.answers import divergence
from mimiq.runtime.session import Output

_C2 = 0.03**2  # SSIM's constant for the structure term


@dataclass(frozen=True)
class Target:
    """A network's outputs for some images.

    Attributes:
        answers: logits (B, classes), or embeddings (B, width).
        heads: of each attention its heads' outputs (B, H, N, d), spatial tokens only; the heads of
            every window are heads of their own.
    """

    answers: torch.Tensor
    heads: list[torch.Tensor]


def structural_loss(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Mean of 1 − S over images, heads and channels, of head outputs (B, H, N, d).

    ``S = (2 σ_tq + C2) / (σ_t² + σ_q² + C2)`` over the N spatial tokens, without a luminance term.
    """
    t = teacher.float() - teacher.float().mean(2, keepdim=True)
    q = student.float() - student.float().mean(2, keepdim=True)
    covariance = (t * q).mean(2)
    variances = t.square().mean(2) + q.square().mean(2)
    return (1 - (2 * covariance + _C2) / (variances + _C2)).mean()


def embedding_loss(teacher: torch.Tensor, student: torch.Tensor, tokens: int = 1) -> torch.Tensor:
    """Mean of ``1 − cos(t, s) + (‖s‖ / ‖t‖ − 1)²`` over images, and over the tokens of each.

    Args:
        teacher, student: embeddings (B, width).
        tokens: in a row, of width / tokens numbers each.
    """
    t, s = (rows.float().unflatten(-1, (tokens, -1)) for rows in (teacher, student))
    lengths = s.norm(dim=-1) / t.norm(dim=-1).clamp_min(1e-6)
    loss: torch.Tensor = (1 - F.cosine_similarity(t, s, dim=-1) + (lengths - 1).square()).mean()
    return loss


def distillation_loss(
    student: Target,
    teacher: Target,
    recipe: DistillationRecipe,
    output: Output = "logits",
    tokens: int = 1,
) -> torch.Tensor:
    """``T² · KL(student/T ‖ teacher/T) + w · mean structural loss``, the total of MimiQ.

    For embeddings :func:`embedding_loss` takes the divergence's place.

    Args:
        recipe: gives T and w.
        tokens: in an embedding, as of :func:`embedding_loss`.
    """
    temperature, structural_weight = recipe.temperature, recipe.structural_weight
    if output == "embedding":
        loss = temperature**2 * embedding_loss(teacher.answers, student.answers, tokens)
    else:
        # KL(student ‖ teacher): the student is what divergence calls wanted.
        taught, found = teacher.answers.float() / temperature, student.answers.float() / temperature
        loss = temperature**2 * divergence(taught, found, output).mean()
    if structural_weight:
        terms = [structural_loss(t, s) for t, s in zip(teacher.heads, student.heads, strict=True)]
        loss = loss + structural_weight * torch.stack(terms).mean()
    return loss


def outputs_of(model: LoadedModel, module: nn.Module, images: torch.Tensor) -> Target:
    """One forward of ``module`` that keeps the outputs of its attention heads."""
    heads: list[torch.Tensor] = []
    attentions = model.family.attentions(module)
    with observe_attention(attentions, heads=lambda _, out: heads.append(out)):
        answers = module(images)
    return Target(answers, heads)
