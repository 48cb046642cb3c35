"""Where the commands begin: Ctrl-C and SIGTERM are quiet while the command line is imported.

What this file imports is loaded before they are, so that it is next to nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""The handlers of these signals where nobody has set others."""


def main() -> None:
    """``mimiq``."""
    _run("main", "mimiq")


def compile_main() -> None:
    """``mimiq-compile``."""
    _run("compile_main", "mimiq-compile")


def _run(name: str, program: str) -> None:
    ours = [number for number, usual in USUAL.items() if signal.getsignal(number) == usual]
    for number in ours:
        signal.signal(number, _leave)
    import mimiq.cli
    from mimiq.cli.signals import end_at_once

    for number in ours:  # before a command's work and after it: no moment is left out
        signal.signal(number, end_at_once)
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
    import logging
    from contextlib import suppress

    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed by whoever reads it
            stream.flush()
    os._exit(code)


def _leave(number: int, _frame: FrameType | None) -> None:
    word = b"interrupted" if number == signal.SIGINT else b"terminated"
    os.write(2, word + b"; nothing was begun\n")
    os._exit(128 + number)
