"""TensorRT and TensorRT-RTX engines as sessions."""

from __future__ import annotations

import queue
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.runtime.session import OfOneProcess, as_input, closed
from mimiq.runtime.tensorrt.arrays import DeviceArray, DeviceView, is_device_array, view
from mimiq.runtime.tensorrt.cuda import Cuda, make_allocator
from mimiq.runtime.tensorrt.engine import LoadedEngine
from mimiq.runtime.tensorrt.lane import Lane
from mimiq.runtime.tensorrt.products import Product


class TensorRTSession(OfOneProcess):
    """An engine of one image input and one (B, classes) output, ready to run.

    Several threads may call :meth:`run` at once; as many as there are ``contexts`` run at the same
    time.

    Args:
        plan: the engine file.
        library: the imported ``tensorrt`` or ``tensorrt_rtx``.
        product: which of the two it is.
        preprocessing: lets ``run`` take uint8 pixels.
        contexts: how many batches may be on the GPU at once; each has its own stream and buffers.
        cuda_graphs: replay each batch size as a CUDA graph, captured at its second run.
        allocator: ``cuda-python`` or ``pycuda``.
        runtime_cache: TensorRT-RTX: keep compiled kernels in a file beside the engine, so that the
            next session starts at once.
        precision: added to the backend's name where the engine computes in another precision than
            its bundle says, ``fp8``.
        cuda: the CUDA calls; for tests.

    Attributes:
        path: the engine file.
        product: what runs it.
        tensors: its input and output, and the batches that it takes.

    Raises:
        BadInput: the engine is truncated, of another version, or has another interface.
        EnvironmentLacks: no driver, no GPU, no cuda-python, too little memory, or the product
            refuses this GPU; its own words are in the message.
    """

    def __init__(
        self,
        plan: str | Path,
        library: Any,
        product: Product,
        preprocessing: Preprocessing | None = None,
        *,
        contexts: int = 1,
        cuda_graphs: bool = True,
        allocator: str = "cuda-python",
        runtime_cache: bool = True,
        precision: str = "",
        cuda: Cuda | None = None,
    ) -> None:
        if contexts < 1:
            raise BadInput(f"{contexts} contexts cannot run.", "Ask for 1 or more.")
        self.path = Path(plan)
        self._preprocessing = preprocessing
        self.product = product
        self.backend = f"{product.label}-{precision}" if precision else product.label
        self.cuda = cuda or Cuda()
        self._allocator = make_allocator(allocator, self.cuda)
        self._all: list[Lane] = []
        self._arrays: weakref.WeakSet[DeviceArray] = weakref.WeakSet()
        cache_file = self.path.with_suffix(".cache") if runtime_cache else None
        self._engine: LoadedEngine | None = LoadedEngine(
            self.path, library, self.backend, cache_file
        )
        self.tensors = self._engine.tensors
        self.input_shape = self.tensors.image_shape
        self.num_classes = self.tensors.classes
        self.max_batch = self.tensors.largest
        self._lanes: queue.LifoQueue[Lane] = queue.LifoQueue()
        try:
            for _ in range(contexts):
                self._all.append(self._make_lane(self._engine, cuda_graphs))
        except EnvironmentLacks:
            self.close()
            raise
        for lane in self._all:
            self._lanes.put(lane)

    # Running --------------------------------------------------------------------------------------

    def run(self, images: Any, out: Any = None) -> Any:
        """Classify a batch of any size; more than the profile's largest goes in several parts.

        Args:
            images: float32 (B, C, H, W), normalised, as a numpy array or in CUDA memory (torch,
                CuPy, PyCUDA: anything with ``__cuda_array_interface__`` or DLPack), which is used
                in place; or a numpy array of uint8 pixels (B, H, W, C).
            out: for images in CUDA memory: a float32 (B, classes) device array for the logits.

        Returns:
            float32 (B, classes): a numpy array for numpy; ``out``, or a
            :class:`~mimiq.runtime.tensorrt.arrays.DeviceArray`, for images in CUDA memory. The
            work is done when this returns.

        Raises:
            BadInput: another dtype, shape or layout, or the session is closed.
            EnvironmentLacks: the GPU failed.
        """
        if self._engine is None:
            raise closed()
        self._require_here()
        if is_device_array(images):
            return self._run_device(images, out)
        if out is not None:
            raise BadInput(
                "``out`` is for images in CUDA memory.", "Leave it out, or move the images there."
            )
        batch = as_input(images, self.input_shape, self._preprocessing)
        logits = np.empty((len(batch), self.num_classes), np.float32)
        with self.lane() as lane:
            for start, stop in self._parts(len(batch)):
                logits[start:stop] = lane.run_host(batch[start:stop])
        return logits

    def _run_device(self, images: Any, out: Any) -> Any:
        with self.lane() as lane:
            source = view(images, int(lane.stream))
            batch = source.shape[0] if source.shape else 0
            self._expect(source, (batch, *self.input_shape), "images")
            result = out
            if out is None:
                address = self._allocator.allocate(self.tensors.output_bytes(batch))
                shape = (batch, self.num_classes)
                result = DeviceArray(address, shape, self._allocator.free)
                self._arrays.add(result)
            target = view(result, int(lane.stream))
            self._expect(target, (batch, self.num_classes), "out")
            for stream in {source.stream, target.stream} - {None}:
                self.cuda.wait_for_stream(lane.stream, int(stream or 0))
            for start, stop in self._parts(batch):
                place = target.address + self.tensors.output_bytes(start)
                lane.run_device(source, start, stop - start, place)
            self.cuda.synchronize(lane.stream)
        return result

    def _parts(self, batch: int) -> Iterator[tuple[int, int]]:
        for start in range(0, batch, self.max_batch):
            yield start, min(start + self.max_batch, batch)

    def _expect(self, array: DeviceView, shape: tuple[int, ...], what: str) -> None:
        if array.dtype == np.float32 and array.shape == shape and array.contiguous:
            return
        layout = "" if array.contiguous else ", not contiguous"
        raise BadInput(
            f"{what} in CUDA memory are {array.dtype} {array.shape}{layout}; "
            f"this engine takes contiguous float32 {shape}.",
            "Convert the array first, e.g. images.float().contiguous().",
        )

    @contextmanager
    def lane(self) -> Iterator[Lane]:
        """A lane for this thread's use alone; waits until one is free."""
        lane = self._lanes.get()
        try:
            self.cuda.use_device()
            yield lane
        finally:
            self._lanes.put(lane)

    # Opening and closing --------------------------------------------------------------------------

    def _make_lane(self, engine: LoadedEngine, graphs: bool) -> Lane:
        return Lane(
            self.cuda, self._allocator, self.tensors, engine.make_context, graphs, engine.words
        )

    def inspect(self) -> str:
        """The engine inspector's JSON, as ``mimiq.export.tensorrt.inspector`` reads it.

        Raises:
            BadInput: the session is closed.
        """
        if self._engine is None:
            raise closed()
        return self._engine.inspect()

    def close(self) -> None:
        """Free the engine and every array it gave out; a second call does nothing."""
        if self._engine is None or self._forked:
            return
        self.cuda.use_device()
        self._engine.save_cache()
        for array in list(self._arrays):
            array.release()
        for lane in self._all:
            lane.close()
        self._all.clear()
        self._engine.release()
        self._engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
