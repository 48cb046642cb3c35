"""Compilations of the embedded network in forked children: quick to begin, and to be killed."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

from mimiq.runtime.bundle import Bundle

# All stages: images synthesised, the fit, a distillation with a checkpoint, graphs.
COMPILE = (
    *("digits", "--int8", "--recipe", "tiny", "--images", "4", "--steps", "60"),
    *("--no-bench", "--target", "ort", "--force"),
)


def begun(out: Path, cache: Path) -> int:
    """Compile in a forked child, which has all libraries loaded; its process id.

    What it says on standard error is in ``said``, beside the cache.
    """
    child = os.fork()
    if child == 0:
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            said = os.open(cache.with_name("said"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(said, 2)
            # pytest's own stream, where it captures, is another file.
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            from mimiq.cli import compile_main

            words = [*COMPILE, "-o", str(out), "--cache-dir", str(cache)]
            code = compile_main.main(words, standalone_mode=False)  # click's Exit is returned
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(code or 0)
    return child


def ended(child: int, within: float | None = None) -> bool:
    """Wait for a child; whether it ended by itself, well, and was not killed for its time."""
    deadline = None if within is None else time.monotonic() + within
    while True:
        done, status = os.waitpid(child, 0 if deadline is None else os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return True
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.002)


def graphs_of(bundle: Path) -> dict[str, str]:
    Bundle(bundle)  # every hash
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in bundle.glob("*.onnx")
    }


def load_libraries() -> None:
    """Once, before the forks."""
    import mimiq.compiler
    import mimiq.export
    import mimiq.synthesis.mimiq  # noqa: F401
