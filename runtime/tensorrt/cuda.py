"""The CUDA calls that a TensorRT session needs, through cuda-python; nothing else calls CUDA.

Each method is one call with its error checked, so that a session's own logic can be tested with
another object in the place of :class:`Cuda`.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from mimiq.errors import BadInput, EnvironmentLacks, pip_install

_MISSING = "cuda-python is not installed, and TensorRT sessions reach the GPU through it."
_INSTALL = "Install it with: pip install 'cuda-python>=12.6' (the extras rtx and trt bring it)"


@dataclass(frozen=True)
class Gpu:
    """The device that sessions run on.

    Attributes:
        name: as the driver gives it, ``NVIDIA H100 80GB HBM3``.
        compute_capability: ``9.0``.
        memory_bytes: all of the device's memory.
        driver: the highest CUDA version that the driver supports, ``13.0``.
    """

    name: str
    compute_capability: str
    memory_bytes: int
    driver: str


class Allocator(Protocol):
    """Where device memory comes from."""

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes (at least 1) of device memory, aligned for any type."""

    def free(self, address: int) -> None:
        """Give back what :meth:`allocate` returned."""


class Cuda:
    """CUDA's runtime on one device. Streams, events and graphs are opaque handles.

    Args:
        device: ordinal of the GPU among those that the process sees.

    Raises:
        EnvironmentLacks: no cuda-python, no driver, or no such device.
    """

    def __init__(self, device: int = 0) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise EnvironmentLacks(_MISSING, _INSTALL) from error
        self._runtime: Any = runtime
        self.device = device
        self.use_device()

    def use_device(self) -> None:
        """Make this device the calling thread's; every thread has its own."""
        self._check(self._runtime.cudaSetDevice(self.device), "select the GPU")

    def gpu(self) -> Gpu:
        properties = self._check(
            self._runtime.cudaGetDeviceProperties(self.device), "query the GPU"
        )
        driver = self._check(self._runtime.cudaDriverGetVersion(), "query the driver")
        name = properties.name
        return Gpu(
            name=name.decode() if isinstance(name, bytes) else str(name),
            compute_capability=f"{properties.major}.{properties.minor}",
            memory_bytes=int(properties.totalGlobalMem),
            driver=f"{driver // 1000}.{driver % 1000 // 10}",
        )

    # Memory ---------------------------------------------------------------------------------------

    def allocate(self, size: int) -> int:
        return int(self._check(self._runtime.cudaMalloc(max(size, 1)), f"allocate {size} bytes"))

    def free(self, address: int) -> None:
        self._runtime.cudaFree(address)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> PinnedArray:
        """A page-locked host array: copies from and to it run beside other work."""
        size = max(int(np.prod(shape)) * np.dtype(dtype).itemsize, 1)
        flags = self._runtime.cudaHostAllocDefault
        address = int(self._check(self._runtime.cudaHostAlloc(size, flags), f"pin {size} bytes"))
        raw = memoryview((ctypes.c_byte * size).from_address(address)).cast("B")
        array = np.frombuffer(raw, dtype, count=int(np.prod(shape))).reshape(shape)
        return PinnedArray(array, address)

    def free_pinned(self, pinned: PinnedArray) -> None:
        self._runtime.cudaFreeHost(pinned.address)

    def copy_to_device(self, device: int, host: int, size: int, stream: Any) -> None:
        self._copy(device, host, size, stream, "cudaMemcpyHostToDevice")

    def copy_to_host(self, host: int, device: int, size: int, stream: Any) -> None:
        self._copy(host, device, size, stream, "cudaMemcpyDeviceToHost")

    def copy_on_device(self, target: int, source: int, size: int, stream: Any) -> None:
        self._copy(target, source, size, stream, "cudaMemcpyDeviceToDevice")

    def _copy(self, target: int, source: int, size: int, stream: Any, kind: str) -> None:
        direction = getattr(self._runtime.cudaMemcpyKind, kind)
        result = self._runtime.cudaMemcpyAsync(target, source, size, direction, stream)
        self._check(result, f"copy {size} bytes")

    # Streams and events ---------------------------------------------------------------------------

    def create_stream(self) -> Any:
        flags = self._runtime.cudaStreamNonBlocking
        return self._check(self._runtime.cudaStreamCreateWithFlags(flags), "create a stream")

    def destroy_stream(self, stream: Any) -> None:
        self._runtime.cudaStreamDestroy(stream)

    def synchronize(self, stream: Any) -> None:
        self._check(self._runtime.cudaStreamSynchronize(stream), "finish the work on the GPU")

    def create_event(self, timing: bool = False) -> Any:
        flags = self._runtime.cudaEventDefault if timing else self._runtime.cudaEventDisableTiming
        return self._check(self._runtime.cudaEventCreateWithFlags(flags), "create an event")

    def destroy_event(self, event: Any) -> None:
        self._runtime.cudaEventDestroy(event)

    def record(self, event: Any, stream: Any) -> None:
        self._check(self._runtime.cudaEventRecord(event, stream), "record an event")

    def wait_for_stream(self, stream: Any, other: int) -> None:
        """Let ``stream`` go on only after what is now in the stream with the handle ``other``."""
        event = self.create_event()
        try:
            self.record(event, other)
            self._check(self._runtime.cudaStreamWaitEvent(stream, event, 0), "order two streams")
        finally:
            self.destroy_event(event)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two recorded timing events that have happened."""
        return float(self._check(self._runtime.cudaEventElapsedTime(start, end), "read a timer"))

    # Graphs ---------------------------------------------------------------------------------------

    def begin_capture(self, stream: Any) -> None:
        # Thread-local: other threads may allocate or synchronise meanwhile.
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._check(self._runtime.cudaStreamBeginCapture(stream, mode), "capture a CUDA graph")

    def end_capture(self, stream: Any) -> Any:
        """The executable graph of what was enqueued since :meth:`begin_capture`."""
        graph = self._check(self._runtime.cudaStreamEndCapture(stream), "capture a CUDA graph")
        try:
            return self._check(self._runtime.cudaGraphInstantiate(graph, 0), "build a CUDA graph")
        finally:
            self._runtime.cudaGraphDestroy(graph)

    def abandon_capture(self, stream: Any) -> None:
        """End a capture that failed; the stream can be used again."""
        result = self._runtime.cudaStreamEndCapture(stream)
        if int(result[0]) == 0 and int(result[1]) != 0:
            self._runtime.cudaGraphDestroy(result[1])
        self._runtime.cudaGetLastError()

    def launch(self, graph: Any, stream: Any) -> None:
        self._check(self._runtime.cudaGraphLaunch(graph, stream), "launch a CUDA graph")

    def destroy_graph(self, graph: Any) -> None:
        self._runtime.cudaGraphExecDestroy(graph)

    def _check(self, result: Any, what: str) -> Any:
        """The value of a call that returns ``(error, value)`` or ``(error,)``."""
        error, *values = result
        if int(error) != 0:
            _, text = self._runtime.cudaGetErrorString(error)
            reason = text.decode() if isinstance(text, bytes) else str(text)
            step = "Check the driver with nvidia-smi."
            if "memory" in reason:
                step = "Use a smaller batch, or free GPU memory."
            raise EnvironmentLacks(f"CUDA could not {what}: {reason}.", step)
        return values[0] if values else None


@dataclass(frozen=True)
class PinnedArray:
    """A page-locked numpy array and its address. It lives until ``free_pinned``."""

    array: npt.NDArray[Any]
    address: int


class PyCudaAllocator:
    """Device memory through PyCUDA, in the context that the CUDA runtime uses as well.

    Raises:
        EnvironmentLacks: PyCUDA is not installed or finds no device.
    """

    def __init__(self, device: int = 0) -> None:
        try:
            from pycuda import driver
        except ImportError as error:
            raise EnvironmentLacks(
                "PyCUDA is not installed, and it was asked for as the allocator.",
                f"Install it with: {pip_install('pycuda')}",
            ) from error
        try:
            driver.init()
            self._context: Any = driver.Device(device).retain_primary_context()
        except driver.Error as error:
            raise EnvironmentLacks(
                f"PyCUDA cannot use GPU {device}: {error}", "Check the driver with nvidia-smi."
            ) from error
        self._driver: Any = driver
        self._held: dict[int, Any] = {}

    def allocate(self, size: int) -> int:
        self._context.push()
        try:
            memory = self._driver.mem_alloc(max(size, 1))
        except self._driver.MemoryError as error:
            raise EnvironmentLacks(
                f"PyCUDA could not allocate {size} bytes: {error}",
                "Use a smaller batch, or free GPU memory.",
            ) from error
        finally:
            self._context.pop()
        self._held[int(memory)] = memory
        return int(memory)

    def free(self, address: int) -> None:
        memory = self._held.pop(address, None)
        if memory is not None:
            self._context.push()
            try:
                memory.free()
            finally:
                self._context.pop()


def make_allocator(name: str, cuda: Cuda) -> Allocator:
    """``cuda-python`` or ``pycuda``.

    Raises:
        BadInput: another name.
        EnvironmentLacks: PyCUDA was asked for and is absent.
    """
    match name:
        case "cuda-python":
            return cuda
        case "pycuda":
            return PyCudaAllocator(cuda.device)
    raise BadInput(f"Allocator {name!r} is unknown.", "Choose cuda-python or pycuda.")


@functools.cache
def gpu_or_reason(device: int = 0) -> Gpu | str:
    """The GPU, or what keeps this host from having one and what to do. Prints nothing."""
    from mimiq.runtime.host import cuda_driver_present

    if not cuda_driver_present():
        return "No NVIDIA driver and GPU can be used on this host."
    try:
        return Cuda(device).gpu()
    except EnvironmentLacks as error:
        return f"{error.problem} {error.next_step}"
