"""Calibration images made from the network itself, and scenes drawn at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimiq.lazy import lazily

if TYPE_CHECKING:
    from mimiq.synthesis.mimiq import synthesize

__all__ = ["synthesize"]

__getattr__ = lazily(__name__, {"synthesize": "mimiq"})
