"""A server that is only starting: asked again until it and the model are ready."""

from __future__ import annotations

import time
from collections.abc import Callable

from mimiq.errors import EnvironmentLacks
from mimiq.runtime.serving.v2_client import QUESTION_S, RequestRefused, V2Client

_PAUSE_S = 0.5
_LEAST_S = 0.1  # of a question


def wait_until_ready(
    client: V2Client,
    model: str,
    version: str,
    wait_s: float,
    *,
    say: Callable[[str], object] = lambda _: None,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Return once the model is ready, or ``wait_s`` seconds have passed.

    Whoever asks next hears what is still the matter.

    Args:
        client: of the server.
        model, version: as the server names them.
        wait_s: seconds; 0 asks nothing.
        say: told what is waited for.
        now, sleep: a clock in seconds, and what lets time pass.
    """
    end = now() + wait_s
    while now() < end:
        if _ready(client, model, version, end, now):
            return
        say(f"waiting for {model} at {client.url}")
        sleep(min(_PAUSE_S, max(end - now(), 0.0)))


def _ready(
    client: V2Client, model: str, version: str, end: float, now: Callable[[], float]
) -> bool:
    def left() -> float:  # a port that says nothing takes no longer than the wait
        return min(QUESTION_S, max(end - now(), _LEAST_S))

    try:
        return client.live(left()) and client.model_ready(model, version, left())
    except (EnvironmentLacks, RequestRefused):
        return False
