"""mimiq: compile a trained vision transformer into a quantised engine without one real image.

``mimiq.compile`` does all of it; ``mimiq.Bundle`` and ``mimiq.open_bundle`` run the result and need
neither torch nor timm. What is slow to import is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimiq.config.precision import Block, LayerPrecision, PerChannel, PerTensor, Precision
from mimiq.errors import MimiqError
from mimiq.lazy import lazily
from mimiq.progress import Progress
from mimiq.version import __version__

if TYPE_CHECKING:
    from mimiq.api import compile
    from mimiq.models.loading import LoadedModel, load_model
    from mimiq.models.memory import load_module
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.opening import open_bundle
    from mimiq.runtime.preprocessing import Preprocessing

_WHERE = {
    "Bundle": "runtime.bundle",
    "LoadedModel": "models.loading",
    "Preprocessing": "runtime.preprocessing",
    "compile": "api",
    "load_model": "models.loading",
    "load_module": "models.memory",
    "open_bundle": "runtime.opening",
}

__all__ = [
    "Block",
    "Bundle",
    "LayerPrecision",
    "LoadedModel",
    "MimiqError",
    "PerChannel",
    "PerTensor",
    "Precision",
    "Preprocessing",
    "Progress",
    "__version__",
    "compile",
    "load_model",
    "load_module",
    "open_bundle",
]

__getattr__ = lazily(__name__, _WHERE)


def __dir__() -> list[str]:
    return __all__
