"""What a compilation is asked to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimiq.config.budget import Budget
from mimiq.config.precision import Precision
from mimiq.config.recipes import Recipe
from mimiq.models import LoadedModel
from mimiq.runtime.evaluation.datasets import LabelledImages


@dataclass(frozen=True)
class EngineSpec:
    """An engine to build into the bundle.

    Attributes:
        target: ``rtx``, ``trt``, or ``auto``: what this host can build, or none.
        allow_fallback: accept layers that lose low precision.
        fp8: in FP8 (E4M3) in the place of INT8.
    """

    target: str = "auto"
    allow_fallback: bool = False
    fp8: bool = False


@dataclass(frozen=True)
class Job:
    """One compilation.

    Attributes:
        model: what to compile.
        precision: to which precision; placed in the model as it is set.
        calibration: ``synthetic``, ``psaq``, ``noise``, or a folder of images or a finished set.
        recipe: synthesis, ranges and distillation.
        out: folder of the bundle.
        seed: fixes the whole run on one machine.
        device: ``auto``, ``cpu`` or ``cuda``.
        evaluation: labelled images to measure on; the embedded model brings its own.
        evaluation_name: what to call them in the report.
        batches: batch sizes whose latency is measured against the fp32 graph; none to skip it.
        overwrite: replace an existing bundle.
        budget: how much it may lose, or take: units are raised to more bits until it keeps to it.
        raised: the manifest's entry on what was raised for a budget, and why.
        engine: built and proved last; None for no engine.
        command: what asks for the same on the command line; None where nothing there does.
    """

    model: LoadedModel
    precision: Precision
    recipe: Recipe
    out: Path
    calibration: str | Path = "synthetic"
    seed: int = 0
    device: str = "auto"
    evaluation: LabelledImages | None = None
    evaluation_name: str | None = None
    batches: tuple[int, ...] = (1, 8, 32)
    overwrite: bool = False
    budget: Budget | None = None
    raised: Mapping[str, Any] | None = None
    engine: EngineSpec | None = None
    command: str | None = None

    def __post_init__(self) -> None:
        roles = self.model.family.roles(self.model.module)
        object.__setattr__(self, "precision", self.precision.placed(roles))


def default_out(model: str, label: str, suffix: str = ".mimiq") -> Path:
    """``deit_t-w8a8.mimiq`` in the current folder, whatever folder the model itself is in."""
    name = Path(model).resolve().name if Path(model).exists() else model
    return Path(f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-{label}{suffix}")
