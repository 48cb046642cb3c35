"""What a host ran out of, told from what is wrong with a file: memory, and open files."""

from __future__ import annotations

import errno

from mimiq.errors import EnvironmentLacks
from mimiq.files import TOO_MANY, too_many_files

# Of PyTorch's allocator, the dynamic loader, the C library, C++ and ONNX Runtime.
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "failed to map segment",
    "cannot allocate memory",
    "failed to allocate memory",
    "bad_alloc",
    "bad allocation",
)
# Of the C library, which the dynamic loader, Rust and ONNX Runtime repeat.
_NO_DESCRIPTOR = ("too many open files", "os error 24", "system error number 24")


def exhausted(error: BaseException, doing: str) -> EnvironmentLacks | None:
    """The error for a host that ran out of memory, or a process that may open no more files.

    Args:
        error: what a library raised, in whatever form.
        doing: what failed for it, as a clause: ``weights.pth cannot be read``.

    Returns:
        None where the error means anything else.
    """
    if lacks_descriptors(error):
        return too_many_files()
    said = lack_of_memory(error)
    if said is None:
        return None
    return EnvironmentLacks(
        f"The memory is exhausted, and {doing}: {said}",
        "Use a host with more memory, or let this process have more of it.",
    )


def refuse_exhausted(error: BaseException, doing: str) -> None:
    """Raise the error of :func:`exhausted`, if any: before what is read is taken for damaged."""
    lack = exhausted(error, doing)
    if lack is not None:
        raise lack from error


def lack_of_memory(error: BaseException) -> str | None:
    """The line that says that memory ran out, by whatever name a library gives it."""
    for line in str(error).strip().splitlines():
        if any(words in line.lower() for words in _NO_MEMORY):
            return line
    ran_out = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if ran_out or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    # What the interpreter says where it had no memory for the exception itself.
    return "none is left" if str(error) == "error return without exception set" else None


def lacks_descriptors(error: BaseException) -> bool:
    """Whether the process, or the host, may open no more files."""
    if isinstance(error, OSError) and error.errno in TOO_MANY:
        return True
    said = str(error).lower()
    return any(words in said for words in _NO_DESCRIPTOR)
