"""MLServer's workers and their queue outlive one that is killed."""

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

FREES_ITS_QUEUE = """
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

KEEPS_REQUESTS = """
import asyncio, multiprocessing
from types import SimpleNamespace
from mlserver.parallel.dispatcher import Dispatcher
from mimiq.runtime.serving.killed_workers import outlive_killed_workers

outlive_killed_workers()
queue = multiprocessing.get_context("spawn").Queue()

class Worker:
    def __init__(self, pid):
        self.pid, self.sent = pid, []

    def send_request(self, message):
        self.sent.append(message.id)

def request(name, served):
    return asyncio.create_task(served.dispatch_request(SimpleNamespace(id=name)))

async def both_die():
    first, second, third = Worker(1), Worker(2), Worker(3)
    served = Dispatcher({1: first, 2: second}, queue)
    served.on_worker_stop(first, 9)
    await served.on_worker_start(third)
    tasks = [request("while one starts", served), request("and another", served)]
    await asyncio.sleep(0)
    print(second.sent, third.sent)
    served.on_worker_stop(second, 9)
    tasks.append(request("while none is ready", served))
    await asyncio.sleep(0.2)
    print(third.sent)
    served.on_worker_ready(third)
    await asyncio.sleep(0.2)
    print(third.sent)
    held = [type(task.exception()).__name__ for task in tasks[:2]]
    print(held, tasks[2].done())
    tasks[2].cancel()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()

asyncio.run(both_die())
"""

TELLS_OF_EACH = """
import asyncio, os, subprocess, sys
from mlserver.parallel.registry import InferencePoolRegistry
from mimiq.runtime.serving.killed_workers import outlive_killed_workers

outlive_killed_workers()

class Pool:
    told = []

    async def on_worker_stop(self, pid, status):
        self.told.append((pid, os.waitstatus_to_exitcode(status)))

class Registry:
    _default_pool, _pools = Pool(), {}

children = [subprocess.Popen([sys.executable, "-c", f"exit({code})"]) for code in (3, 0, 4)]
for child in children:
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # all ended, none reaped
asyncio.run(InferencePoolRegistry._handle_worker_stop(Registry, 17, None))
print(sorted(Pool.told) == sorted([(children[0].pid, 3), (children[2].pid, 4)]))
asyncio.run(InferencePoolRegistry._handle_worker_stop(Registry, 17, None))  # with none left
print(len(Pool.told))
"""

needs_mlserver = pytest.mark.skipif(find_spec("mlserver") is None, reason="not installed: mlserver")


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


# MLServer and its client register the same protobuf names, so they cannot share a process.
def printed(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@needs_mlserver
def test_mlserver_frees_its_queue_when_a_worker_dies() -> None:
    assert printed(FREES_ITS_QUEUE) == ["[True] an answer"]


@needs_mlserver
def test_a_worker_gets_no_request_before_it_is_ready() -> None:
    assert printed(KEEPS_REQUESTS) == [
        "['while one starts', 'and another'] []",
        "[]",
        "['while none is ready']",
        "['WorkerStop', 'WorkerStop'] False",
    ]


@needs_mlserver
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX processes")
def test_two_workers_that_die_at_once_are_both_told_of() -> None:
    assert printed(TELLS_OF_EACH) == ["True", "2"]
