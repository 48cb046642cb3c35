"""Calibration images made from the network itself, and scenes drawn at random."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mimiq.synthesis.mimiq import synthesize

__all__ = ["synthesize"]


def __getattr__(name: str) -> Any:
    if name != "synthesize":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mimiq.synthesis.mimiq import synthesize

    return synthesize
