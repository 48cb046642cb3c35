"""Where the commands begin, so that Ctrl-C is quiet while the command line itself is imported."""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """``mimiq``."""
    _run("main", "mimiq")


def compile_main() -> None:
    """``mimiq-compile``."""
    _run("compile_main", "mimiq-compile")


def _run(name: str, program: str) -> None:
    usual = signal.getsignal(signal.SIGINT)
    if usual is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)
    import mimiq.cli

    signal.signal(signal.SIGINT, usual)
    getattr(mimiq.cli, name)(prog_name=program)


def _leave(number: int, _frame: FrameType | None) -> None:
    os.write(2, b"interrupted; nothing was begun\n")
    os._exit(128 + number)
