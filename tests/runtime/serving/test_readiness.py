"""Waiting for a server that is only starting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mimiq.errors import EnvironmentLacks
from mimiq.runtime.serving.readiness import wait_until_ready
from mimiq.runtime.serving.v2_client import RequestRefused


class Starting:
    """A client of a server that answers as listed, one answer a question."""

    url = "localhost:8000"

    def __init__(self, *answers: object) -> None:
        self._answers: Iterator[object] = iter(answers)
        self.asked = 0

    def live(self, within_s: float) -> bool:
        assert 0 < within_s <= 5
        self.asked += 1
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer != "dead"

    def model_ready(self, name: str, version: str, within_s: float) -> bool:
        return (name, version) == ("vit", "1") and self.asked > 0 and self._ready

    _ready = True


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.seconds += seconds


def wait(client: Any, wait_s: float) -> tuple[float, list[str]]:
    """Seconds waited, and what was said."""
    clock, said = Clock(), []  # type: ignore[var-annotated]
    wait_until_ready(client, "vit", "1", wait_s, say=said.append, now=clock, sleep=clock.sleep)
    return clock.seconds, said


def test_a_server_that_is_ready_is_not_waited_for() -> None:
    assert wait(Starting("live"), 60) == (0.0, [])


@pytest.mark.parametrize(
    "first", [EnvironmentLacks("nobody there"), RequestRefused("loading"), "dead"]
)
def test_it_is_asked_again_until_it_answers(first: object) -> None:
    waited, said = wait(Starting(first, first, "live"), 60)
    assert 0 < waited < 5
    assert said == ["waiting for vit at localhost:8000"] * 2


def test_a_model_that_is_still_loading_is_waited_for() -> None:
    client = Starting(*["live"] * 50)
    client._ready = False
    waited, _ = wait(client, 10)
    assert waited == pytest.approx(10)
    assert client.asked > 5


def test_without_a_wait_nothing_is_asked() -> None:
    client = Starting()
    wait(client, 0)
    assert client.asked == 0
