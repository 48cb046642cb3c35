"""ONNX Runtime as backends: on the CPU, which every host has, and on an NVIDIA GPU."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.runtime.backend import Backend, Lack

if TYPE_CHECKING:
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession

_LOGGER = logging.getLogger(__name__)
_OPTIONS = frozenset({"threads", "spinning", "exact", "optimized_model"})


@dataclass(frozen=True)
class OnnxRuntime:
    """See :class:`mimiq.runtime.backend.Backend`."""

    name: str
    title: str
    device: Literal["cpu", "cuda"]
    extra: str | None = None
    options: frozenset[str] = _OPTIONS
    reads_graphs: bool = True

    @property
    def label(self) -> str:
        return f"onnxruntime-{self.device}"

    def why_not(self) -> Lack | None:
        from mimiq.runtime.onnxruntime.graph import import_onnxruntime, why_not_cuda

        try:
            library = import_onnxruntime()
        except EnvironmentLacks as error:
            return Lack(error.problem, remedy=error.next_step)
        return why_not_cuda(library) if self.device == "cuda" else None

    def suits(self, bundle: Bundle) -> bool:
        return self.device == "cpu" or self.why_not() is None

    def graph_of(self, bundle: Bundle) -> str:
        from mimiq.runtime.bundle import MODEL

        return MODEL

    def answering(self, label: str) -> Backend | None:
        return self if label == self.label else None

    def open(self, bundle: Bundle, **options: Any) -> OnnxRuntimeSession:
        from mimiq.runtime.bundle import CPU_MODEL, MODEL
        from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession

        def session(form: str) -> OnnxRuntimeSession:
            return OnnxRuntimeSession(
                bundle.file(form), bundle.preprocessing, device=self.device, **options
            )

        if self.device == "cpu" and bundle.has(CPU_MODEL):
            try:
                return session(CPU_MODEL)
            except BadInput as error:  # older releases lack some kernels of this form
                slower = session(MODEL)
                _LOGGER.warning("%s Opened %s instead, which is slower.", error.problem, MODEL)
                return slower
        return session(MODEL)

    def open_graph(self, path: Path, **options: Any) -> OnnxRuntimeSession:
        from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession

        return OnnxRuntimeSession(path, device=self.device, **options)


ORT = OnnxRuntime("ort", "ONNX Runtime on the CPU", "cpu")
ORT_CUDA = OnnxRuntime("ort-cuda", "ONNX Runtime on an NVIDIA GPU", "cuda")
