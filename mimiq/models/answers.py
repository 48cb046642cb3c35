"""What networks answer, and how far one network's answers are from another's.

A classifier answers with logits: of several classes, whose softmax are probabilities, or one
alone, whose sigmoid is the probability of the second of two. A network without a classifier
answers with an embedding.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mimiq.runtime.session import Output


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """fp32 (B, classes) of logits (B, classes); of one logit (B, 1), both classes' (B, 2)."""
    logits = logits.float()
    if logits.shape[-1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], -1)
    return F.log_softmax(logits, dim=-1)


def divergence(found: torch.Tensor, wanted: torch.Tensor, output: Output) -> torch.Tensor:
    """Of each image, how far an answer is from the one that was wanted; fp32 (B,).

    For logits KL(wanted ‖ found) in nats; for embeddings the squared difference over the square of
    the wanted one's length.

    Args:
        found, wanted: logits or embeddings (B, width).
        output: which of the two.
    """
    found, wanted = found.float(), wanted.float()
    if output == "embedding":
        return (found - wanted).square().sum(-1) / wanted.square().sum(-1).clamp_min(1e-12)
    terms = F.kl_div(
        log_probabilities(found), log_probabilities(wanted), reduction="none", log_target=True
    )
    return terms.sum(-1)


def label_loss(answers: torch.Tensor, labels: torch.Tensor, output: Output) -> torch.Tensor:
    """Mean cross-entropy towards classes, a scalar; zero for embeddings, which know none.

    Args:
        answers: logits or embeddings (B, width).
        labels: int64 (B,); of a network with one logit 0 or 1.
    """
    if output == "embedding":
        return answers.new_zeros((), dtype=torch.float32)
    return F.nll_loss(log_probabilities(answers), labels)


def same_answer(found: torch.Tensor, wanted: torch.Tensor, output: Output) -> torch.Tensor:
    """Of each image, how much two networks agree; fp32 (B,).

    For logits 1 where they name the same class and 0 where they do not; for embeddings the cosine.
    """
    if output == "embedding":
        return F.cosine_similarity(found.float(), wanted.float(), dim=-1)
    answers = (log_probabilities(logits).argmax(-1) for logits in (found, wanted))
    one, other = answers
    return (one == other).float()
