"""How work tells that it goes on: stages that say how far they are, to nobody unless someone draws.

Functions that take long accept a :class:`Progress`, or the one :class:`Stage` that they are a part
of. Both are silent; the command line passes some that are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Stage:
    """One running stage."""

    def update(
        self, done: int | None = None, text: str | None = None, *, total: int | None = None
    ) -> None:
        """Tell how it stands. What is None stays as it was.

        Args:
            done: steps that are done.
            text: what is being done, or how it goes, in a few words.
            total: steps in all, where that is known only now.
        """


class Progress:
    """The stages of one piece of work."""

    def note(self, text: str) -> None:
        """Tell something that is worth a line of its own."""

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        """A stage of ``total`` steps, or of steps that cannot be counted."""
        yield Stage()


SILENT = Progress()
SILENT_STAGE = Stage()
