"""Waiting until this process's threads have gone to sleep, lest they slow the next engine."""

from __future__ import annotations

import time

_LOOK_S = 0.01
_ASLEEP = 0.1  # of a core: what a process at rest takes less than
_LONGEST_S = 0.25


def wait_for_rest() -> None:
    """Return when no thread of this process works or spins, or after a quarter of a second.

    Threads of a runtime on the CPU keep spinning for more work after a run: ONNX Runtime's for
    45 milliseconds on an Intel Xeon with AMX, as long as a run of the next engine.
    """
    deadline = time.monotonic() + _LONGEST_S
    while time.monotonic() < deadline:
        before, started = time.process_time(), time.monotonic()
        time.sleep(_LOOK_S)
        if time.process_time() - before < _ASLEEP * (time.monotonic() - started):
            return
