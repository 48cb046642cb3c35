"""Networks compiled by OpenVINO for the CPU, and kept on disk so that they open quickly again."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mimiq.errors import BadInput
from mimiq.files import FileEntry, exhausted
from mimiq.runtime.host import check_count, cpu_name, instruction_sets, usable_cores
from mimiq.runtime.openvino import kept, weights
from mimiq.runtime.openvino.kept import Kept
from mimiq.runtime.openvino.library import import_openvino, what_it_says
from mimiq.version import __version__

Hint = Literal["latency", "throughput"]
Floats = Literal["auto", "float32", "bfloat16", "float16"]
Weights = Literal["auto", "compressed", "expanded"]
_FLOATS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_DEVICE = "CPU"
_DAMAGED = (
    "The file is damaged or uses operators this version lacks; compile the model again, or update "
    "openvino."
)
# What decides which kernels the library chooses, besides the CPU.
_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")


class Refused(BadInput):
    """The library does not take a file, which may be as it should be."""


@dataclass(frozen=True)
class Settings:
    """How OpenVINO is to run a network.

    Attributes:
        threads: of all streams together; None for one a core that this process may use.
        streams: runs that may go on at the same time, from threads of the caller's; None for what
            the hint implies: one for ``latency``.
        hint: what the library's own choices aim at.
        floats: what is computed where nothing is quantised; ``auto`` is the library's choice:
            bfloat16 where the CPU multiplies it, else float32.
        weights: of a network that quantises nothing else: ``compressed`` keeps them in INT4 and
            expands them in every run, ``expanded`` does it once, for four to eight times the
            memory; ``auto`` is the quicker one for this CPU.

    Raises:
        BadInput: a value that is out of range.
    """

    threads: int | None = None
    streams: int | None = None
    hint: Hint = "latency"
    floats: Floats = "auto"
    weights: Weights = "auto"

    def __post_init__(self) -> None:
        check_count(self.threads, "threads")
        check_count(self.streams, "streams")
        for name, given, known in (
            ("hint", self.hint, ("latency", "throughput")),
            ("floats", self.floats, ("auto", *_FLOATS)),
            ("weights", self.weights, ("auto", "compressed", "expanded")),
        ):
            if given not in known:
                raise BadInput(f"`{name}={given}` is unknown.", f"Choose {' or '.join(known)}.")

    @property
    def properties(self) -> dict[str, str]:
        """As the library names them."""
        found = {"PERFORMANCE_HINT": self.hint.upper()}
        threads = self.threads or _default_threads()
        if threads:
            found["INFERENCE_NUM_THREADS"] = str(threads)
        if self.streams is not None:
            found["NUM_STREAMS"] = str(self.streams)
        if self.floats != "auto":
            found["INFERENCE_PRECISION_HINT"] = _FLOATS[self.floats]
        return found


@dataclass(frozen=True)
class Signature:
    """What a graph takes and gives.

    Attributes:
        input_shape: (channels, height, width).
        width: of the output (B, width).
        batch: the only batch it takes; None for any.
    """

    input_shape: tuple[int, int, int]
    width: int
    batch: int | None

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Signature:
        channels, height, width = map(int, data["input_shape"])
        batch = data["batch"]
        return Signature(
            (channels, height, width), int(data["width"]), None if batch is None else int(batch)
        )


class Networks:
    """One graph, compiled for each batch size that is asked for, or for all of them.

    Args:
        path: the ``.onnx`` file.
        settings: how to run it.
        cache: keep what was compiled in the user's cache folder.

    Raises:
        BadInput: the file is missing, corrupt, or no network of ours.
        EnvironmentLacks: the library is absent or too old.
    """

    def __init__(self, path: Path, settings: Settings, *, cache: bool = True) -> None:
        self.path, self._settings, self._cache = path, settings, cache
        self._library = import_openvino()
        self._core = self._library.Core()
        try:
            self._entry = FileEntry.of(path)
        except OSError as error:
            raise exhausted(error, f"{path} cannot be read") or BadInput(
                f"{path} cannot be read: {error.strerror}.",
                "Give an ONNX file, or compile the model again.",
            ) from error
        self._found: dict[int | None, Kept] = {}
        self.signature: Signature = self._kept_signature() or self._read_signature()

    def compiled(self, batch: int | None) -> Any:
        """``openvino.CompiledModel``, from the disk where it was compiled before.

        Args:
            batch: the only size that it takes, which is quicker; None for any size.

        Raises:
            BadInput: the library cannot compile it.
        """
        before = self._found.pop(batch, None) or self._kept(batch)
        if before is not None:
            with suppress(RuntimeError):  # what the library cannot take is compiled again
                return self._core.import_model(before.content, _DEVICE, self._settings.properties)
        network = self._network.clone()
        try:
            if batch is not None and self.signature.batch is None:
                network.reshape([batch, *self.signature.input_shape])
            found = self._core.compile_model(network, _DEVICE, self._settings.properties)
        except RuntimeError as error:
            raise self._refused(error) from error
        self._keep(batch, found)
        return found

    @cached_property
    def _network(self) -> Any:
        try:
            network = self._core.read_model(self.path)
        except RuntimeError as error:
            raise self._refused(error) from error
        if self._expands_weights and weights.are_all_that_is_quantized(network):
            weights.expand(network)
        return network

    @cached_property
    def _expands_weights(self) -> bool:
        if self._settings.weights != "auto":
            return self._settings.weights == "expanded"
        capabilities = self._core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        return weights.quicker_expanded(capabilities, self._settings.floats)

    def _refused(self, error: RuntimeError) -> Refused:
        version = str(self._library.__version__).partition("-")[0]
        return Refused(
            f"{self.path} cannot be opened by OpenVINO {version}: {what_it_says(error)}", _DAMAGED
        )

    def _read_signature(self) -> Signature:
        inputs, outputs = self._network.inputs, self._network.outputs
        shape = inputs[0].partial_shape if inputs else None
        out = outputs[0].partial_shape if outputs else None
        if (
            len(inputs) != 1
            or shape is None
            or out is None
            or len(shape) != 4
            or len(out) != 2
            or any(shape[axis].is_dynamic for axis in (1, 2, 3))
            or out[1].is_dynamic
        ):
            raise BadInput(
                f"{self.path} is no image classifier of ours: it takes {shape} and gives {out}.",
                "One input (B, channels, height, width) and one output (B, classes) are needed.",
            )
        channels, height, width = (shape[axis].get_length() for axis in (1, 2, 3))
        batch = None if shape[0].is_dynamic else shape[0].get_length()
        return Signature((channels, height, width), out[1].get_length(), batch)

    def _identity(self, batch: int | None) -> dict[str, Any]:
        """All that decides what the library makes of the file."""
        return {
            "mimiq": __version__,
            "openvino": str(self._library.__version__),
            "file": asdict(self._entry),
            "batch": batch,
            "properties": self._settings.properties,
            "expanded": self._expands_weights,
            "cpu": [platform.machine(), cpu_name(), instruction_sets()],
            "variables": {name: os.environ.get(name) for name in _VARIABLES},
        }

    def _kept(self, batch: int | None) -> Kept | None:
        return kept.read(self._identity(batch)) if self._cache else None

    def _kept_signature(self) -> Signature | None:
        """Written beside a network, so that opening it again need not read the graph."""
        for batch in (1, None):
            found = self._kept(batch)
            if found is not None:
                self._found[batch] = found
                with suppress(KeyError, TypeError, ValueError):
                    return Signature.from_json(found.described)
        return None

    def _keep(self, batch: int | None, compiled: Any) -> None:
        if not self._cache:
            return
        with suppress(RuntimeError):  # a library that cannot write it down
            content = compiled.export_model()
            content = content if isinstance(content, bytes) else content.getvalue()
            kept.write(self._identity(batch), Kept(content, asdict(self.signature)))


def _default_threads() -> int | None:
    """None lets the library take all cores; it does not see a container's share of them."""
    usable = usable_cores()
    return usable if usable < (os.cpu_count() or 1) else None
