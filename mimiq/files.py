"""Files and folders written whole or not at all, and what it means when they cannot be."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from mimiq.errors import BadInput, EnvironmentLacks, MimiqError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# From safetensors (Rust), and PyTorch's zip writer, which only sees that something is missing.
_FULL_IN_WORDS = ("No space left", "os error 28", "PytorchStreamWriter failed", "unexpected pos")


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that an interruption leaves the old one, the new one or none.

    Args:
        path: its folder is made where it is missing.
        content: text is written in UTF-8 with ``\\n`` at the ends of lines.

    Raises:
        EnvironmentLacks: the disk is full.
        BadInput: the file cannot be written for another reason.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with writing(path), replacing(path) as temporary:
        temporary.write_bytes(data)


def copy_whole(source: Path, path: Path) -> None:
    """Copy a file as :func:`write_whole` writes one; the same errors."""
    with writing(path), replacing(path) as temporary:
        shutil.copyfile(source, temporary)


def make_folder_whole(path: Path, fill: Callable[[Path], object]) -> None:
    """Make a folder, complete or not at all; one that is there is replaced.

    Args:
        path: the folder to be.
        fill: writes the content into the folder that it is given.

    Raises:
        EnvironmentLacks: the disk is full.
        BadInput: the folder cannot be written for another reason.
    """
    path = path.absolute()
    temporary, old = beside(path), beside(path, "old")
    with writing(path):
        try:
            temporary.mkdir(parents=True)
            fill(temporary)
            if path.exists():
                os.rename(path, old)
            os.rename(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if old.exists() and not path.exists():
                os.rename(old, path)
            shutil.rmtree(old, ignore_errors=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to; the file there becomes ``path`` when all went well."""
    path = path.absolute()
    temporary = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # an interruption included


def beside(path: Path, suffix: str = "tmp") -> Path:
    """A new name in the same folder, so that renaming it to ``path`` is one step."""
    return path.with_name(f".{path.name}.{uuid4().hex[:8]}.{suffix}")


def remove_temporaries(folder: Path) -> None:
    """Remove the files that killed processes were still writing in ``folder``."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one clear error.

    Raises:
        EnvironmentLacks: the disk, or the user's share of it, is full.
        BadInput: a file or folder cannot be read or written.
    """
    try:
        with naming_full_disk(place):
            yield
    except OSError as error:
        ours = error.filename == str(place) or _is_temporary(error.filename)
        refused = f"{place} cannot be written" if ours else f"{error.filename} cannot be used"
        raise BadInput(
            f"{refused}: {error.strerror or error}.",
            "Check the path and its permissions, or choose another place.",
        ) from error


@contextmanager
def naming_full_disk(place: Path) -> Iterator[None]:
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


def is_full(error: BaseException | None) -> bool:
    """Whether a full disk, or a user's full share of it, is behind the error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        if any(words in str(error) for words in _FULL_IN_WORDS):
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


def _is_temporary(name: object) -> bool:
    """Whether an error names one of our own temporary files, or nothing."""
    parts = Path(os.fsdecode(name)).parts if isinstance(name, str | bytes | os.PathLike) else ()
    return not parts or any(part.startswith(".") and part.endswith(".tmp") for part in parts)
