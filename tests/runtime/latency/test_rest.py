"""An engine's turn ends when its threads sleep, and not never."""

from __future__ import annotations

import math

import pytest

from mimiq.runtime.latency import rest


class Clock:
    """Time of a process whose threads keep one core busy for so many seconds."""

    def __init__(self, busy: float) -> None:
        self.now, self._busy = 0.0, busy

    def monotonic(self) -> float:
        return self.now

    def process_time(self) -> float:
        return min(self.now, self._busy)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("busy", "at_least", "at_most"), [(0, 0, 0.02), (0.08, 0.08, 0.1), (math.inf, 0.25, 0.3)]
)
def test_it_waits_while_threads_spin(
    monkeypatch: pytest.MonkeyPatch, busy: float, at_least: float, at_most: float
) -> None:
    clock = Clock(busy)
    monkeypatch.setattr(rest, "time", clock)
    rest.wait_for_rest()
    assert at_least <= clock.now <= at_most
