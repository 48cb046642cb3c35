"""What a killed process or a power cut must not break: names taken in one step, data synced first.

Files are written under a temporary name, synced, and renamed. A temporary name tells which process
of which host writes there, so that what dead ones left can be told from what is being written.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import os
import platform
import re
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

_EXCHANGE = 2  # RENAME_EXCHANGE of Linux's renameat2(2)
_HERE = -100  # AT_FDCWD: paths are relative to the working folder
_NAME = re.compile(r"\.(?P<of>.+)\.(?P<host>[0-9a-f]{6})-(?P<pid>\d+)-[0-9a-f]{8}\.(?:tmp|old)")


def beside(path: Path, suffix: str = "tmp") -> Path:
    """A new name in the same folder, so that renaming it to ``path`` is one step."""
    # A file system allows 255 bytes for a name, and this one must be allowed where `path` is.
    name = os.fsencode(path.name)[:200].decode(errors="ignore")
    return path.with_name(f".{name}.{_host()}-{os.getpid()}-{uuid4().hex[:8]}.{suffix}")


def is_temporary(name: str) -> bool:
    """Whether a name in a folder is one of :func:`beside`."""
    return _NAME.fullmatch(name) is not None


def remove_leftovers(path: Path) -> None:
    """Remove what processes of this host that are dead were writing to become ``path``.

    A folder that one of them had moved out of the way, without putting another in its place, gets
    its name back.
    """
    for found, name in _temporaries(path.parent):
        if name == path.name:
            _remove_of_dead(found, path)


def remove_all_leftovers(folder: Path) -> None:
    """:func:`remove_leftovers` of whatever was being written in ``folder``."""
    for found, name in _temporaries(folder):
        _remove_of_dead(found, folder / name)


def of_the_dead(folder: Path, name: str) -> list[Path]:
    """What processes of this host that are dead were writing in ``folder`` to become ``name``."""
    found = _temporaries(folder)
    return [path for path, becoming in found if becoming == name and _is_of_dead(path.name)]


def exchange(new: Path, old: Path) -> None:
    """Let two folders change names, in one step where the system can.

    Elsewhere ``old`` has no name for a moment; :func:`remove_leftovers` gives it back to it after a
    process was killed in this moment.

    Raises:
        OSError: it cannot be done; both have the names that they had.
    """
    if _exchange_at_once(new, old):
        return
    aside = beside(old, "old")
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except BaseException:
        os.rename(aside, old)
        raise
    os.rename(aside, new)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk before going on."""
    if sys.platform == "win32" and path.is_dir():
        return  # there folders cannot be opened
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """:func:`sync` for every file and folder below ``folder``, and itself."""
    for inner, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(inner, name))
        sync(Path(inner))


@functools.cache
def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:6]


def _temporaries(folder: Path) -> list[tuple[Path, str]]:
    """What is being written in a folder, or was, with the name that it was to have."""
    try:
        matches = ((found, _NAME.fullmatch(found.name)) for found in sorted(folder.iterdir()))
        return [(found, match["of"]) for found, match in matches if match is not None]
    except OSError:
        return []


def _remove_of_dead(found: Path, path: Path) -> None:
    if not _is_of_dead(found.name):
        return
    with suppress(OSError):
        if found.suffix == ".old" and not os.path.lexists(path):
            os.rename(found, path)
        elif found.is_dir() and not found.is_symlink():
            shutil.rmtree(found, ignore_errors=True)
        else:
            found.unlink(missing_ok=True)


def _is_of_dead(name: str) -> bool:
    """Whether who wrote under this name is known to have ended: of other hosts nothing is known."""
    match = _NAME.fullmatch(name)
    # On Windows os.kill(pid, 0) would end the process.
    if match is None or match["host"] != _host() or sys.platform == "win32":
        return False
    try:
        os.kill(int(match["pid"]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _exchange_at_once(first: Path, second: Path) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None, use_errno=True)
    rename = getattr(library, "renameat2", None)  # glibc 2.28, musl 1.2.5
    if rename is None:
        return False
    if rename(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):  # the file system or kernel cannot
        return False
    raise OSError(code, os.strerror(code), str(second))
