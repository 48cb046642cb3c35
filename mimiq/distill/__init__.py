"""The quantised network learns to answer, and to attend, like the original."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mimiq.distill.loop import distill

__all__ = ["distill"]


def __getattr__(name: str) -> Any:
    if name != "distill":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mimiq.distill.loop import distill

    return distill
