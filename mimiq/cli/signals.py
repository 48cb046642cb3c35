"""Ctrl-C and SIGTERM: exceptions where work is under way, a quiet end while libraries load."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mimiq.entry import USUAL

KEPT = "what is finished is kept, run the same command again to go on"
_SHOW_CURSOR = b"\x1b[?25h"


class Terminated(KeyboardInterrupt):
    """SIGTERM: of a scheduler, at a container's end, or by ``kill``."""


def exit_code(number: int) -> int:
    """What a shell reports of a process that a signal ended."""
    return 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, SIGINT raises KeyboardInterrupt and SIGTERM :class:`Terminated`, in the main thread.

    A module that is being imported cannot take an exception everywhere: half of a library would
    write tracebacks, or go on. The process ends at once there, as safely as it may be killed.
    Handlers that somebody else set stay.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in USUAL}
    ours = [number for number in before if before[number] in (USUAL[number], end_at_once)]
    for number in ours:
        signal.signal(number, _handle)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, before[number])


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Inside :func:`interruptible`, work that writes nothing: a signal ends the process there.

    A library's own loop may write a traceback of an exception, and threads may go on after one.
    """
    before = {number: signal.getsignal(number) for number in USUAL}
    ours = [number for number in before if before[number] is _handle]  # none beside the main thread
    for number in ours:
        signal.signal(number, end_at_once)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, _handle)


def end_at_once(number: int, _frame: FrameType | None) -> None:
    """A signal's handler where nothing is being written: one line, and the end."""
    word = "interrupted" if number == signal.SIGINT else "terminated"
    cursor = _SHOW_CURSOR if os.isatty(2) else b""
    os.write(2, cursor + f"{word}; {KEPT}\n".encode())
    os._exit(exit_code(number))


def _handle(number: int, frame: FrameType | None) -> None:
    if _imports(frame):
        end_at_once(number, frame)
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _imports(frame: FrameType | None) -> bool:
    """Whether an import is under way."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
