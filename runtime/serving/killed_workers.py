"""A worker process of MLServer that is killed takes the requests with it that it held, and no more.

MLServer starts another in its place, and three things of it are mended here:

- All workers answer through one queue of :mod:`multiprocessing`. Its lock is a semaphore, which no
  death releases: a worker that is killed while it writes an answer (for want of memory, say) leaves
  the others, and the one started in its place, waiting for good, and the server hangs. So when a
  worker dies the lock is looked at. Held while nothing arrives, it is nobody's, and is released;
  and what had arrived of an answer that will never end is dropped.
- A worker that is starting gets requests before its model is loaded if another dies meanwhile.
  Here it gets none before it is ready, and where no worker is, requests wait for one.
- Two workers that die at once can be told of by one signal, and the second is never missed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from itertools import cycle
from multiprocessing.queues import Queue
from typing import Any

from mimiq.runtime.serving.worker_answers import drop_cut_off, read_apart

_LOOKS = 40  # in a row at which the lock is held and nothing arrives
_PAUSE = 0.05  # seconds between two of them
_MOST = 200  # looks: a lock that is still held by then is in use
_START_S = 120.0  # that a request waits for a worker to start

_NEEDED = (
    "_reset_round_robin",
    "dispatch_request",
    "dispatch_update_to_worker",
    "on_worker_ready",
    "on_worker_start",
    "on_worker_stop",
)

_LOGGER = logging.getLogger(__name__)
_tasks: set[asyncio.Task[bool]] = set()  # the loop alone would not keep them


def outlive_killed_workers() -> None:
    """Mend how MLServer takes the death of a worker; once is enough.

    An MLServer without the parts that this needs stays as it is.
    """
    try:
        from mlserver.parallel.dispatcher import Dispatcher
        from mlserver.parallel.registry import InferencePoolRegistry
    except ImportError:
        return
    if getattr(Dispatcher, "outlives_killed_workers", False) or not (
        all(hasattr(Dispatcher, name) for name in _NEEDED)
        and hasattr(InferencePoolRegistry, "_handle_worker_stop")
    ):
        return
    Dispatcher.outlives_killed_workers = True
    _keep_requests_from_starting_workers(Dispatcher)
    _free_the_queue(Dispatcher)
    InferencePoolRegistry._handle_worker_stop = _handle_all_that_stopped


def _free_the_queue(dispatcher: Any) -> None:
    usual, usual_update = dispatcher.on_worker_stop, dispatcher.dispatch_update_to_worker

    async def dispatch_update_to_worker(self: Any, worker: Any, model_update: Any) -> Any:
        queue = getattr(self, "_responses", None)
        if isinstance(queue, Queue):  # before the first request
            read_apart(queue)
        return await usual_update(self, worker, model_update)

    def on_worker_stop(self: Any, worker: Any, exit_code: int) -> None:
        usual(self, worker, exit_code)
        queue = getattr(self, "_responses", None)
        if isinstance(queue, Queue):
            task = asyncio.get_running_loop().create_task(release_if_orphaned(queue))
            _tasks.add(task)
            task.add_done_callback(_tasks.discard)

    dispatcher.on_worker_stop = on_worker_stop
    dispatcher.dispatch_update_to_worker = dispatch_update_to_worker


def _keep_requests_from_starting_workers(dispatcher: Any) -> None:
    from mlserver.errors import MLServerError

    usual_start, usual_ready = dispatcher.on_worker_start, dispatcher.on_worker_ready
    usual_dispatch = dispatcher.dispatch_request

    async def on_worker_start(self: Any, worker: Any) -> None:
        vars(self).setdefault("_starting", set()).add(worker.pid)
        await usual_start(self, worker)

    def on_worker_ready(self: Any, worker: Any) -> None:
        vars(self).get("_starting", set()).discard(worker.pid)
        usual_ready(self, worker)

    def ready(self: Any) -> list[int]:
        return [pid for pid in self._workers if pid not in vars(self).get("_starting", ())]

    def _reset_round_robin(self: Any) -> Any:
        self._workers_round_robin = cycle(ready(self))
        return self._workers_round_robin

    async def dispatch_request(self: Any, request_message: Any) -> Any:
        deadline = time.monotonic() + _START_S
        while not ready(self):
            if time.monotonic() > deadline:
                raise MLServerError(f"no worker process was ready within {_START_S:g} s", 503)
            await asyncio.sleep(_PAUSE)
        return await usual_dispatch(self, request_message)

    dispatcher.on_worker_start, dispatcher.on_worker_ready = on_worker_start, on_worker_ready
    dispatcher._reset_round_robin, dispatcher.dispatch_request = (
        _reset_round_robin,
        dispatch_request,
    )


async def _handle_all_that_stopped(self: Any, signum: int, frame: Any) -> None:
    """Hand every child that ended to its pool, for one signal may stand for several."""
    stopped: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:  # none is left
            break
        if pid == 0:
            break
        if status != 0:
            stopped[pid] = status
    pools = [self._default_pool, *self._pools.values()]
    await asyncio.gather(
        *[pool.on_worker_stop(pid, status) for pool in pools for pid, status in stopped.items()]
    )


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
            drop_cut_off(queue)
            lock.release()
            _LOGGER.warning("A worker died while it wrote an answer; the others go on.")
            return True
        await asyncio.sleep(_PAUSE)
    return False
