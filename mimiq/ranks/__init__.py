"""Several processes that work on one compilation, as torchrun starts them.

Where nothing says that there are several (no ``WORLD_SIZE`` in the environment), there is one, all
of this has no effect, and torch.distributed is not imported.
"""

from __future__ import annotations

from mimiq.ranks.group import Group, alone, current, first_before_others
from mimiq.ranks.joining import agree, joined, may_speak

__all__ = ["Group", "agree", "alone", "current", "first_before_others", "joined", "may_speak"]
