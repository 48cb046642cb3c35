"""From a bundle to a session of the backend that suits this host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimiq.errors import BadInput
from mimiq.runtime.bundle import CPU_MODEL, MODEL, Bundle
from mimiq.runtime.session import Session

BACKENDS = ("auto", "ort", "ort-cuda", "rtx", "trt")


def open_bundle(path: str | Path | Bundle, backend: str = "auto", **options: Any) -> Session:
    """Open a bundle for inference.

    Args:
        path: the bundle's folder, or a bundle already read.
        backend: ``ort`` (ONNX Runtime on the CPU), ``ort-cuda`` (ONNX Runtime on an NVIDIA GPU),
            ``rtx`` (TensorRT-RTX), ``trt`` (TensorRT), or ``auto``: a TensorRT engine if the
            bundle holds one that this host can run, else ONNX Runtime on the GPU if it can be
            used, else on the CPU.
        options: passed to the backend, e.g. ``threads=2`` for ONNX Runtime.

    Raises:
        BadInput: the bundle is damaged, or the backend unknown.
        EnvironmentLacks: the backend was asked for by name and is not on this host.
    """
    if backend not in BACKENDS:
        raise BadInput(f"Backend {backend!r} is unknown.", f"Choose one of {', '.join(BACKENDS)}.")
    bundle = path if isinstance(path, Bundle) else Bundle(path)
    if backend in ("rtx", "trt") or (backend == "auto" and _has_engine(bundle)):
        from mimiq.runtime.tensorrt import session as tensorrt

        if backend != "auto" or tensorrt.can_run(bundle):
            session: Session = tensorrt.open_tensorrt(bundle, backend, **options)
            return session

    from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession

    device = {"ort": "cpu", "ort-cuda": "cuda", "auto": "auto"}[backend]
    graphs = {name: bundle.path / name for name in (MODEL, CPU_MODEL) if _has(bundle, name)}
    graph = deployed_graph(graphs, device)
    return OnnxRuntimeSession(graph, bundle.preprocessing, device=device, **options)


def deployed_graph(graphs: Mapping[str, Path], device: str = "auto") -> Path:
    """The graph that ONNX Runtime is given on a device: on a CPU its own form, where there is one.

    Args:
        graphs: file by its name in the bundle.
        device: ``cpu``, ``cuda`` or ``auto``.
    """
    from mimiq.runtime.onnxruntime.graph import runs_on_cpu

    return graphs[CPU_MODEL if CPU_MODEL in graphs and runs_on_cpu(device) else MODEL]


def _has(bundle: Bundle, name: str) -> bool:
    return name in bundle.manifest["files"]


def _has_engine(bundle: Bundle) -> bool:
    return any(name.startswith("engines/") for name in bundle.manifest["files"])
