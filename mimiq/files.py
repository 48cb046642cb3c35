"""Files and folders written whole or not at all, and what a host ran out of when they cannot be
written, or read.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimiq.durable import beside, exchange, is_temporary, remove_leftovers, sync, sync_tree
from mimiq.errors import BadInput, EnvironmentLacks, MimiqError

_MOST_BYTES = 64_000_000  # of a manifest, a report, a list of contents
_FULL = (errno.ENOSPC, errno.EDQUOT)
TOO_MANY = (errno.EMFILE, errno.ENFILE)
# From safetensors (Rust), and PyTorch's zip writer, which only sees that something is missing.
_FULL_IN_WORDS = ("No space left", "os error 28", "PytorchStreamWriter failed", "unexpected pos")
_TOO_LARGE_IN_WORDS = ("File too large", "os error 27")  # of the C library, and of Rust
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


@dataclass(frozen=True)
class FileEntry:
    """What stands in a manifest for a file."""

    sha256: str
    bytes: int

    @staticmethod
    def of(path: Path) -> FileEntry:
        """That of a file on disk."""
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileEntry(digest, path.stat().st_size)

    def describes(self, path: Path) -> bool:
        """Whether this is the entry of a file on disk.

        Only what has its size is read: neither a device, nor what has grown beyond all bounds.

        Raises:
            OSError: it cannot be read.
        """
        if not path.is_file() or path.stat().st_size != self.bytes:
            return False
        return FileEntry.of(path) == self

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> FileEntry:
        return FileEntry(str(data["sha256"]), int(data["bytes"]))


def read_text(path: Path) -> str:
    """The text of a file of ours, in UTF-8.

    Raises:
        ValueError: it is no regular file, longer than any of ours, as one that grew without bounds,
            or not UTF-8.
        OSError: it cannot be read.
    """
    size = regular_size(path)
    if size > _MOST_BYTES:
        raise ValueError(f"it has {size / 1e6:.0f} MB, as no such file has")
    return path.read_text(encoding="utf-8")


def regular_size(path: Path) -> int:
    """Bytes of a file that can be read to an end.

    Raises:
        ValueError: it is no regular file: a pipe would be waited for, and a device never ends.
        OSError: it is not there.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is no regular file")
    return found.st_size


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that an interruption leaves the old one, the new one or none.

    Args:
        path: its folder is made where it is missing.
        content: text is written in UTF-8 with ``\\n`` at the ends of lines.

    Raises:
        EnvironmentLacks: the disk is full.
        BadInput: the file cannot be written for another reason.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with writing(path), replacing(path) as temporary:
        temporary.write_bytes(data)


def copy_whole(source: Path, path: Path) -> None:
    """Copy a file as :func:`write_whole` writes one; the same errors."""
    with writing(path), replacing(path) as temporary:
        shutil.copyfile(source, temporary)


def make_folder_whole(path: Path, fill: Callable[[Path], object]) -> None:
    """Make a folder, complete or not at all; one that is there is replaced.

    A process that is killed leaves the old folder or the new one, and what it was still writing
    goes with the next run. Everything is on the disk before it has its name.

    Args:
        path: the folder to be.
        fill: writes the content into the folder that it is given.

    Raises:
        EnvironmentLacks: the disk is full.
        BadInput: the folder cannot be written for another reason.
    """
    path = Path(os.path.realpath(path))
    temporary = beside(path)
    with writing(path):
        remove_leftovers(path)
        try:
            temporary.mkdir(parents=True)
            fill(temporary)
            sync_tree(temporary)
            if path.exists():
                exchange(temporary, path)  # what was there is the temporary now
            else:
                os.rename(temporary, path)
            sync(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; the file there becomes ``path`` when all went well."""
    path = path.absolute()
    temporary = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)  # an interruption included


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one clear error.

    Raises:
        EnvironmentLacks: the disk, or the user's share of it, is full; a file may not grow so
            large; or too many files are open.
        BadInput: a file or folder cannot be read or written.
    """
    try:
        with naming_full_disk(place):
            yield
    except OSError as error:
        if error.errno in TOO_MANY:
            raise too_many_files() from error
        name = error.filename2 or error.filename  # of a copy, what is written
        ours = name == str(place) or _is_temporary(name)
        refused = f"{place} cannot be written" if ours else f"{name} cannot be used"
        raise BadInput(
            f"{refused}: {error.strerror or error}.",
            "Check the path and its permissions, or choose another place.",
        ) from error


@contextmanager
def naming_full_disk(place: object) -> Iterator[None]:
    """Name ``place`` when the disk fills up inside, or a file does, which libraries' errors do not.

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
        if is_too_large(error):
            raise too_large(place) from error
        raise


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk, or a user's full share of it, is behind the error."""
    return _is_behind(error, _FULL, _FULL_IN_WORDS)


def is_too_large(error: BaseException | None) -> bool:
    """Whether a file that may not grow any further is behind the error."""
    return _is_behind(error, (errno.EFBIG,), _TOO_LARGE_IN_WORDS)


def _is_behind(
    error: BaseException | None, numbers: tuple[int, ...], texts: tuple[str, ...]
) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in numbers:
            return True
        if any(words in str(error) for words in texts):
            return True
        error = error.__cause__ or error.__context__
    return False


def full(place: object) -> EnvironmentLacks:
    """The error for a full disk; ``place`` is what could not be written, if that is known."""
    return EnvironmentLacks(
        "The disk is full" + (f": {place} could not be written." if place else "."),
        "Free some space, or choose another place; what is finished is kept, so run the same "
        "command again.",
    )


def too_large(place: object) -> EnvironmentLacks:
    """The error for a file that reached the largest size; ``place`` as for :func:`full`."""
    return EnvironmentLacks(
        "A file may not grow so large, by the limit of this process or of the file system"
        + (f": {place} could not be written." if place else "."),
        "Raise it: ulimit -f unlimited.",
    )


def too_many_files() -> EnvironmentLacks:
    """The error for a process that may open no more files."""
    return EnvironmentLacks(
        "Too many files are open.", "Raise the limit of open files: ulimit -n 4096."
    )


def require_utf8(path: Path, library: str) -> None:
    """Refuse a path that a library takes as text, and that no text can stand for.

    Raises:
        BadInput: it holds bytes that are not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise BadInput(
            f"{library} cannot open {os.fsencode(path)!r}: this path is not UTF-8.",
            "Rename the file, or the folder in it that is not.",
        ) from error


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


def _is_temporary(name: object) -> bool:
    """Whether an error names one of our own temporary files, or nothing."""
    parts = Path(os.fsdecode(name)).parts if isinstance(name, str | bytes | os.PathLike) else ()
    return not parts or any(is_temporary(part) for part in parts)
