"""How far a network may fall or grow."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mimiq.errors import BadInput

_UNITS = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True)
class Size:
    """A size of the ONNX file: ``count`` bytes, or ``count`` times the full-precision file."""

    text: str
    count: float
    relative: bool

    def bytes(self, reference: int) -> int:
        """In bytes, where the full-precision file has ``reference`` of them."""
        return int(self.count * reference) if self.relative else int(self.count)


@dataclass(frozen=True)
class Budget:
    """What a compiled network must keep to.

    Attributes:
        max_drop: points of top-1 it may lose, as
            :class:`mimiq.runtime.evaluation.held_out.HeldOut` estimates them; of embeddings, what
            the mean cosine with full precision may lack of 1, in percent.
        size: the most that its ONNX file may take.
    """

    max_drop: float | None = None
    size: Size | None = None

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise BadInput(
                f"`max_drop={self.max_drop:g}` is no number of points between 0 and 100.",
                "Write for example `max_drop=1`.",
            )


def parse_size(text: str) -> Size:
    """``4MB``, ``800 kB``, ``3.5MiB``, or ``0.6x`` of the full-precision file.

    Raises:
        BadInput: when the text has another form, or is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-z]+)", text.strip().lower())
    unit = match[2] if match else ""
    if not match or unit not in (*_UNITS, "x") or float(match[1]) == 0:
        raise BadInput(
            f"`size_budget={text}` is no size.",
            "Write for example 4MB, 800kB or 3.5MiB, or 0.6x of the full-precision file.",
        )
    return Size(text.strip(), float(match[1]) * _UNITS.get(unit, 1), unit == "x")
