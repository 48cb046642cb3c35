"""A full disk, behind whatever a library says of it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from mimiq import disk
from mimiq.errors import BadInput, EnvironmentLacks

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    # safetensors, and torch.save, as they were seen.
    Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 128 vs 16"),
]


@pytest.mark.parametrize("error", FULL)
def test_the_place_is_named(error: Exception) -> None:
    expected = pytest.raises(EnvironmentLacks, match="/there could not be written")
    with expected, disk.writing(Path("/there")):
        raise error


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EACCES, "Permission denied", "/there"), ValueError("no"), KeyboardInterrupt()],
)
def test_other_errors_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, disk.writing(Path("/there")):
        raise error
    assert raised.value is error


def test_what_names_its_place_already_passes() -> None:
    known = BadInput("this one")
    known.__cause__ = FULL[0]
    with pytest.raises(BadInput) as raised, disk.writing(Path("/there")):
        raise known
    assert raised.value is known
