"""What the fixture ``compile_digits`` gives, and the runs that several tests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INT4 = ("--int4", "--no-bench")
# Distilled for a sixth of the recipe's steps: one run of all of them is enough.
INT8 = ("--int8", "--steps", "50", "--batches", "1")
CHEAP = ["--images", "2", "--steps", "0", "--no-bench", "--target", "ort", "--quiet"]
WEIGHT_ONLY = ("--int4", "--weight-only", "--steps", "50", "--no-bench", "--target", "ort")


@dataclass(frozen=True)
class Compiled:
    """One run of ``mimiq-compile digits … --json``.

    Attributes:
        path: the bundle.
        result: what was printed on standard output.
        progress: what was printed on standard error.
    """

    path: Path
    result: dict[str, Any]
    progress: str


Compile = Callable[..., Compiled]
# Arguments of mimiq-compile to what it writes on standard error.
Fails = Callable[..., str]
