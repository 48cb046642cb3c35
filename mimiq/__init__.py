"""mimiq: compile a trained vision transformer into a quantised engine without one real image."""

from mimiq.config.precision import Block, LayerPrecision, PerChannel, PerTensor, Precision
from mimiq.errors import MimiqError
from mimiq.version import __version__

__all__ = [
    "Block",
    "LayerPrecision",
    "MimiqError",
    "PerChannel",
    "PerTensor",
    "Precision",
    "__version__",
]
