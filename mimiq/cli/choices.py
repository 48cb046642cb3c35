"""What was chosen on the command line, before it is turned into the values that stages take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimiq.config.synthesis import SYNTHESIS_RECIPES
from mimiq.runtime import backends as runnable
from mimiq.runtime.null import NULL
from mimiq.runtime.targets import GRAPH as GRAPH
from mimiq.runtime.targets import TARGETS as TARGETS

RECIPES = tuple(SYNTHESIS_RECIPES)
RECIPE_LINES = {
    "fast": "48 images and 192 scenes: DeiT-T in 2 minutes on two AVX2 cores, 5 at INT8.",
    "cpu": "96 images and 192 scenes, distilled at W8A8 and W4A8: 10 minutes.",
    "gpu": "2048 images and 1024 scenes, 4000 steps of distillation: for one GPU.",
    "paper": "10 000 images of 2000 steps, 62 500 steps of distillation: as published.",
    "tiny": "For the embedded network of digits: 128 images, no distillation.",
}
CROP_MODES = ("center", "squash", "border")
BACKENDS = (runnable.AUTO, *(backend.name for backend in runnable.BACKENDS), NULL.name)
FEATURES = ("pooled", "tokens")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True)
class ModelChoice:
    """Which network: see :func:`mimiq.models.load_model`."""

    model: str
    weights: Path | None
    untrained: bool
    num_classes: int | None
    image_size: tuple[int, int] | None
    crop_pct: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    labels: Path | None
    crop_mode: str | None = None
    interpolation: str | None = None
    ema: bool | None = None
    model_kwargs: dict[str, Any] | None = None
    features: str | None = None


@dataclass(frozen=True)
class PrecisionChoice:
    """Which precision; at most one of ``int8``, ``int4`` and ``bits``, none for INT8."""

    int8: bool = False
    int4: bool = False
    bits: str | None = None
    weight_only: bool = False
    block_size: int | None = None
    uniform: bool = False


@dataclass(frozen=True)
class BudgetChoice:
    """What the result must keep to; see :class:`mimiq.stages.budget.Budget`."""

    max_drop: float | None
    size_budget: str | None


@dataclass(frozen=True)
class ImagesChoice:
    """How calibration images are made."""

    recipe: str | None = None
    images: int | None = None
    seed: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class TuningChoice:
    """What is calibrated on, and for how long it is tuned."""

    calibration: str = "synthetic"
    steps: int | None = None


@dataclass(frozen=True)
class MeasureChoice:
    """What the compiled model is measured on."""

    evaluation: Path | None
    eval_limit: int | None
    batches: tuple[int, ...]
    no_bench: bool


@dataclass(frozen=True)
class EngineChoice:
    """Which engine to build."""

    target: str
    allow_fallback: bool
    fp8: bool = False


@dataclass(frozen=True)
class OutChoice:
    """Where the result goes."""

    out: Path | None
    force: bool


@dataclass(frozen=True)
class Say:
    """How the command speaks."""

    json: bool
    quiet: bool
