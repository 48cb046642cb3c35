"""What the fixture ``compile_digits`` gives, and the runs that several tests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INT8 = ("--int8", "--batches", "1")
INT4 = ("--int4", "--no-bench")
WEIGHT_ONLY = ("--int4", "--weight-only", "--no-bench")


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
