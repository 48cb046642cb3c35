"""What MLServer's workers answer is read whole, and one that was cut off is dropped."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import struct
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.queues import Queue
from typing import Any

import numpy as np
import pytest

from mimiq.runtime.serving import killed_workers
from mimiq.runtime.serving.killed_workers import release_if_orphaned
from mimiq.runtime.serving.worker_answers import AnswerReader, drop_cut_off, read_apart

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes")
SIZES = (0, 1, 3, 65_535, 65_536, 65_537, 1_000_003)


@pytest.fixture
def queue() -> Iterator[Queue[Any]]:
    made: Queue[Any] = multiprocessing.get_context("spawn").Queue()
    read_apart(made)
    yield made
    made.close()
    made.join_thread()


def test_messages_of_all_lengths_arrive_in_order(queue: Queue[Any]) -> None:
    sent = [np.random.default_rng(size).bytes(size) for size in SIZES]
    for message in sent:
        queue.put(message)
    assert [queue.get() for _ in sent] == sent


def test_a_size_of_more_than_31_bits_is_read(queue: Queue[Any]) -> None:
    # Read from a pipe of its own: nobody writes 2 GiB here.
    receiver, sender = os.pipe()
    reader = AnswerReader(queue)
    os.dup2(receiver, reader._descriptor)
    pickled = multiprocessing.reduction.ForkingPickler.dumps("an answer")
    os.write(sender, struct.pack("!iQ", -1, len(pickled)) + bytes(pickled))
    queue._sem.acquire()  # type: ignore[attr-defined]  # as who puts it does
    assert reader.get() == "an answer"
    os.close(receiver)
    os.close(sender)


@pytest.mark.parametrize("cut", [2, 4, 1000, 100_000])
def test_an_answer_that_was_cut_off_is_dropped(
    queue: Queue[Any], cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(killed_workers, "_PAUSE", 0.01)
    writer: Connection = queue._writer  # type: ignore[attr-defined]
    whole = struct.pack("!i", 200_000) + bytes(200_000)
    got: list[Any] = []
    reading = threading.Thread(target=lambda: got.append(queue.get()), daemon=True)
    reading.start()
    queue._wlock.acquire()  # type: ignore[attr-defined]  # and who did is killed after
    rest = memoryview(whole)[:cut]
    while rest:
        rest = rest[os.write(writer.fileno(), rest) :]
    assert asyncio.run(release_if_orphaned(queue))
    queue.put("an answer")
    reading.join(10)
    assert got == ["an answer"]


def test_nothing_is_dropped_between_messages(queue: Queue[Any]) -> None:
    queue.put("an answer")
    assert queue.get() == "an answer"
    assert not drop_cut_off(queue)


def test_other_queues_stay_as_they_are() -> None:
    other: Queue[Any] = multiprocessing.get_context("spawn").Queue()
    assert not drop_cut_off(other)
    assert "get" not in vars(other)
    other.close()


def test_reading_apart_twice_is_once(queue: Queue[Any]) -> None:
    before = queue.get
    read_apart(queue)
    assert queue.get == before
