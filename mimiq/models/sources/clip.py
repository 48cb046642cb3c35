"""OpenAI's and open_clip's names for the parameters of CLIP's image tower."""

from __future__ import annotations

from dataclasses import replace

from mimiq.models.prefixes import Found

_TEXT = ("transformer.", "token_embedding.", "ln_final.", "text_projection", "logit_", "text.")


def to_timm(found: Found) -> Found:
    """The image tower in the names that timm's own filter translates; the text tower left out."""
    beside = {name: tensor for name, tensor in found.beside.items() if not name.startswith(_TEXT)}
    state = {f"visual.{name}": tensor for name, tensor in found.state.items()}
    return replace(
        found, state=state, beside=beside, projection="proj" in found.state, epsilon=1e-5
    )
