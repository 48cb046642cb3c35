"""From a bundle to a model repository that Triton Inference Server and MLServer serve."""

from mimiq.export.triton.plan import PackOptions
from mimiq.export.triton.repository import Packed, pack

__all__ = ["PackOptions", "Packed", "pack"]
