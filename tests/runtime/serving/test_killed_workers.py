"""The queue of MLServer's workers outlives one that is killed while it writes."""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from multiprocessing.queues import Queue
from typing import Any

import pytest

from mimiq.runtime.serving import killed_workers
from mimiq.runtime.serving.killed_workers import release_if_orphaned

PROGRAM = """
import asyncio, multiprocessing
from mlserver.parallel.dispatcher import Dispatcher
from mimiq.runtime.serving.killed_workers import outlive_killed_workers

outlive_killed_workers()
outlive_killed_workers()  # once is enough
queue = multiprocessing.get_context("spawn").Queue()

class Worker:
    pid = 1

async def dies():
    served = Dispatcher({1: Worker()}, queue)
    queue._wlock.acquire()
    served.on_worker_stop(Worker(), -9)
    await asyncio.sleep(0)
    waiting = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    return [await task for task in waiting]

released = asyncio.run(dies())
queue.put("an answer")
print(released, queue.get(timeout=10))
"""


@pytest.fixture
def queue() -> Iterator[Queue[Any]]:
    made: Queue[Any] = multiprocessing.get_context("spawn").Queue()
    yield made
    made.close()
    made.join_thread()


def test_the_lock_of_a_dead_writer_is_released(queue: Queue[Any]) -> None:
    queue._wlock.acquire()  # type: ignore[attr-defined]  # and who did is killed
    assert asyncio.run(release_if_orphaned(queue))
    queue.put("an answer")
    assert queue.get(timeout=10) == "an answer"


def test_a_lock_that_is_in_use_is_left_alone(queue: Queue[Any]) -> None:
    lock = queue._wlock  # type: ignore[attr-defined]
    lock.acquire()
    threading.Timer(0.3, lock.release).start()
    assert not asyncio.run(release_if_orphaned(queue))
    assert lock.acquire(block=False), "it was released once, by its owner"
    assert not lock.acquire(block=False)
    lock.release()


def test_a_queue_that_is_not_read_yet_is_left_alone(
    queue: Queue[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(killed_workers, "_PAUSE", 0)
    lock, writer = queue._wlock, queue._writer  # type: ignore[attr-defined]
    lock.acquire()
    writer.send("an answer")  # and its writer waits for room, or for its turn
    assert not asyncio.run(release_if_orphaned(queue))
    assert not lock.acquire(block=False)
    lock.release()


@pytest.mark.skipif(find_spec("mlserver") is None, reason="not installed: mlserver")
def test_mlserver_frees_its_queue_when_a_worker_dies() -> None:
    # MLServer and its client register the same protobuf names, so they cannot share a process.
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.stdout == "[True] an answer\n", done.stderr
