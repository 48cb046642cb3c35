"""How work tells that it goes on: stages that say how far they are, to nobody unless someone draws.

Functions that take long accept a :class:`Progress`, or the one :class:`Stage` that they are a part
of. Both are silent; the command line passes some that are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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


class CallbackProgress(Progress):
    """Every step told to a function.

    Args:
        callback: takes the stage's name, the steps that are done, those in all (None where they
            cannot be counted), and a few words.
    """

    def __init__(self, callback: Callable[[str, int, int | None, str], object]) -> None:
        self.callback = callback

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        stage = _CalledStage(self.callback, name, total)
        stage.update()
        yield stage


class _CalledStage(Stage):
    def __init__(
        self, callback: Callable[[str, int, int | None, str], object], name: str, total: int | None
    ) -> None:
        self.callback, self.name, self.total = callback, name, total
        self.done, self.text = 0, ""

    def update(
        self, done: int | None = None, text: str | None = None, *, total: int | None = None
    ) -> None:
        self.done = self.done if done is None else done
        self.text = self.text if text is None else text
        self.total = self.total if total is None else total
        self.callback(self.name, self.done, self.total, self.text)


SILENT = Progress()
SILENT_STAGE = Stage()
