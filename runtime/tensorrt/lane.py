"""One stream of work on the GPU: execution contexts, buffers and CUDA graphs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mimiq.errors import EnvironmentLacks
from mimiq.runtime.preprocessing import FloatArray
from mimiq.runtime.tensorrt.arrays import DeviceView
from mimiq.runtime.tensorrt.cuda import Allocator, Cuda, PinnedArray

_KEPT_CONTEXTS = 16  # batch sizes that keep a context of their own, the latest used first
_KEPT_GRAPHS = 8  # per batch size: pairs of addresses that keep a graph
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Tensors:
    """The engine's interface, as every lane needs it.

    Attributes:
        input_name, output_name: of its two tensors.
        image_shape: (channels, height, width).
        classes: width of the logits.
        smallest, largest: batches of the optimisation profile.
        scratch_bytes: device memory that a context works in.
    """

    input_name: str
    output_name: str
    image_shape: tuple[int, int, int]
    classes: int
    smallest: int
    largest: int
    scratch_bytes: int

    def input_bytes(self, batch: int) -> int:
        return batch * int(np.prod(self.image_shape)) * _FLOAT_BYTES

    def output_bytes(self, batch: int) -> int:
        return batch * self.classes * _FLOAT_BYTES


class Lane:
    """What one thread at a time runs an engine with: a stream, buffers, contexts, graphs.

    Every batch size has an execution context of its own, since a captured graph must not see its
    context's shapes change; all contexts of a lane share one scratch memory, for they run in turn.

    Args:
        make_context: a new execution context without device memory.
        graphs: capture a CUDA graph the second time the same work is asked for. The first time
            lets TensorRT-RTX compile the kernels, which cannot be captured.
        words: what the library's log says, for an error.
    """

    def __init__(
        self,
        cuda: Cuda,
        allocator: Allocator,
        tensors: Tensors,
        make_context: Callable[[], Any],
        graphs: bool,
        words: Callable[[], str],
    ) -> None:
        self._cuda = cuda
        self._allocator = allocator
        self._make_context = make_context
        self._words = words
        self.tensors = tensors
        self.graphs = graphs
        self._slots: OrderedDict[int, _Slot] = OrderedDict()
        self._pinned: tuple[PinnedArray, PinnedArray] | None = None
        self._buffers: list[int] = []
        self.stream = cuda.create_stream()
        try:
            self.input = self._buffer(tensors.input_bytes(tensors.largest))
            self.output = self._buffer(tensors.output_bytes(tensors.largest))
            self.scratch = self._buffer(tensors.scratch_bytes)
        except EnvironmentLacks:
            self.close()
            raise

    def _buffer(self, size: int) -> int:
        self._buffers.append(self._allocator.allocate(size))
        return self._buffers[-1]

    def run_host(self, images: FloatArray) -> FloatArray:
        """Logits of at most ``largest`` images in host memory: float32 (B, C, H, W)."""
        batch = len(images)
        staged_in, staged_out = self._staging()
        padded = max(batch, self.tensors.smallest)
        staged_in.array[:batch] = images
        self.copy_in(padded)
        self.enqueue(padded, self.input, self.output)
        self.copy_out(padded)
        self._cuda.synchronize(self.stream)
        logits: FloatArray = staged_out.array[:batch].copy()
        return logits

    def stage(self, generator: np.random.Generator, batch: int) -> None:
        """Put random images where the engine reads them, for a measurement."""
        images = self._staging()[0].array
        images[:batch] = generator.standard_normal(images[:batch].shape, dtype=np.float32)
        self.copy_in(batch)

    def copy_in(self, batch: int) -> None:
        """Enqueue the copy of the staged images to the GPU."""
        size = self.tensors.input_bytes(batch)
        self._cuda.copy_to_device(self.input, self._staging()[0].address, size, self.stream)

    def copy_out(self, batch: int) -> None:
        """Enqueue the copy of the logits to host memory."""
        size = self.tensors.output_bytes(batch)
        self._cuda.copy_to_host(self._staging()[1].address, self.output, size, self.stream)

    def run_device(self, images: DeviceView, offset: int, batch: int, target: int) -> None:
        """Enqueue images ``offset … offset + batch`` of a device array; logits go to ``target``.

        Batches below the profile's smallest go through the lane's own, larger buffers.
        """
        source = images.address + self.tensors.input_bytes(offset)
        if batch >= self.tensors.smallest:
            self.enqueue(batch, source, target)
            return
        size = self.tensors.input_bytes(batch)
        self._cuda.copy_on_device(self.input, source, size, self.stream)
        self.enqueue(self.tensors.smallest, self.input, self.output)
        size = self.tensors.output_bytes(batch)
        self._cuda.copy_on_device(target, self.output, size, self.stream)

    def enqueue(self, batch: int, source: int, target: int) -> None:
        """Enqueue one inference on the lane's stream, as a graph where there is one."""
        slot = self._slot(batch)
        key = (source, target)
        graph = slot.graphs.get(key)
        if graph is not None:
            slot.graphs.move_to_end(key)
            self._cuda.launch(graph, self.stream)
            return
        if not self.graphs or key != slot.last or not self._capture(slot, key):
            slot.last = key
            self._execute(slot, key)

    def _slot(self, batch: int) -> _Slot:
        slot = self._slots.get(batch)
        if slot is None:
            if len(self._slots) >= _KEPT_CONTEXTS:
                self._cuda.synchronize(self.stream)
                self._drop(self._slots.popitem(last=False)[1])
            slot = self._slots[batch] = self._new_slot(batch)
        self._slots.move_to_end(batch)
        return slot

    def _new_slot(self, batch: int) -> _Slot:
        context = self._make_context()
        if context is None:
            raise EnvironmentLacks(
                f"The engine's execution context could not be made: {self._words()}",
                "Free GPU memory, or build the engine again on this host with mimiq build.",
            )
        context.set_device_memory(self.scratch, self.tensors.scratch_bytes)
        shape = (batch, *self.tensors.image_shape)
        if not context.set_input_shape(self.tensors.input_name, shape):
            raise EnvironmentLacks(
                f"The engine refuses a batch of {batch}: {self._words()}",
                "Build it again with mimiq build and a profile that holds this batch.",
            )
        return _Slot(context)

    def _execute(self, slot: _Slot, key: tuple[int, int]) -> None:
        names = self.tensors.input_name, self.tensors.output_name
        for name, address in zip(names, key, strict=True):
            slot.context.set_tensor_address(name, address)
        if not slot.context.execute_async_v3(int(self.stream)):
            raise EnvironmentLacks(
                f"The engine failed: {self._words()}",
                "Build it again on this host with mimiq build, or use `backend=ort`.",
            )

    def _capture(self, slot: _Slot, key: tuple[int, int]) -> bool:
        """Capture the work as a graph and launch it; False where it cannot be captured."""
        capturable = getattr(slot.context, "is_stream_capturable", None)
        if capturable is not None and not capturable(int(self.stream)):
            self.graphs = False
            return False
        self._cuda.synchronize(self.stream)
        self._cuda.begin_capture(self.stream)
        try:
            self._execute(slot, key)
            graph = self._cuda.end_capture(self.stream)
        except EnvironmentLacks:
            self._cuda.abandon_capture(self.stream)
            self.graphs = False
            return False
        if len(slot.graphs) >= _KEPT_GRAPHS:
            self._cuda.destroy_graph(slot.graphs.popitem(last=False)[1])
        slot.graphs[key] = graph
        self._cuda.launch(graph, self.stream)
        return True

    @property
    def captured(self) -> int:
        """How many graphs the lane holds."""
        return sum(len(slot.graphs) for slot in self._slots.values())

    def _staging(self) -> tuple[PinnedArray, PinnedArray]:
        if self._pinned is None:
            largest = self.tensors.largest
            shapes = (largest, *self.tensors.image_shape), (largest, self.tensors.classes)
            images = self._cuda.allocate_pinned(shapes[0], np.float32)
            images.array[...] = 0
            self._pinned = images, self._cuda.allocate_pinned(shapes[1], np.float32)
        return self._pinned

    def _drop(self, slot: _Slot) -> None:
        for graph in slot.graphs.values():
            self._cuda.destroy_graph(graph)

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        for slot in self._slots.values():
            self._drop(slot)
        self._slots.clear()
        for pinned in self._pinned or ():
            self._cuda.free_pinned(pinned)
        self._pinned = None
        while self._buffers:
            self._allocator.free(self._buffers.pop())
        if self.stream is not None:
            self._cuda.destroy_stream(self.stream)
            self.stream = None


class _Slot:
    """A batch size's context, its graphs by (input, output) address, and the last pair run."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.graphs: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self.last: tuple[int, int] | None = None
