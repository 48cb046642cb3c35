"""A tensor's name in timm's terms, by a table of patterns."""

from __future__ import annotations

import re
from collections.abc import Sequence


def renamed(name: str, table: Sequence[tuple[str, str]]) -> str:
    """``name`` rewritten by the first pattern that matches its beginning; as it is where none does.

    Args:
        table: (regular expression, replacement) pairs, as :func:`re.sub` takes them.
    """
    for pattern, replacement in table:
        if re.match(pattern, name):
            return re.sub(pattern, replacement, name)
    return name
