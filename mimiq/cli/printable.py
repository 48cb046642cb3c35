"""Texts of files on their way to a terminal: nothing in them is taken for its commands."""

from __future__ import annotations

import re

_CONTROLS = re.compile("[\x7f-\x9f]")  # JSON leaves them as they are, and 9B begins a command


def printable(text: str) -> str:
    """What is no letter or sign is shown by its number, and not sent."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def printable_json(text: str) -> str:
    """JSON with every control character as ``\\uXXXX``."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
