"""OpenVINO on a CPU: often the quickest there, where it is installed."""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import Any, Self

import numpy as np

from mimiq.errors import BadInput
from mimiq.runtime.openvino.library import what_it_says
from mimiq.runtime.openvino.networks import Floats, Hint, Networks, Settings, Weights
from mimiq.runtime.preprocessing import FloatArray, Preprocessing
from mimiq.runtime.session import Images, OfOneProcess, as_input, closed, require_batch

OWN_BATCHES = 4
_FIRST = threading.Lock()
_has_run = False


class OpenVINOSession(OfOneProcess):
    """An ONNX graph with one image input and one (B, classes) output, opened by OpenVINO.

    Several threads may call ``run`` at a time; ``streams`` of them are served side by side.

    Args:
        model: the ``.onnx`` file.
        preprocessing: lets ``run`` take uint8 pixels.
        threads: CPU threads of all streams together, or None for one a core that this process may
            use.
        streams: runs that may go on side by side; None for what the hint implies.
        hint: what OpenVINO's own choices aim at: ``latency`` of one run, or ``throughput`` of many.
        floats: what is computed where nothing is quantised: ``float32``, ``bfloat16``,
            ``float16``, or ``auto``: bfloat16 where the CPU multiplies it.
        weights: of a weight-only bundle: ``compressed`` keeps them in INT4 in memory, ``expanded``
            makes them floating point once; ``auto`` is the quicker one for this CPU.
        own_batches: how many batch sizes get a network of their own, compiled when they first
            come, in tenths of a second; it is quicker by a tenth. The sizes after these share one.
        cache: keep compiled networks in the user's cache folder.

    Raises:
        BadInput: the file is missing, corrupt, or not such a graph; or an option is out of range.
        EnvironmentLacks: OpenVINO is not installed, or too old.
    """

    def __init__(
        self,
        model: str | Path,
        preprocessing: Preprocessing | None = None,
        *,
        threads: int | None = None,
        streams: int | None = None,
        hint: Hint = "latency",
        floats: Floats = "auto",
        weights: Weights = "auto",
        own_batches: int = OWN_BATCHES,
        cache: bool = True,
    ) -> None:
        self._model = Path(model)
        self._preprocessing = preprocessing
        settings = Settings(threads, streams, hint, floats, weights)
        networks = Networks(self._model, settings, cache=cache)
        signature = networks.signature
        self.backend = "openvino-cpu"
        self.input_shape = signature.input_shape
        self.num_classes = signature.width
        self._fixed_batch = signature.batch
        self._own_batches = 0 if signature.batch is not None else own_batches
        self._networks: Networks | None = networks
        self._opened: dict[int | None, _Requests] = {}
        self._opening = threading.Lock()
        # What is wrong with the file is said now, and the first run is quick.
        requests = self._requests(1)
        _first_run(requests, np.zeros((signature.batch or 1, *self.input_shape), np.float32))

    def run(self, images: Images) -> FloatArray:
        """See :meth:`mimiq.runtime.session.Session.run`."""
        if self._networks is None:
            raise closed()
        self._require_here()
        batch = as_input(images, self.input_shape, self._preprocessing)
        if len(batch) == 0:
            return np.zeros((0, self.num_classes), np.float32)
        require_batch(self._model, self._fixed_batch, batch)
        try:
            return self._requests(len(batch)).run(batch)
        except RuntimeError as error:
            raise BadInput(
                f"{self._model} failed in OpenVINO at batch {len(batch)}: {what_it_says(error)}",
                "Try a smaller batch; if it fails at 1, compile the model again.",
            ) from error

    def close(self) -> None:
        """Free the networks; a second call does nothing."""
        self._networks = None
        self._opened = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _requests(self, batch: int) -> _Requests:
        """Of the network for this batch size, compiled now where it is the first of its size."""
        found = self._opened.get(batch)
        if found is not None:
            return found
        with self._opening:
            own = batch if len(self._opened) < self._own_batches else None
            key = batch if batch in self._opened else own
            if key not in self._opened:
                if self._networks is None:
                    raise closed()
                self._opened[key] = _Requests(self._networks.compiled(key))
            return self._opened[key]


def _first_run(requests: _Requests, images: FloatArray) -> None:
    """Run once in this process before two threads may.

    What OpenVINO's binding looks up at its first run, two threads at a time wait for, each for the
    other, with the interpreter's lock held.
    """
    global _has_run
    with _FIRST:
        if not _has_run:
            requests.run(images)
            _has_run = True


class _Requests:
    """A compiled network and its idle requests: one run each at a time."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: deque[Any] = deque()

    def run(self, images: FloatArray) -> FloatArray:
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            found = request.infer({0: images}, share_inputs=True)
            return np.array(found[0], np.float32)
        finally:
            self._idle.append(request)
