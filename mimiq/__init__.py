"""mimiq: compile a trained vision transformer into a quantised engine without one real image.

``mimiq.compile`` does all of it; ``mimiq.Bundle`` and ``mimiq.open_bundle`` run the result and need
neither torch nor timm. ``load_model``, ``synthesize``, ``quantize``, ``distill`` and ``export`` are
its stages. What is slow to import is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimiq.lazy import PACKAGE, lazily

if TYPE_CHECKING:
    from mimiq import calibrate, models, runtime
    from mimiq.api import compile
    from mimiq.calibrate.dataset import CalibrationSet
    from mimiq.config.precision import Block, LayerPrecision, PerChannel, PerTensor, Precision
    from mimiq.distill.loop import distill
    from mimiq.errors import MimiqError
    from mimiq.export.network import export
    from mimiq.models.loaded import LoadedModel
    from mimiq.models.loading import load_model
    from mimiq.models.memory import load_module
    from mimiq.progress import Progress
    from mimiq.quantize.insert import quantize
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.opening import open_bundle
    from mimiq.runtime.preprocessing import Preprocessing
    from mimiq.synthesis.mimiq import synthesize
    from mimiq.version import __version__

_WHERE = {
    "Block": "config.precision",
    "Bundle": "runtime.bundle",
    "CalibrationSet": "calibrate.dataset",
    "LayerPrecision": "config.precision",
    "LoadedModel": "models.loaded",
    "MimiqError": "errors",
    "PerChannel": "config.precision",
    "PerTensor": "config.precision",
    "Precision": "config.precision",
    "Preprocessing": "runtime.preprocessing",
    "Progress": "progress",
    "__version__": "version",
    "calibrate": PACKAGE,
    "compile": "api",
    "distill": PACKAGE,
    "export": PACKAGE,
    "load_model": "models.loading",
    "load_module": "models.memory",
    "models": PACKAGE,
    "open_bundle": "runtime.opening",
    "quantize": PACKAGE,
    "runtime": PACKAGE,
    "synthesize": "synthesis.mimiq",
}

__all__ = [
    "Block",
    "Bundle",
    "CalibrationSet",
    "LayerPrecision",
    "LoadedModel",
    "MimiqError",
    "PerChannel",
    "PerTensor",
    "Precision",
    "Preprocessing",
    "Progress",
    "__version__",
    "calibrate",
    "compile",
    "distill",
    "export",
    "load_model",
    "load_module",
    "models",
    "open_bundle",
    "quantize",
    "runtime",
    "synthesize",
]

__getattr__ = lazily(__name__, _WHERE)


def __dir__() -> list[str]:
    return __all__
