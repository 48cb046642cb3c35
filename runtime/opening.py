"""From a bundle to a session of the backend that suits this host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimiq.errors import BadInput, DidNotStart
from mimiq.runtime.backend import Backend
from mimiq.runtime.backends import AUTO, BACKENDS, backend_named
from mimiq.runtime.bundle import CPU_MODEL, MODEL, Bundle
from mimiq.runtime.session import Session


def open_bundle(
    path: str | Path | Bundle, backend: str | Backend = AUTO, **options: Any
) -> Session:
    """Open a bundle for inference.

    Args:
        path: the bundle's folder, or a bundle already read.
        backend: ``ort`` (ONNX Runtime on the CPU), ``ort-cuda`` (ONNX Runtime on an NVIDIA GPU),
            ``rtx`` (TensorRT-RTX), ``trt`` (TensorRT), ``openvino`` (OpenVINO on the CPU), or
            ``auto``: a TensorRT engine if the bundle holds one that this host can run, else ONNX
            Runtime on the GPU if it can be used, else OpenVINO where it was measured to be the
            fastest for this bundle on this CPU (:mod:`mimiq.runtime.latency.tuned`), else ONNX
            Runtime on the CPU. Or a backend itself, see :mod:`mimiq.runtime.backends`.
        options: passed to the backend, e.g. ``threads=2`` on a CPU.

    Raises:
        BadInput: the bundle is damaged, the backend unknown, or it takes no such option.
        EnvironmentLacks: the backend was asked for by name and is not on this host.
    """
    named = backend != AUTO and not hasattr(backend, "suits")  # a server's settings may be anything
    wanted = backend_named(str(backend)) if named else backend
    bundle = path if isinstance(path, Bundle) else Bundle(path)
    if not isinstance(wanted, str):
        return _open(wanted, bundle, options)
    candidates = [
        backend
        for backend in BACKENDS
        if backend.suits(bundle) and (set(options) <= backend.options or not _replaceable(backend))
    ]
    for candidate in candidates[:-1]:
        try:
            return _open(candidate, bundle, options)
        except DidNotStart:
            continue
    return _open(candidates[-1], bundle, options)


def chosen(bundle: Bundle, backend: str = AUTO) -> Backend:
    """The backend that :func:`open_bundle` begins with.

    Raises:
        BadInput: the backend is unknown.
    """
    if backend != AUTO:
        return backend_named(backend)
    return next(candidate for candidate in BACKENDS if candidate.suits(bundle))


def deployed_graph(graphs: Mapping[str, Path], device: str = "auto") -> Path:
    """The graph that ONNX Runtime is given on a device: on a CPU its own form, where there is one.

    Args:
        graphs: file by its name in the bundle.
        device: ``cpu``, ``cuda`` or ``auto``.
    """
    from mimiq.runtime.onnxruntime.graph import runs_on_cpu

    return graphs[CPU_MODEL if CPU_MODEL in graphs and runs_on_cpu(device) else MODEL]


def _replaceable(backend: Backend) -> bool:
    """Whether another one runs the bundle on the same device: the last does, on every CPU."""
    return backend.label.endswith("-cpu") and backend != BACKENDS[-1]


def _open(backend: Backend, bundle: Bundle, options: Mapping[str, Any]) -> Session:
    unknown = sorted(set(options) - backend.options)
    if unknown:
        raise BadInput(
            f"{backend.title} takes no {unknown[0]!r}.",
            f"It takes {', '.join(sorted(backend.options)) or 'no options'}.",
        )
    return backend.open(bundle, **options)
