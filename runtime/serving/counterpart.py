"""The local counterpart of a served model: the bundle, in the runtime that the server has."""

from __future__ import annotations

from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.runtime.backend import Backend
from mimiq.runtime.backends import AUTO, backend_of
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.onnxruntime.backend import ORT, ORT_CUDA
from mimiq.runtime.opening import open_bundle
from mimiq.runtime.openvino.backend import OPENVINO
from mimiq.runtime.session import Session

# How MLServer names a model that mimiq serves, before the label of the backend.
PLATFORM_PREFIX = "mimiq_"
# Triton, and mimiq of a packed model, name the framework and not the device; lower case.
_FRAMEWORKS: dict[str, tuple[Backend, ...]] = {
    "onnxruntime_onnx": (ORT_CUDA, ORT),
    "onnxruntime": (ORT_CUDA, ORT),
    "openvino": (OPENVINO,),
}


def open_counterpart(bundle: Bundle, platform: str, backend: str = AUTO) -> Session:
    """Open a bundle as a server runs it, as far as this host can.

    Two runtimes round the same integer sums in different places, so that near ties would look like
    another network's answers.

    Args:
        bundle: what should be deployed.
        platform: as the server's description names it, such as ``mimiq_onnxruntime-cpu`` or
            ``onnxruntime_onnx``.
        backend: what was asked for; ``auto`` follows the server, and is what
            :func:`~mimiq.runtime.opening.open_bundle` does where the platform says nothing, or
            this host has not got it.

    Raises:
        BadInput, EnvironmentLacks: as ``open_bundle``.
    """
    if backend == AUTO:
        for candidate in _backends_of(platform):
            if candidate.why_not() is not None:
                continue
            try:
                return open_bundle(bundle, candidate)
            except (BadInput, EnvironmentLacks):  # an engine of another GPU, for one
                continue
    return open_bundle(bundle, backend)


def _backends_of(platform: str) -> tuple[Backend, ...]:
    label = platform.removeprefix(PLATFORM_PREFIX).lower()
    if label in _FRAMEWORKS:
        return _FRAMEWORKS[label]
    try:
        return (backend_of(label),)
    except BadInput:  # of a newer mimiq, or of a server that is none of ours
        return ()
