"""Progress that remembers what it was told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mimiq.progress import Progress, Stage


class WatchedStage(Stage):
    """``updates`` holds (done, text, total), as they were given."""

    def __init__(self, total: int | None = None) -> None:
        self.total = total
        self.updates: list[tuple[int | None, str | None, int | None]] = []

    def update(
        self, done: int | None = None, text: str | None = None, *, total: int | None = None
    ) -> None:
        self.updates.append((done, text, total))


class WatchedProgress(Progress):
    """The last stage of each name, and every note."""

    def __init__(self) -> None:
        self.stages: dict[str, WatchedStage] = {}
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        self.stages[name] = WatchedStage(total)
        yield self.stages[name]
