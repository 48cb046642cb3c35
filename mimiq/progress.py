"""What a person sees while a compilation runs: one line a stage, with rate and time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text


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


class _Words(ProgressColumn):
    """How it stands: what gives way where a terminal is narrow."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["text"], no_wrap=True, overflow="ellipsis")


class Progress:
    """Reports to a terminal on standard error; ``quiet`` says nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)

    def note(self, text: str) -> None:
        """One line that stays."""
        self.console.print(Text(text, style="dim"))

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        """A stage with a bar of ``total`` steps, or a spinner's pulse when they are unknown."""

        def whole() -> Column:
            return Column(no_wrap=True)

        columns: list[ProgressColumn] = [
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=16, table_column=whole()),
        ]
        if total is not None:
            columns.append(MofNCompleteColumn(table_column=whole()))
            columns.append(TimeRemainingColumn(table_column=whole()))
        columns += [TimeElapsedColumn(table_column=whole()), _Words()]
        with RichProgress(*columns, console=self.console) as bar:
            task = bar.add_task(name, total=total, text="")
            yield Stage(bar, task)
            if total is None:
                bar.update(task, total=1, completed=1)
