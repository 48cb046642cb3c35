"""What a person sees while a compilation runs: one line a stage, with rate and time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress


class Stage:
    """One running stage."""

    def __init__(self, bar: RichProgress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def update(self, done: int, text: str = "") -> None:
        """So many steps are done; ``text`` says how it stands."""
        self._bar.update(self._task, completed=done, text=text)

    def status(self, text: str) -> None:
        """Say what is being done, where steps cannot be counted."""
        self._bar.update(self._task, text=text)


class Progress:
    """Reports to a terminal on standard error; ``quiet`` says nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)

    def note(self, text: str) -> None:
        """One line that stays."""
        self.console.print(f"[dim]{text}[/dim]", highlight=False)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        """A stage with a bar of ``total`` steps, or a spinner's pulse when they are unknown."""
        columns = [TextColumn("{task.description:<12}"), BarColumn(bar_width=28)]
        if total is not None:
            columns += [MofNCompleteColumn(), TimeRemainingColumn()]
        columns += [TimeElapsedColumn(), TextColumn("{task.fields[text]}")]
        with RichProgress(*columns, console=self.console) as bar:
            task = bar.add_task(name, total=total, text="")
            yield Stage(bar, task)
            if total is None:
                bar.update(task, total=1, completed=1)
