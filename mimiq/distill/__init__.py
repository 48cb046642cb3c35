"""The quantised network learns to answer, and to attend, like the original."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimiq.lazy import lazily, make_callable

if TYPE_CHECKING:
    from mimiq.distill.loop import distill

__all__ = ["distill"]

__getattr__ = lazily(__name__, {"distill": "loop"})
make_callable(__name__)
