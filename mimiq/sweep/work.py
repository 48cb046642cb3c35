"""What a job of a sweep runs: one command, and what became of it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_ERROR = "error: "


@dataclass(frozen=True)
class Outcome:
    """What became of a command.

    Attributes:
        code: its exit code.
        error: what it said, in one line; empty where all went well.
        seconds: that it took.
    """

    code: int
    error: str
    seconds: float


def run_command(command: Sequence[str], log: Path) -> Outcome:
    """Run a command to its end, whatever that is; what it says goes to ``log``."""
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False)
    error = "" if done.returncode == 0 else error_in(log.read_text("utf-8", errors="replace"))
    return Outcome(done.returncode, error, time.monotonic() - started)


def error_in(said: str) -> str:
    """The error among what a command said, in one line."""
    lines = said.splitlines()
    starts = [index for index, line in enumerate(lines) if _ERROR in line]
    found = lines[starts[-1] :] if starts else lines[-1:]
    text = " ".join(" ".join(found).split())
    return text.partition(_ERROR)[2] or text or "It ended without a word."
