"""Requests of a server that run together: those that wait while the model is busy.

MLServer's own batches join requests before anyone has looked at them, so that one bad request
fails the others of its batch, one that was given up leaves them without an answer, and requests
that are within the limit alone exceed it together. Here each is checked before it comes, and
nobody waits for a batch to fill: a run takes what has come in the meantime.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mimiq.errors import EnvironmentLacks

Tensors = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Tensors], Tensors]
"""A model: arrays (B, …) by input name to arrays (B, …) by output name."""


@dataclass
class _Request:
    feeds: Tensors
    images: int
    answer: Future[dict[str, npt.NDArray[Any]]] = field(default_factory=Future)


class Batcher:
    """Runs a model for requests that come from any thread, oldest first.

    Args:
        run: the model. It is called from ``lanes`` threads of this object's.
        lanes: runs at a time, at least 1.
        max_images: of a run of several requests; 1 gives each request a run of its own. A larger
            request runs alone.
    """

    def __init__(self, run: Run, *, lanes: int = 1, max_images: int = 1) -> None:
        self._run = run
        self._max_images = max_images
        self._waiting: deque[_Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"mimiq-{lane}", daemon=True)
            for lane in range(lanes)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, feeds: Tensors) -> Future[dict[str, npt.NDArray[Any]]]:
        """Queue a request that the model takes; one that is cancelled before its run never runs.

        Args:
            feeds: arrays by input name, of one and the same batch B, and of the types and shapes
                of every other request but for B.

        Returns:
            Its answer: arrays (B, …) by output name, or what the model raised of it.

        Raises:
            EnvironmentLacks: ``close`` was called before.
        """
        request = _Request(feeds, len(next(iter(feeds.values()))))
        with self._changed:
            if self._closed:
                raise EnvironmentLacks("The model was unloaded.", "Load it again.")
            self._waiting.append(request)
            self._changed.notify()
        return request.answer

    def close(self) -> None:
        """End the threads once everything that was submitted is answered."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while requests := self._next():
            self._answer(requests)

    def _next(self) -> list[_Request]:
        """The requests of the next run; none once it is closed and all are answered."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return []
                taken = [self._waiting.popleft()]
                images = taken[0].images
                while self._waiting and images + self._waiting[0].images <= self._max_images:
                    taken.append(self._waiting.popleft())
                    images += taken[-1].images
            wanted = [request for request in taken if request.answer.set_running_or_notify_cancel()]
            if wanted:
                return wanted

    def _answer(self, requests: list[_Request]) -> None:
        try:
            answers = self._together(requests)
        except Exception as error:
            if len(requests) == 1:
                requests[0].answer.set_exception(error)
                return
            for request in requests:  # nobody pays for another's failure, nor for the sum of all
                self._answer([request])
            return
        for request, answer in zip(requests, answers, strict=True):
            request.answer.set_result(answer)

    def _together(self, requests: list[_Request]) -> list[dict[str, npt.NDArray[Any]]]:
        if len(requests) == 1:
            return [dict(self._run(requests[0].feeds))]
        names = requests[0].feeds
        joined = {name: np.concatenate([each.feeds[name] for each in requests]) for name in names}
        found = self._run(joined)
        ends = np.cumsum([request.images for request in requests])[:-1]
        parts = {name: np.split(array, ends) for name, array in found.items()}
        return [{name: parts[name][place] for name in parts} for place in range(len(requests))]
