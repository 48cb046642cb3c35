"""An engine file, deserialised, with all that the library keeps of it."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.files import exhausted, replacing
from mimiq.runtime.tensorrt.lane import Tensors
from mimiq.runtime.tensorrt.messages import clean, collector
from mimiq.runtime.tensorrt.record import BUILD_AGAIN

_LOG_LINES = 50
_DAMAGED = ("magicTag", "header.size", "Serialization", "serialization", "deserialize")


class LoadedEngine:
    """An engine that the library has read; it makes execution contexts.

    Args:
        path: the engine file.
        library: the imported ``tensorrt`` or ``tensorrt_rtx``.
        name: of the backend, for errors.
        cache_file: TensorRT-RTX: where compiled kernels are kept; None to keep none.

    Attributes:
        tensors: its input and output, and the batches that it takes.

    Raises:
        BadInput: the engine is truncated, of another version, or has another interface.
        EnvironmentLacks: the library refuses this GPU; its own words are in the message.
    """

    def __init__(self, path: Path, library: Any, name: str, cache_file: Path | None) -> None:
        self._path = path
        self._library = library
        self._cache_file = cache_file
        self._messages: deque[Any] = deque(maxlen=_LOG_LINES)
        self._engine: Any = self._load(name)
        self.tensors = _tensors(path, self._engine, library)
        self._cache: Any = None
        self._config = self._make_config()

    def _load(self, name: str) -> Any:
        try:
            content = self._path.read_bytes()
        except OSError as error:
            raise exhausted(error, f"{self._path} cannot be read") or BadInput(
                f"{self._path} cannot be read: {error}.", BUILD_AGAIN
            ) from error
        # The library calls the logger as long as the runtime lives, and does not keep it alive.
        self._logger = collector(self._library, self._messages)
        self._runtime = self._library.Runtime(self._logger)
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            words = self.words()
            if any(sign in words for sign in _DAMAGED):
                raise BadInput(
                    f"{self._path} is truncated, or of another version: {words}", BUILD_AGAIN
                )
            raise EnvironmentLacks(
                f"{name} {self._library.__version__} does not load {self._path} on this "
                f"GPU: {words}",
                "Build the engine on this host with mimiq build, or use `backend=ort-cuda`.",
            )
        return engine

    def _make_config(self) -> Any:
        """The contexts' configuration; None where the library (TensorRT before 10.9) has none."""
        if not hasattr(self._engine, "create_runtime_config"):
            return None
        config = self._engine.create_runtime_config()
        strategy = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        config.set_execution_context_allocation_strategy(strategy)
        kernels = getattr(self._library, "DynamicShapesKernelSpecializationStrategy", None)
        if kernels is not None:
            # Lazily compiled kernels would replace the ones in a graph captured meanwhile.
            config.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
        if self._cache_file is not None and hasattr(config, "create_runtime_cache"):
            self._cache = config.create_runtime_cache()
            with suppress(OSError):
                self._cache.deserialize(self._cache_file.read_bytes())  # refused if of another GPU
            config.set_runtime_cache(self._cache)
        return config

    def make_context(self) -> Any:
        """A new execution context, whose memory its user gives it."""
        if self._config is not None:
            return self._engine.create_execution_context(self._config)
        strategy = self._library.ExecutionContextAllocationStrategy.USER_MANAGED
        return self._engine.create_execution_context(strategy)

    def words(self) -> str:
        """The library's latest errors and warnings, without source locations."""
        serious = [m for m in self._messages if m.severity == "error"] or [
            m for m in self._messages if m.severity == "warning"
        ]
        return " ".join(dict.fromkeys(clean(m.text) for m in serious)) or "it gave no reason."

    def inspect(self) -> str:
        """The engine inspector's JSON, as ``mimiq.export.tensorrt.inspector`` reads it."""
        inspector = self._engine.create_engine_inspector()
        format = self._library.LayerInformationFormat.JSON
        return str(inspector.get_engine_information(format))

    def save_cache(self) -> None:
        """Keep the compiled kernels for the next session."""
        if self._cache is None or self._cache_file is None:
            return
        content = bytes(self._cache.serialize())
        with suppress(OSError):  # a folder that cannot be written to costs the next start a second
            if self._cache_file.is_file() and self._cache_file.read_bytes() == content:
                return
            with replacing(self._cache_file) as temporary:
                temporary.write_bytes(content)

    def release(self) -> None:
        """Free it; its contexts are gone before."""
        # Contexts before the configuration, the engine before its runtime.
        self._config = self._cache = None
        self._engine = None
        self._runtime = None


def _tensors(path: Path, engine: Any, library: Any) -> Tensors:
    """The engine's one input and one output.

    Raises:
        BadInput: it has others.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [n for n in names if engine.get_tensor_mode(n) == library.TensorIOMode.INPUT]
    outputs = [n for n in names if n not in inputs]
    floats = all(engine.get_tensor_dtype(name) == library.DataType.FLOAT for name in names)
    shapes = [tuple(engine.get_tensor_shape(name)) for name in inputs + outputs]
    fits = len(inputs) == len(outputs) == 1 and floats
    fits = fits and [len(shape) for shape in shapes] == [4, 2]
    if not fits or min(*shapes[0][1:], shapes[1][1]) < 1:
        tensors = zip(inputs + outputs, shapes, strict=True)
        listed = ", ".join(f"{name} {shape}" for name, shape in tensors)
        raise BadInput(
            f"{path} is no image classifier of ours: its tensors are {listed}.",
            "One float32 input (B, channels, height, width) and one float32 output (B, classes) "
            "are needed.",
        )
    (_, channels, height, width), (_, classes) = shapes
    smallest = largest = shapes[0][0]
    if largest < 0:
        low, _, high = engine.get_tensor_profile_shape(inputs[0], 0)
        smallest, largest = int(low[0]), int(high[0])
    return Tensors(
        inputs[0],
        outputs[0],
        (channels, height, width),
        classes,
        smallest,
        largest,
        int(engine.device_memory_size_v2),
    )
