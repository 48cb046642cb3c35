"""From a bundle to a model repository that Triton Inference Server and MLServer serve."""

from mimiq.export.triton.repository import Packed, PackOptions, pack

__all__ = ["PackOptions", "Packed", "pack"]
