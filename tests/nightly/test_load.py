"""Two clients and two worker processes, with malformed requests, and a worker killed in the middle.

MIMIQ_REQUESTS=20000 pytest -n 0 --nightly tests/nightly/test_load.py
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled import Compile
from figures import record
from serving_server import malformed, needs_server, passed, start, stop, wait_ready

from mimiq.errors import EnvironmentLacks

pytestmark = [
    needs_server,
    pytest.mark.nightly,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc"),
]

REQUESTS = int(os.environ.get("MIMIQ_REQUESTS", "20000"))  # of each of two clients
MALFORMED = 50  # one of so many: 2 %
CHEAP = ("--recipe", "fast", "--images", "24", "--steps", "0", "--no-bench", "--target", "ort")


def test_load(compile_digits: Compile, tmp_path: Path) -> None:
    from mimiq.models.digits import digits_heldout
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.opening import open_bundle
    from mimiq.runtime.serving.v2_client import RequestRefused, V2Client

    bundle = Bundle(compile_digits("--int8", *CHEAP).path)
    passed("pack", bundle.path, "--triton", tmp_path / "models", "--name", "digits")
    images = bundle.preprocessing.normalize(digits_heldout()[0])
    with open_bundle(bundle, "ort", threads=1) as session:
        expected = session.run(images)
    server = start(tmp_path / "models", workers=2)
    memory: list[dict[int, int]] = []
    tenth = threading.Barrier(2, action=lambda: memory.append(server.memory_of_each()))
    killed: list[int] = []

    def kill() -> None:
        victim = server.workers()[0]
        killed.append(victim)
        os.kill(victim, signal.SIGKILL)

    def client(protocol: Any) -> Counter[str]:
        try:
            return requested(protocol)
        except BaseException:
            tenth.abort()  # the other need not wait
            raise

    def requested(protocol: Any) -> Counter[str]:
        generator = np.random.default_rng(len(protocol))
        counted: Counter[str] = Counter()
        connection = V2Client(server.url(protocol), protocol, 60)
        for number in range(REQUESTS):
            if number % max(1, REQUESTS // 10) == 0:
                tenth.wait(600)
            if number == REQUESTS // 2 + 7 and protocol == "grpc":
                kill()
            wrong = number % MALFORMED == 1
            places = generator.integers(0, len(images), int(generator.integers(1, 9)))
            feeds = malformed(number // MALFORMED) if wrong else {"images": images[places]}
            try:
                answer = connection.infer("digits", feeds, ["logits"])
            except (RequestRefused, EnvironmentLacks) as error:
                if wrong and "takes" in error.problem:
                    counted["refused"] += 1
                elif killed:  # the worker may have held it
                    counted["failed"] += 1
                    print(f"{protocol}, request {number}: {error.problem[:200]}", flush=True)
                else:
                    raise
                continue
            assert not wrong
            np.testing.assert_allclose(answer.outputs["logits"], expected[places], atol=1e-4)
            assert answer.parameters["mimiq_manifest_sha256"] == bundle.digest
            counted["answered"] += 1
        connection.close()
        return counted

    try:
        wait_ready(server, "digits")
        started = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(client, protocol) for protocol in ("http", "grpc")]
            http, grpc = (future.result() for future in futures)
        seconds = time.monotonic() - started
        memory.append(server.memory_of_each())
        workers = server.workers()
    finally:
        stop(server)
    together = [round(sum(each.values()) / 2**20) for each in memory]
    processes = _by_process(memory)
    record(
        "load",
        f"MIMIQ_REQUESTS={REQUESTS} pytest -n 0 --nightly tests/nightly/test_load.py",
        {
            "workers": 2,
            "requests_a_client": REQUESTS,
            "http": dict(http),
            "grpc": dict(grpc),
            "wrong": 0,
            "resident_MiB_each_tenth": together,
            "resident_MiB_each_tenth_by_process": processes,
            "seconds": round(seconds),
        },
    )
    total = http + grpc
    assert sum(total.values()) == 2 * REQUESTS
    assert total["refused"] >= 2 * (REQUESTS // MALFORMED)
    assert total["failed"] <= 2  # each client has one request under way
    assert killed[0] not in workers
    # A new worker takes the place of the old; but for that, nothing grows.
    assert sorted(processes) == ["server", "worker 1", "worker 2", "worker 3"]
    for name, resident in {"together": together, **processes}.items():
        for part in (resident[2:5], resident[7:]):
            known = [mebibytes for mebibytes in part if mebibytes is not None]
            most = 16 if name.startswith("worker") else 64
            assert max(known, default=0) - min(known, default=0) < most, name


def _by_process(memory: list[dict[int, int]]) -> dict[str, list[float | None]]:
    """Resident MiB at each time, None where the process was not there; workers in their order."""
    server, *workers = dict.fromkeys(pid for each in memory for pid in each)
    names = {server: "server"} | {pid: f"worker {n}" for n, pid in enumerate(workers, start=1)}
    return {
        name: [round(each[pid] / 2**20, 1) if pid in each else None for each in memory]
        for pid, name in names.items()
    }
