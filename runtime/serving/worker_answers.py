"""What MLServer's workers answer, read from their queue so that a message cut off can be dropped.

All workers write to one pipe. A worker that is killed within a message longer than the pipe holds
(64 kB: the logits of sixteen images over a thousand classes) leaves its beginning there, and
:class:`multiprocessing.connection.Connection` takes what the next worker writes for the rest.
"""

from __future__ import annotations

import os
import struct
import threading
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from multiprocessing.reduction import ForkingPickler
from typing import Any
from weakref import WeakKeyDictionary

_readers: WeakKeyDictionary[Queue[Any], AnswerReader] = WeakKeyDictionary()


def read_apart(queue: Queue[Any]) -> None:
    """Have ``queue.get`` read by an :class:`AnswerReader` from now on, in this process.

    A queue of another build of Python that lacks a part that this needs stays as it is.
    """
    parts = ("_wlock", "_rlock", "_sem", "_reader")
    if queue not in _readers and all(getattr(queue, part, None) is not None for part in parts):
        _readers[queue] = AnswerReader(queue)
        queue.get = _readers[queue].get  # type: ignore[method-assign,assignment]


def drop_cut_off(queue: Queue[Any]) -> bool:
    """Drop the beginning of a message whose writer is dead; returns whether there was one."""
    reader = _readers.get(queue)
    return reader is not None and reader.drop_cut_off()


class AnswerReader:
    """Reads a queue's messages from its pipe.

    A message is what :class:`multiprocessing.connection.Connection` writes: its size as a signed
    big-endian 32-bit integer, or -1 and an unsigned 64-bit one, and so many bytes of a pickle.
    """

    def __init__(self, queue: Any) -> None:
        self._rlock, self._sem = queue._rlock, queue._sem
        self._descriptor = os.dup(queue._reader.fileno())  # the queue closes its own when it likes
        self._read = bytearray()  # of the message that is coming
        self._reading = threading.Lock()

    def get(self) -> Any:
        """Wait for the next message, as :meth:`multiprocessing.queues.Queue.get` does.

        Raises:
            EOFError: nobody has the pipe open for writing.
        """
        with self._rlock:
            message = self._next()
        self._sem.release()
        return ForkingPickler.loads(message)

    def drop_cut_off(self) -> bool:
        """Start anew with the next byte; returns whether a message had begun."""
        with self._reading:
            begun = bool(self._read)
            self._read.clear()
        return begun

    def _next(self) -> bytes:
        while True:
            wait([self._descriptor])
            with self._reading:  # of what is there, so this never takes long
                part = os.read(self._descriptor, self._missing())
                if not part:
                    raise EOFError
                self._read += part
                if self._missing() == 0:
                    message = bytes(self._read[self._header() :])
                    self._read.clear()
                    return message

    def _header(self) -> int:
        """Bytes of the size, as far as is known."""
        return 12 if self._read[:4] == b"\xff\xff\xff\xff" else 4

    def _missing(self) -> int:
        """Bytes until the size is known, or else until the message is whole."""
        header = self._header()
        if len(self._read) < header:
            return header - len(self._read)
        layout = "!4xQ" if header == 12 else "!i"
        (size,) = struct.unpack(layout, self._read[:header])
        return int(header + size - len(self._read))

    def __del__(self) -> None:
        os.close(self._descriptor)
