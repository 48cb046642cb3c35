"""A TensorRT library and a CUDA runtime that run on the host: for the session's own logic alone.

Nothing here says anything about NVIDIA's libraries. The fakes are strict where a GPU would be
silent: work happens only when a stream is waited for, memory is checked for its bounds and its
life, and a captured graph sees the shape that its context has when the graph is launched, not the
one that it had when the graph was captured.

The fake network is ``logits = mean of each channel, repeated``: see :func:`expected`.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from mimiq.errors import EnvironmentLacks
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.runtime.tensorrt.cuda import PinnedArray
from mimiq.runtime.tensorrt.products import RTX
from mimiq.runtime.tensorrt.session import TensorRTSession

SIZE, CLASSES = 4, 6
SHAPE = (3, SIZE, SIZE)
SCRATCH = 1 << 10
MAX = 8  # images in the fake engine's largest batch

FloatArray = npt.NDArray[np.float32]
Work = Callable[[], None]


def expected(images: FloatArray) -> FloatArray:
    return np.tile(images.mean(axis=(2, 3)), CLASSES // 3).astype(np.float32)


class Stream:
    """A queue of work, and the graph being captured, if any."""

    handles: dict[int, Stream] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.work: list[Work] = []
        self.captured: list[Work] | None = None
        self.handle = 1000 + len(Stream.handles)
        Stream.handles[self.handle] = self

    def __int__(self) -> int:
        return self.handle

    def add(self, work: Work) -> None:
        (self.work if self.captured is None else self.captured).append(work)

    def finish(self) -> None:
        assert self.captured is None, "a stream that is being captured was waited for"
        work, self.work = self.work, []
        for item in work:
            item()


class FakeCuda:
    """Device memory is host memory with bounds."""

    device = 0

    def __init__(self, memory: int = 1 << 30) -> None:
        self.free_bytes = memory
        self.buffers: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.counts = dict.fromkeys(("launch", "capture", "to_device", "to_host", "on_device"), 0)
        self.waits: list[int] = []
        self.refuse_capture = False
        self.open_handles = 0
        self._clock = 0.0

    def use_device(self) -> None:
        pass

    def allocate(self, size: int) -> int:
        if size > self.free_bytes:
            raise EnvironmentLacks(f"CUDA could not allocate {size} bytes: out of memory.", "")
        buffer = (ctypes.c_byte * max(size, 1))()
        self.free_bytes -= size
        self.buffers[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def free(self, address: int) -> None:
        self.free_bytes += len(self.buffers.pop(address))

    def allocate_pinned(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> PinnedArray:
        array = np.full(shape, np.nan, dtype)
        self.pinned[array.ctypes.data] = array
        return PinnedArray(array, array.ctypes.data)

    def free_pinned(self, pinned: PinnedArray) -> None:
        del self.pinned[pinned.address]

    def check(self, address: int, size: int) -> None:
        """Fail unless the memory is allocated and large enough."""
        for start, buffer in self.buffers.items():
            if start <= address and address + size <= start + len(buffer):
                return
        raise AssertionError(f"{size} bytes at {address:#x} are not device memory")

    def _copy(self, target: int, source: int, size: int, stream: Any) -> None:
        stream.add(lambda: ctypes.memmove(target, source, size))

    def copy_to_device(self, device: int, host: int, size: int, stream: Any) -> None:
        self.check(device, size)
        self.counts["to_device"] += 1
        self._copy(device, host, size, stream)

    def copy_to_host(self, host: int, device: int, size: int, stream: Any) -> None:
        self.check(device, size)
        self.counts["to_host"] += 1
        self._copy(host, device, size, stream)

    def copy_on_device(self, target: int, source: int, size: int, stream: Any) -> None:
        self.check(target, size)
        self.check(source, size)
        self.counts["on_device"] += 1
        self._copy(target, source, size, stream)

    def create_stream(self) -> Stream:
        self.open_handles += 1
        return Stream()

    def destroy_stream(self, stream: Stream) -> None:
        self.open_handles -= 1

    def synchronize(self, stream: Stream) -> None:
        stream.finish()

    def create_event(self, timing: bool = False) -> list[float]:
        self.open_handles += 1
        return []

    def destroy_event(self, event: list[float]) -> None:
        self.open_handles -= 1

    def record(self, event: list[float], stream: Stream) -> None:
        self._clock += 1.0
        event[:] = [self._clock]

    def elapsed_ms(self, start: list[float], end: list[float]) -> float:
        return end[0] - start[0]

    def wait_for_stream(self, stream: Stream, other: int) -> None:
        self.waits.append(other)

    def begin_capture(self, stream: Stream) -> None:
        assert not stream.work, "captured while work was pending"
        stream.captured = []

    def end_capture(self, stream: Stream) -> list[Work]:
        if self.refuse_capture:
            raise EnvironmentLacks("CUDA could not capture a CUDA graph.", "")
        graph, stream.captured = stream.captured, None
        assert graph is not None
        self.counts["capture"] += 1
        self.open_handles += 1
        return graph

    def abandon_capture(self, stream: Stream) -> None:
        stream.captured = None

    def launch(self, graph: list[Work], stream: Stream) -> None:
        self.counts["launch"] += 1
        stream.work += graph

    def destroy_graph(self, graph: list[Work]) -> None:
        self.open_handles -= 1


class FakeContext:
    """Runs the fake network on the addresses and the shape it was told last."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def set_device_memory(self, address: int, size: int) -> None:
        assert size == SCRATCH
        self.engine.cuda.check(address, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "images"
        assert shape[1:] == SHAPE
        if not self.engine.batches[0] <= shape[0] <= self.engine.batches[2]:
            self.engine.say("ERROR", "the shape is outside of the profile")
            return False
        self.shape = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return self.engine.capturable

    def execute_async_v3(self, stream: int) -> bool:
        if self.engine.broken:
            self.engine.say("ERROR", "IExecutionContext::enqueueV3: Error Code 1: Cuda (it broke)")
            return False
        self.engine.runs += 1
        self.engine.batch_log.append(self.shape[0])
        stream_ = Stream.handles[stream]
        addresses = dict(self.addresses)
        shape = self.shape if stream_.captured is None else None
        stream_.add(lambda: self._compute(addresses, shape))
        return True

    def _compute(self, addresses: dict[str, int], shape: tuple[int, ...] | None) -> None:
        shape = shape or self.shape
        images = self._array(addresses["images"], shape)
        self._array(addresses["logits"], (shape[0], CLASSES))[...] = expected(images)

    def _array(self, address: int, shape: tuple[int, ...]) -> FloatArray:
        size = 4 * int(np.prod(shape))
        self.engine.cuda.check(address, size)
        raw = (ctypes.c_byte * size).from_address(address)
        return np.frombuffer(raw, np.float32).reshape(shape)


class FakeCache:
    def __init__(self) -> None:
        self.content = b""

    def deserialize(self, content: bytes) -> bool:
        self.content = content
        return True

    def serialize(self) -> bytes:
        return self.content + b"+"


class FakeConfig:
    def __init__(self) -> None:
        self.strategy: Any = None
        self.cache: FakeCache | None = None
        self.dynamic_shapes_kernel_specialization_strategy: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> FakeCache:
        return FakeCache()

    def set_runtime_cache(self, cache: FakeCache) -> bool:
        self.cache = cache
        return True


class FakeEngine:
    """An engine with a profile; the batch is dynamic unless smallest and largest are equal."""

    num_io_tensors = 2
    device_memory_size_v2 = SCRATCH

    def __init__(self, cuda: FakeCuda, batches: tuple[int, int, int]) -> None:
        self.cuda = cuda
        self.batches = batches
        self.capturable = True
        self.broken = False
        self.runs = 0
        self.batch_log: list[int] = []
        self.contexts = 0
        self.config: FakeConfig | None = None
        self.logger: Any = None
        self.input_shape: tuple[int, ...] = (-1, *SHAPE)
        self.output_shape: tuple[int, ...] = (-1, CLASSES)

    def say(self, severity: str, text: str) -> None:
        self.logger.log(severity, text)

    def get_tensor_name(self, index: int) -> str:
        return ("images", "logits")[index]

    def get_tensor_mode(self, name: str) -> str:
        return "INPUT" if name == "images" else "OUTPUT"

    def get_tensor_dtype(self, name: str) -> str:
        return "FLOAT"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.input_shape if name == "images" else self.output_shape

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [(batch, *SHAPE) for batch in self.batches]

    def create_runtime_config(self) -> FakeConfig:
        self.config = FakeConfig()
        return self.config

    def create_execution_context(self, config: Any) -> FakeContext:
        assert config.strategy == "USER_MANAGED"
        assert config.dynamic_shapes_kernel_specialization_strategy == "EAGER"
        self.contexts += 1
        return FakeContext(self)


class FakeLogger:
    """The base that a library's logger derives from."""

    Severity = SimpleNamespace(
        INTERNAL_ERROR="INTERNAL_ERROR",
        ERROR="ERROR",
        WARNING="WARNING",
        INFO="INFO",
        VERBOSE="VERBOSE",
    )

    def __init__(self) -> None:
        self.thread = threading.get_ident()


def fake_library(engine: FakeEngine) -> Any:
    """The names of ``tensorrt_rtx`` that a session uses; its runtime loads the given engine."""

    class Runtime:
        def __init__(self, logger: Any) -> None:
            engine.logger = logger

        def deserialize_cuda_engine(self, content: bytes) -> FakeEngine | None:
            if content.startswith(b"refused"):
                engine.say("ERROR", "This GPU has compute capability 9.0, which is not supported.")
                return None
            return engine

    return SimpleNamespace(
        __version__="0.fake",
        ILogger=FakeLogger,
        Runtime=Runtime,
        TensorIOMode=SimpleNamespace(INPUT="INPUT", OUTPUT="OUTPUT"),
        DataType=SimpleNamespace(FLOAT="FLOAT"),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="USER_MANAGED"),
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="EAGER"),
        LayerInformationFormat=SimpleNamespace(JSON="JSON"),
    )


def open_fake(
    folder: Path,
    batches: tuple[int, int, int] = (1, 2, MAX),
    content: bytes = b"plan",
    **options: Any,
) -> tuple[TensorRTSession, FakeEngine, FakeCuda]:
    """A session on an engine in ``folder``; ``engine`` sets attributes of the fake one."""
    plan = folder / "engine.plan"
    plan.write_bytes(content)
    cuda: Any = options.pop("cuda", None) or FakeCuda()
    engine = FakeEngine(cuda, batches)
    for name, value in options.pop("engine", {}).items():
        setattr(engine, name, value)
    library = fake_library(engine)
    session = TensorRTSession(
        plan, library, RTX, Preprocessing(image_size=SIZE), cuda=cuda, **options
    )
    return session, engine, cuda
