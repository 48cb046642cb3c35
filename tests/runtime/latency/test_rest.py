"""An engine's turn ends when its threads sleep, and not never."""

from __future__ import annotations

import threading
import time

from mimiq.runtime.latency.rest import wait_for_rest


def spinning(seconds: float) -> threading.Thread:
    def spin() -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass

    thread = threading.Thread(target=spin, daemon=True)
    thread.start()
    return thread


def test_it_waits_for_a_thread_that_spins() -> None:
    thread = spinning(0.08)
    wait_for_rest()
    thread.join(0.02)
    assert not thread.is_alive()


def test_it_does_not_wait_for_ever() -> None:
    thread = spinning(3)
    wait_for_rest()
    assert thread.is_alive()
    thread.join()
