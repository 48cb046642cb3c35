"""Raw contents of a gRPC request that do not fit are the client's mistake, and are told as such.

MLServer unpacks them before any model sees the request, and answers ``INTERNAL`` with the words of
:mod:`struct` if it cannot. ``tritonclient`` sends every tensor so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mimiq.errors import shortened

LONGEST_NAME = 100  # of what a client named, where an error repeats it


def refuse_raw_contents_that_do_not_fit() -> None:
    """Mend how MLServer unpacks them; once is enough.

    An MLServer without the part that this needs stays as it is, and so do answers.
    """
    try:
        from mlserver.grpc import converters
    except ImportError:
        return
    usual = getattr(converters, "inject_raw", None)
    if usual is None or hasattr(usual, "usual"):
        return
    converters.inject_raw = _checked(usual)


def _checked(usual: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    from mlserver.errors import InferenceError
    from mlserver.types import RequestInput

    def inject_raw(tensors: Sequence[Any], raws: Sequence[bytes]) -> Any:
        if not all(isinstance(tensor, RequestInput) for tensor in tensors):
            return usual(tensors, raws)
        for tensor in tensors:
            if tensor.data:
                raise InferenceError(
                    f"The input {named(tensor.name)} has contents, and the request has raw "
                    "contents: send all inputs in one of the two ways."
                )
        if len(tensors) != len(raws):
            raise InferenceError(
                f"Raw contents came for {len(raws)} inputs, and the request has {len(tensors)}: "
                "send as many."
            )
        for tensor, raw in zip(tensors, raws, strict=True):
            try:
                usual([tensor], [raw])
            except Exception as error:  # struct's own, and of a datatype that is none
                shape = shortened(str(list(tensor.shape)), LONGEST_NAME)
                datatype = shortened(str(tensor.datatype), LONGEST_NAME) or "of a known datatype"
                raise InferenceError(
                    f"The {len(raw)} bytes of the input {named(tensor.name)} are not "
                    f"{datatype} of shape {shape}."
                ) from error
        return tensors

    inject_raw.usual = usual  # type: ignore[attr-defined]
    return inject_raw


def named(name: str) -> str:
    """A name that a client gave, in quotes, no longer than a message can hold."""
    if len(name) <= LONGEST_NAME:
        return repr(name)
    return f"{name[:LONGEST_NAME]!r}… ({len(name)} characters)"
