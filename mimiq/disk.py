"""A full disk, told by whatever way a library says it, and named by what could not be written."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mimiq.errors import EnvironmentLacks, MimiqError

_ERRORS = (errno.ENOSPC, errno.EDQUOT)
# From safetensors (Rust), and PyTorch's zip writer, which only sees that something is missing.
_WORDS = ("No space left", "os error 28", "PytorchStreamWriter failed", "unexpected pos")


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk, or a user's full share of it, is behind the error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _ERRORS:
            return True
        if any(words in str(error) for words in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def full(place: object) -> EnvironmentLacks:
    """The error for a full disk; ``place`` is what could not be written, if that is known."""
    return EnvironmentLacks(
        "The disk is full" + (f": {place} could not be written." if place else "."),
        "Free some space, or choose other places with -o and --cache-dir; what is finished "
        "is kept, so run the same command again.",
    )


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Name ``place`` when the disk fills up inside, which libraries' errors do not.

    Raises:
        EnvironmentLacks: when it does.
    """
    try:
        yield
    except MimiqError:
        raise
    except Exception as error:
        if is_full(error):
            raise full(place) from error
        raise
