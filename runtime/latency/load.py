"""Latency and throughput of an inference server under a given number of clients at a time."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.progress import SILENT_STAGE, Stage

MAX_CLIENTS = 256
_MAX_REQUESTS = 100_000  # of one client
# Of a client until it is warm: description, configuration, extensions, an image; each in time.
_FIRST_REQUESTS = 4
Ask = Callable[[int], bool]
"""Sends request number i and tells whether its answer was right."""


@dataclass(frozen=True)
class LoadRow:
    """One level of load.

    Attributes:
        clients: that ask at the same time, each waiting for its answer before it asks again.
        requests: answered, of one image each.
        p50_ms, p90_ms, p99_ms: percentiles of the time from question to answer, in milliseconds.
            Of fewer than 100 requests the 99th percentile is close to the slowest.
        throughput: images a second, all clients together.
        wrong: answers with another top-1 than the local bundle gives.
    """

    clients: int
    requests: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    throughput: float
    wrong: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def put_under_load(
    connect: Callable[[], tuple[Ask, Callable[[], None]]],
    clients: Sequence[int],
    seconds: float,
    *,
    stage: Stage = SILENT_STAGE,
    timeout_s: float = 60.0,
) -> list[LoadRow]:
    """Measure a server with so many clients at a time, one level after the other.

    Args:
        connect: called in each client's own thread: what asks, and what closes its connection.
        clients: levels, each from 1 to 256.
        seconds: to spend on each level; every client asks once at least, and once to warm up.
        stage: told each level as it begins.
        timeout_s: of one request. The first client that is warm waits four times as long for
            the last.

    Raises:
        BadInput: a level or the seconds are out of range.
        EnvironmentLacks: not all clients of a level were answered in that time.
        MimiqError: whatever ``connect`` or asking raises first; the other clients then stop.
    """
    if not math.isfinite(seconds) or seconds <= 0:
        raise BadInput(
            f"A level of load cannot last {seconds:g} s.", "Give seconds above 0, e.g. `seconds=5`."
        )
    if not clients or min(clients) < 1 or max(clients) > MAX_CLIENTS:
        raise BadInput(
            f"Load {', '.join(str(n) for n in clients) or 'of nobody'} is out of range.",
            f"Give 1 to {MAX_CLIENTS} clients, for example `load=1,8,32`.",
        )
    rows = []
    for count in clients:
        stage.update(text=f"{count} client{'s' if count > 1 else ''}")
        rows.append(_level(connect, count, seconds, _FIRST_REQUESTS * timeout_s))
    return rows


def _level(
    connect: Callable[[], tuple[Ask, Callable[[], None]]],
    clients: int,
    seconds: float,
    patience_s: float,
) -> LoadRow:
    ready = threading.Barrier(clients)
    failed = threading.Event()

    def work(number: int) -> tuple[list[tuple[float, float]], int]:
        try:
            ask, close = connect()
            try:
                ask(number)
                ready.wait(patience_s)
                return _ask_on(ask, number, clients, time.perf_counter() + seconds, failed)
            finally:
                close()
        except BaseException:
            failed.set()
            ready.abort()
            raise

    with ThreadPoolExecutor(clients, thread_name_prefix="client") as pool:
        futures = [pool.submit(work, number) for number in range(clients)]
        errors = [error for future in futures if (error := future.exception()) is not None]
    for error in errors:
        # A broken barrier only echoes the error of another client.
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    if errors:  # or there is none, and a client waited in vain for the others
        raise EnvironmentLacks(
            f"The server did not answer {clients} clients within {patience_s:g} s.",
            "See the server's log and load, or ask with fewer clients, for example `load=1,8`.",
        )
    results = [future.result() for future in futures]
    times = np.asarray([pair for pairs, _ in results for pair in pairs])
    p50, p90, p99 = np.percentile(1000 * (times[:, 1] - times[:, 0]), (50, 90, 99))
    wall = float(times[:, 1].max() - times[:, 0].min())
    return LoadRow(
        clients=clients,
        requests=len(times),
        p50_ms=float(p50),
        p90_ms=float(p90),
        p99_ms=float(p99),
        throughput=len(times) / wall,
        wrong=sum(wrong for _, wrong in results),
    )


def _ask_on(
    ask: Ask, number: int, clients: int, deadline: float, failed: threading.Event
) -> tuple[list[tuple[float, float]], int]:
    """(start, end) of each request in seconds, and how many answers were wrong."""
    times: list[tuple[float, float]] = []
    wrong = 0
    for request in range(_MAX_REQUESTS):
        start = time.perf_counter()
        right = ask(number + clients * request)
        end = time.perf_counter()
        times.append((start, end))
        wrong += not right
        if end > deadline or failed.is_set():
            break
    return times, wrong
