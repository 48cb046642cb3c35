"""Steps of synthesis that look at some patches of the images only, and cost as much less.

Patches are left out where they become tokens, others at every step, so that each has its turn and
the whole image is optimised. Leaving out patches while a transformer is inverted is what Hu et al.
(Sparse Model Inversion, ICML 2024) do; they choose the patches by attention and keep the choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mimiq.config.synthesis import SynthesisRecipe
from mimiq.models import LoadedModel
from mimiq.models.attention import ExplicitAttention
from mimiq.models.family import Step


@dataclass(frozen=True)
class Patches:
    """The tokens that blocks see.

    Attributes:
        prefix: class and register tokens, which are always seen.
        tokens: of an image, the prefix included.
    """

    prefix: int
    tokens: int

    def drawn(self, share: float, generator: torch.Generator) -> torch.Tensor:
        """A random ``share`` of the patches, one at least: int64 indices of tokens, ascending."""
        patches = self.tokens - self.prefix
        count = max(round(share * patches), 1)
        order = torch.randperm(patches, generator=generator)[:count].sort().values
        return torch.cat([torch.arange(self.prefix), self.prefix + order])


@torch.no_grad()
def patches_of(model: LoadedModel) -> Patches | None:
    """The tokens of a network that answers without some of them too; None where it needs all.

    It needs all where it knows them by their place behind the embedding: by a bias of the scores,
    a window, a rotation or a merge.
    """
    family, network = model.family, model.module
    steps = family.steps(network)
    attentions = family.attentions(network)
    if not attentions or any(step.kind == "merge" for step in steps):
        return None
    if any(_knows_places(attention) for attention in attentions):
        return None
    device = next(network.parameters()).device
    tokens = steps[0].run(torch.zeros(1, *model.preprocessing.input_shape, device=device))
    if tokens.dim() != 3:
        return None
    return Patches(attentions[0].num_prefix_tokens, tokens.shape[1])


def share_seen(model: LoadedModel, recipe: SynthesisRecipe) -> float:
    """The share of an image that a step of ``recipe`` looks at, for this network."""
    return recipe.seen if recipe.seen < 1 and patches_of(model) is not None else 1.0


def run_steps(steps: list[Step], images: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
    """What a network gives for images of which blocks see the tokens ``seen``, or all of them."""
    embed, *others = steps
    x = embed.run(images)
    if seen is not None:
        x = x.index_select(1, seen)
    for step in others:
        x = step.run(x)
    return x


def _knows_places(attention: ExplicitAttention) -> bool:
    places = (attention.bias, attention.mask, attention.rope)
    return attention.windows > 1 or any(place is not None for place in places)
