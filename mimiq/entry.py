"""Where the commands begin, so that Ctrl-C is quiet while the command line itself is imported."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
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
    try:
        getattr(mimiq.cli, name)(prog_name=program)
    except SystemExit as end:
        if os.environ.get("WORLD_SIZE", "1") != "1" and isinstance(end.code, int):
            _end_rank(end.code)
        raise


def _end_rank(code: int) -> None:
    """End a rank that has done its work, whatever the threads of its libraries still do.

    One run in some dozens aborted here, in the destructors of the library that ranks talk through.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed by whoever reads it
            stream.flush()
    os._exit(code)


def _leave(number: int, _frame: FrameType | None) -> None:
    os.write(2, b"interrupted; nothing was begun\n")
    os._exit(128 + number)
