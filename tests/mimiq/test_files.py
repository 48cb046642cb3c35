"""Files written whole or not at all; a full disk, behind whatever a library says of it."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from mimiq.durable import beside
from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.files import (
    copy_whole,
    make_folder_whole,
    naming_full_disk,
    replacing,
    write_whole,
    writing,
)

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
    with expected, naming_full_disk(Path("/there")):
        raise error


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EACCES, "Permission denied", "/there"), ValueError("no"), KeyboardInterrupt()],
)
def test_other_errors_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, naming_full_disk(Path("/there")):
        raise error
    assert raised.value is error


def test_what_names_its_place_already_passes() -> None:
    known = BadInput("this one")
    known.__cause__ = FULL[0]
    with pytest.raises(BadInput) as raised, naming_full_disk(Path("/there")):
        raise known
    assert raised.value is known


def test_a_file_that_may_not_grow_is_no_full_disk() -> None:
    """As shutil says it of a copy: it names what is read first."""
    error = OSError(errno.EFBIG, "File too large", "/source", None, "/there")
    with pytest.raises(EnvironmentLacks) as raised, writing(Path("/there")):
        raise error
    assert "not grow so large" in raised.value.problem
    assert "/there could not be written" in raised.value.problem
    assert "ulimit -f" in raised.value.next_step


def test_of_a_copy_the_file_that_is_written_is_named(tmp_path: Path) -> None:
    error = PermissionError(
        errno.EPERM, "Not permitted", "/source", None, str(beside(tmp_path / "target"))
    )
    with pytest.raises(BadInput, match="target cannot be written"), writing(tmp_path / "target"):
        raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_whole_into_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_whole(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    write_whole(path, b"2")
    copy_whole(path, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"2"
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize("raised", [ValueError("no"), KeyboardInterrupt()])
def test_what_was_there_stays_where_writing_fails(tmp_path: Path, raised: BaseException) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise raised

    with pytest.raises(type(raised)):
        interrupted()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_folder_is_replaced_when_it_is_complete(tmp_path: Path) -> None:
    def fill(text: str) -> Callable[[Path], object]:
        return lambda folder: (folder / "file").write_text(text)

    def fail(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    place = tmp_path / "place"
    for text in ("first", "second"):
        make_folder_whole(place, fill(text))
        assert (place / "file").read_text() == text
    with pytest.raises(EnvironmentLacks, match="place could not be written"):
        make_folder_whole(place, fail)
    assert (place / "file").read_text() == "second"
    assert names(tmp_path) == ["place"]


def test_refusals_name_what_the_user_knows(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, and no folder")
    with pytest.raises(BadInput, match=r"blocked.* cannot be .*: (File exists|Not a directory)"):
        write_whole(blocked / "file", "text")
    absent = tmp_path / "absent"
    with pytest.raises(BadInput, match="absent cannot be used: No such file"):
        copy_whole(absent, tmp_path / "copy")
    with pytest.raises(BadInput, match=r"target cannot be written: Permission denied\."):  # noqa: SIM117
        with writing(tmp_path / "target"):
            raise PermissionError(errno.EACCES, "Permission denied", str(beside(tmp_path / "x")))
