"""What is sent to a terminal: no text is taken for its commands, and where standard error cannot be
written the work goes on.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import click

from mimiq import files

_CONTROLS = re.compile("[\x7f-\x9f]")  # JSON leaves them as they are, and 9B begins a command


def printable(text: str) -> str:
    """What is no letter or sign is shown by its number, and not sent."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def printable_json(text: str) -> str:
    """JSON with every control character as ``\\uXXXX``."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class Unfailing:
    """A stream of text; what its device does not take, being full or closed, is lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def standard_error() -> Any:
    """Standard error as :class:`Unfailing`."""
    return Unfailing(sys.stderr)


def tell(line: str) -> None:
    """A line on standard error."""
    with suppress(OSError):
        click.echo(line, err=True)


@contextmanager
def naming_standard_output() -> Iterator[None]:
    """What is printed inside is a result, and an error where it cannot be written.

    Raises:
        EnvironmentLacks: the disk is full that it is written to, or a limit of sizes is reached.
    """
    with files.naming_full_disk("standard output"):
        yield
