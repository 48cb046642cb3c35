"""How work tells that it goes on: stages that say how far they are, to nobody unless someone draws.

Functions that take long accept a :class:`Progress`, or the one :class:`Stage` that they are a part
of. Both draw nothing; the command line passes some that do, and what a caller in Python gives
becomes one by :func:`progress_for`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

_log = logging.getLogger("mimiq")


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
        """Tell something that is worth a line of its own: to the log ``mimiq``."""
        _log.info("%s", text)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        """A stage of ``total`` steps, or of steps that cannot be counted."""
        yield Stage()


class Bar(Protocol):
    """What tqdm's bars are taken for."""

    n: Any
    total: Any

    def set_description(self, desc: str) -> Any: ...
    def set_postfix_str(self, s: str) -> Any: ...
    def update(self, n: int) -> Any: ...
    def reset(self, total: int | None = None) -> Any: ...
    def close(self) -> Any: ...


Callback = Callable[[str, int, int | None, str], object]
Told = Progress | Callback | type[Bar] | Bar | None
"""Who is told of progress: a Progress, a function, tqdm or a class like it, one bar, or nobody."""


def progress_for(told: Told) -> Progress:
    """The progress that tells whom a caller names."""
    if told is None:
        return SILENT
    if isinstance(told, Progress):
        return told
    if hasattr(told, "set_description") and hasattr(told, "set_postfix_str"):
        return BarsProgress(told)
    callback: Any = told
    return CallbackProgress(callback)


class CallbackProgress(Progress):
    """Every step told to a function.

    Args:
        callback: takes the stage's name, the steps that are done, those in all (None where they
            cannot be counted), and a few words.
    """

    def __init__(self, callback: Callback) -> None:
        self.callback = callback

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        stage = _CalledStage(self.callback, name, total)
        stage.update()
        yield stage


class _CalledStage(Stage):
    def __init__(self, callback: Callback, name: str, total: int | None) -> None:
        self.callback, self.name, self.total = callback, name, total
        self.done, self.text = 0, ""

    def update(
        self, done: int | None = None, text: str | None = None, *, total: int | None = None
    ) -> None:
        self.done = self.done if done is None else done
        self.text = self.text if text is None else text
        self.total = self.total if total is None else total
        self.callback(self.name, self.done, self.total, self.text)


class BarsProgress(Progress):
    """Bars as of tqdm.

    Args:
        bars: a class whose instances are bars, one made for each stage; or one bar for all.
    """

    def __init__(self, bars: Any) -> None:
        self.bars = bars

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stage]:
        own = isinstance(self.bars, type)
        bar: Bar = self.bars(total=total, desc=name) if own else self.bars
        if not own:
            bar.reset(total)
            bar.set_description(name)
        try:
            yield _BarStage(bar)
        finally:
            if own:
                bar.close()


class _BarStage(Stage):
    def __init__(self, bar: Bar) -> None:
        self.bar = bar

    def update(
        self, done: int | None = None, text: str | None = None, *, total: int | None = None
    ) -> None:
        if total is not None:
            self.bar.total = total
        if done is not None:
            self.bar.update(done - int(self.bar.n))
        if text is not None:
            self.bar.set_postfix_str(text)


SILENT = Progress()
SILENT_STAGE = Stage()
