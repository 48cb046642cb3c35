"""Progress on standard error: bars in a terminal, now and then a line in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.progress import Progress as Bars
from rich.table import Column
from rich.text import Text

from mimiq.cli.consoles import PlainConsole
from mimiq.cli.flags import with_flags
from mimiq.cli.streams import printable, standard_error, tell
from mimiq.progress import SILENT, Progress, Stage

_SECONDS_BETWEEN_LINES = 30.0


def shown_progress(quiet: bool = False) -> Progress:
    """Progress as standard error can show it; none with ``quiet``."""
    if quiet:
        return SILENT
    console = PlainConsole(file=standard_error())
    return BarProgress(console) if console.is_terminal else LogProgress()


class BarProgress(Progress):
    """One bar a stage, with its rate, the time it took so far and the time left, in words."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def note(self, text: str) -> None:
        self.console.print(Text(with_flags(text), style="dim"))

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        def whole() -> Column:
            return Column(no_wrap=True)

        columns: list[ProgressColumn] = [
            TextColumn("{task.description:<10}"),
            *([BarColumn(bar_width=16, table_column=whole())] if self.console.width > 100 else []),
            _Times(table_column=whole()),
            _Words(),
        ]
        with Bars(*columns, console=self.console) as bars:
            task = bars.add_task(name, total=total, text="", counted=total is not None)
            yield _Bar(bars, task)
            if not bars.tasks[0].fields["counted"]:
                bars.update(task, total=1, completed=1)


class _Bar(Stage):
    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars = bars
        self._task = task

    def update(
        self, done: int | None = None, text: str | None = None, *, total: int | None = None
    ) -> None:
        words: dict[str, Any] = {} if text is None else {"text": text}
        if total is not None:
            words["counted"] = True
        self._bars.update(self._task, completed=done, total=total, **words)


class _Times(ProgressColumn):
    """Steps, their rate, and how long it took and will take; what each is, is said."""

    def render(self, task: Task) -> Text:
        parts = [f"{duration(task.elapsed or 0)} so far"]
        if task.total is not None and task.fields["counted"]:
            rate = f", {_rate(task.speed)}" if task.speed and not task.finished else ""
            parts.insert(0, f"{task.completed:.0f}/{task.total:.0f}{rate}")
            if task.time_remaining and not task.finished:
                parts.append(f"{duration(task.time_remaining)} left")
        return Text(", ".join(parts))


class _Words(ProgressColumn):
    """How it stands: what gives way where a terminal is narrow."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["text"], no_wrap=True, overflow="ellipsis")


class LogProgress(Progress):
    """Lines for a log: one a stage at its end, and one every so often while it lasts.

    Args:
        every_s: seconds between the lines of a running stage.
        say: prints a line; on standard error by default.
        now: a clock in seconds that never goes back.
    """

    def __init__(
        self,
        every_s: float = _SECONDS_BETWEEN_LINES,
        say: Callable[[str], None] = tell,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every_s = every_s
        self._say = say
        self._now = now

    def note(self, text: str) -> None:
        self._say(printable(with_flags(text)))

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        stage = LoggedStage(name, total, self._now)
        ended = threading.Event()

        def tell() -> None:
            while not ended.wait(self._every_s):
                self._say(printable(stage.line()))

        # A thread, for a stage may be one long call into a library.
        teller = threading.Thread(target=tell, name=f"progress of {name}", daemon=True)
        teller.start()
        try:
            yield stage
        finally:
            ended.set()
            teller.join()
        self._say(printable(stage.last_line()))


@dataclass
class LoggedStage(Stage):
    """A stage in words: how far it is, how fast, and for how long yet.

    Attributes:
        name: what it is called.
        total: steps in all; None where they cannot be counted.
        now: the clock.
    """

    name: str
    total: int | None = None
    now: Callable[[], float] = time.monotonic
    _text: str = ""
    _started: float = field(init=False)
    _first: tuple[float, int] | None = field(default=None, init=False)
    _last: tuple[float, int] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._started = self.now()

    def update(
        self, done: int | None = None, text: str | None = None, *, total: int | None = None
    ) -> None:
        if done is not None:
            self._last = self.now(), done
            self._first = self._first or self._last
        if text is not None:
            self._text = text
        if total is not None:
            self.total = total

    def line(self) -> str:
        """How it stands: ``distill: 120 of 600 (20 %), 1.0/s, 2 min so far, about 8 min left``."""
        parts = [f"{duration(self.now() - self._started)} so far"]
        if self.total and self._last is not None:
            done = self._last[1]
            parts.insert(0, f"{done} of {self.total} ({done / self.total:.0%})".replace("%", " %"))
            rate, left = self.rate(), self.seconds_left()
            if rate is not None:
                parts.insert(1, _rate(rate))
            if left is not None:
                parts.append(f"about {duration(left)} left")
        return self._line(", ".join(parts))

    def last_line(self) -> str:
        """That it is done, how long it took, and its last words."""
        return self._line(f"done in {duration(self.now() - self._started)}")

    def rate(self) -> float | None:
        """Steps a second so far, of this run alone; None where there is nothing to judge by."""
        if self._first is None or self._last is None:
            return None
        since, before = self._first
        at, done = self._last
        if done == before:  # a single report: as if it had begun with nothing done
            since, before = self._started, 0
        return (done - before) / (at - since) if done > before and at > since else None

    def seconds_left(self) -> float | None:
        """An estimate from the steps seen so far; None where there is nothing to judge by."""
        rate = self.rate()
        if self.total is None or self._last is None or rate is None:
            return None
        at, done = self._last
        return max(0.0, (self.total - done) / rate - (self.now() - at))

    def _line(self, words: str) -> str:
        return f"{self.name}: {words}" + (f"; {self._text}" if self._text else "")


def _rate(steps: float) -> str:
    """Steps a second for people, or seconds a step where they are slow."""
    if steps >= 0.1:
        return f"{steps:.0f}/s" if steps >= 10 else f"{steps:.1f}/s"
    return f"{duration(1 / steps)} each"


def duration(seconds: float) -> str:
    """Time for people: ``8 s``, ``3 min 20 s``, ``1 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h" + (f" {minutes} min" if minutes else "")
