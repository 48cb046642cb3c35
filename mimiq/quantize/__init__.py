"""From a trained network to its simulated quantised form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mimiq.quantize.insert import quantize

__all__ = ["quantize"]


def __getattr__(name: str) -> Any:
    if name != "quantize":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mimiq.quantize.insert import quantize

    return quantize
