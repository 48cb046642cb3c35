"""From a trained network to its simulated quantised form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimiq.lazy import lazily, make_callable

if TYPE_CHECKING:
    from mimiq.quantize.insert import quantize

__all__ = ["quantize"]

__getattr__ = lazily(__name__, {"quantize": "insert"})
make_callable(__name__)
