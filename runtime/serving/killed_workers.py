"""A worker process of MLServer that is killed takes the requests with it that it held, and no more.

All workers answer through one queue of :mod:`multiprocessing`. Its lock is a semaphore, which no
death releases: a worker that is killed while it writes an answer (for want of memory, say) leaves
the others, and the one started in its place, waiting for good, and the server hangs. So when a
worker dies the lock is looked at. Held while nothing arrives, it is nobody's, and is released.
"""

from __future__ import annotations

import asyncio
import logging
from multiprocessing.queues import Queue
from typing import Any

_LOOKS = 40  # in a row at which the lock is held and nothing arrives
_PAUSE = 0.05  # seconds between two of them
_MOST = 200  # looks: a lock that is still held by then is in use

_LOGGER = logging.getLogger(__name__)
_tasks: set[asyncio.Task[bool]] = set()  # the loop alone would not keep them


def outlive_killed_workers() -> None:
    """Have MLServer look after its queue whenever a worker dies; once is enough.

    An MLServer without the parts that this needs stays as it is.
    """
    try:
        from mlserver.parallel.dispatcher import Dispatcher
    except ImportError:
        return
    usual = getattr(Dispatcher, "on_worker_stop", None)
    if usual is None or getattr(usual, "frees_the_queue", False):
        return

    def on_worker_stop(self: Any, worker: Any, exit_code: int) -> None:
        usual(self, worker, exit_code)
        queue = getattr(self, "_responses", None)
        if isinstance(queue, Queue):
            task = asyncio.get_running_loop().create_task(release_if_orphaned(queue))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)

    on_worker_stop.frees_the_queue = True  # type: ignore[attr-defined]
    Dispatcher.on_worker_stop = on_worker_stop


async def release_if_orphaned(queue: Queue[Any]) -> bool:
    """Release the lock that writers of ``queue`` take, if who holds it is dead.

    Args:
        queue: that this process reads.

    Returns:
        Whether it was released.
    """
    lock, reader = getattr(queue, "_wlock", None), getattr(queue, "_reader", None)
    if lock is None or reader is None:  # of Windows, where writes need none
        return False
    still = 0
    for _ in range(_MOST):
        if lock.acquire(block=False):
            lock.release()
            return False
        still = 0 if reader.poll() else still + 1
        if still == _LOOKS:
            lock.release()
            _LOGGER.warning("A worker died while it wrote an answer; the others go on.")
            return True
        await asyncio.sleep(_PAUSE)
    return False
