"""Ctrl-C and SIGTERM at even delays over a command: what it says, and how it ends."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

# The start of Python is not ours: the clock runs from where the command line is first looked for.
_PROGRAM = """
import os, sys

class Begun:
    def find_spec(self, name, *_):
        if name == "mimiq.cli":
            os.write(2, b"begun\\n")

sys.meta_path.insert(0, Begun())
from mimiq.entry import main
main()
"""
_SAID = {
    signal.SIGINT: ("interrupted; nothing was begun\n", "interrupted; what is finished is kept, "),
    signal.SIGTERM: ("terminated; nothing was begun\n", "terminated; what is finished is kept, "),
}


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit status, negative for a signal's.
        out: standard output.
        said: standard error.
        seconds: that it took.
    """

    code: int
    out: str
    said: str
    seconds: float


def run(words: Sequence[object], number: signal.Signals | None = None, delay: float = 0) -> Ended:
    """Run ``mimiq`` with these words, and send it the signal ``delay`` seconds after it began."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A run in the background inherits that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "begun\n"
    began = time.monotonic()
    if number is not None:
        time.sleep(delay)
        process.send_signal(number)
    out, said = process.communicate(timeout=60)
    return Ended(process.returncode, out, said, time.monotonic() - began)


def fault(whole: Ended, number: signal.Signals, delay: float, found: Ended) -> str:
    """What is wrong with how it ended; nothing where it ended early and said so, or had ended.

    Its end is silent where Python takes itself down, the result being out.
    """
    if found.code in (0, -number):
        well = (found.out, found.said) == (whole.out, whole.said)
    else:
        nothing, kept = _SAID[number]
        well = found.code == 128 + number and found.said.count("\n") == 1
        well = well and (found.said == nothing or found.said.startswith(kept))
    return "" if well else f"{number.name} after {delay:.3f} s: {found}"
