"""Loading a trained network by name, in the form the compiler works on."""

from mimiq.models.attention import ExplicitAttention, observe_attention
from mimiq.models.family import Family, Migration, quantizable_layers
from mimiq.models.loading import SHORT_NAMES, LoadedModel, load_model

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
