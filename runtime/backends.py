"""The backends, in the order in which ``auto`` tries them. A new one is a file and a line here."""

from __future__ import annotations

from mimiq.errors import BadInput
from mimiq.runtime.backend import Backend
from mimiq.runtime.null import NULL
from mimiq.runtime.onnxruntime.backend import ORT, ORT_CUDA
from mimiq.runtime.openvino.backend import OPENVINO
from mimiq.runtime.tensorrt.backend import RTX_ENGINES, TRT_ENGINES

BACKENDS: tuple[Backend, ...] = (RTX_ENGINES, TRT_ENGINES, ORT_CUDA, OPENVINO, ORT)
AUTO = "auto"
_NAMED: tuple[Backend, ...] = (*BACKENDS, NULL)  # nobody gets the last without asking for it


def backend_named(name: str) -> Backend:
    """The backend of that ``name``.

    Raises:
        BadInput: there is none.
    """
    for backend in _NAMED:
        if backend.name == name:
            return backend
    names = ", ".join((AUTO, *(backend.name for backend in BACKENDS)))
    raise BadInput(f"Backend {name!r} is unknown.", f"Choose one of {names}.")


def backend_of(label: str) -> Backend:
    """The backend whose sessions call themselves so, such as ``tensorrt-rtx-fp8``.

    Raises:
        BadInput: no backend's do.
    """
    for backend in _NAMED:
        found = backend.answering(label)
        if found is not None:
            return found
    raise BadInput(f"No backend calls itself {label!r}.", "Give a session's `backend`.")
