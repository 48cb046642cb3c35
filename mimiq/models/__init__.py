"""Loading a trained network by name, in the form the compiler works on.

Names are imported when first used: the embedded model's images serve hosts without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimiq.lazy import lazily

if TYPE_CHECKING:
    from mimiq.models.attention import ExplicitAttention, observe_attention
    from mimiq.models.family import Family, Migration, quantizable_layers
    from mimiq.models.loaded import LoadedModel
    from mimiq.models.loading import load_model
    from mimiq.models.names import SHORT_NAMES

_WHERE = {
    "ExplicitAttention": "attention",
    "Family": "family",
    "LoadedModel": "loaded",
    "Migration": "family",
    "SHORT_NAMES": "names",
    "load_model": "loading",
    "observe_attention": "attention",
    "quantizable_layers": "family",
}

__all__ = [
    "SHORT_NAMES",
    "ExplicitAttention",
    "Family",
    "LoadedModel",
    "Migration",
    "load_model",
    "observe_attention",
    "quantizable_layers",
]

__getattr__ = lazily(__name__, _WHERE)
