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
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

_EXCHANGE = 2  # RENAME_EXCHANGE of Linux's renameat2(2)
_HERE = -100  # AT_FDCWD: paths are relative to the working folder
_NAME = re.compile(r"\.(?P<of>.+)\.(?P<host>[0-9a-f]{6})-(?P<pid>\d+)-[0-9a-f]{8}\.(?:tmp|old)")
# Bytes of a name: a file system allows 255, and a temporary one must be allowed beside it.
_LONGEST = 200
_STALE_SECONDS = 24 * 3600.0
_made: set[str] = set()  # names that this process has given


def beside(path: Path, suffix: str = "tmp") -> Path:
    """A new name in the same folder, so that renaming it to ``path`` is one step."""
    own = f"{_host()}-{os.getpid()}-{uuid4().hex[:8]}"
    name = f".{_cut(path.name)}.{own}.{suffix}"
    _made.add(name)
    return path.with_name(name)


def _cut(name: str) -> str:
    return os.fsencode(name)[:_LONGEST].decode(errors="ignore")


def is_temporary(name: str) -> bool:
    """Whether a name in a folder is one of :func:`beside`."""
    return _NAME.fullmatch(name) is not None


def remove_leftovers(path: Path) -> None:
    """Remove what dead processes were writing to become ``path``.

    Dead is a process of this host that has ended, and any whose writing was left for a day: of
    other hosts, and of containers that bear another name at each start, nothing else is known.

    A folder that one of them had moved out of the way, without putting another in its place, gets
    its name back.
    """
    for found, name in _temporaries(path.parent):
        if name == _cut(path.name):
            _remove_of_dead(found, path)


def remove_all_leftovers(folder: Path) -> None:
    """:func:`remove_leftovers` of whatever was being written in ``folder``."""
    for found, name in _temporaries(folder):
        # What a name that was cut stood for is known to who asks for it alone.
        if found.suffix != ".old" or len(os.fsencode(name)) < _LONGEST - 3:
            _remove_of_dead(found, folder / name)


def written_beside(path: Path) -> list[Path]:
    """What whichever process, alive or dead, is or was writing to become ``path``."""
    return [found for found, name in _temporaries(path.parent) if name == _cut(path.name)]


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
    """Six hex digits for where a process's number means something: a host, or a container on it."""
    name = platform.node()
    with suppress(OSError):  # containers that share their host's name number their own processes
        name += f" {os.stat('/proc/self/ns/pid').st_ino}"
    return hashlib.sha256(name.encode()).hexdigest()[:6]


def _temporaries(folder: Path) -> list[tuple[Path, str]]:
    """What is being written in a folder, or was, with the name that it was to have."""
    try:
        matches = ((found, _NAME.fullmatch(found.name)) for found in sorted(folder.iterdir()))
        return [(found, match["of"]) for found, match in matches if match is not None]
    except OSError:
        return []


def _remove_of_dead(found: Path, path: Path) -> None:
    if not _is_of_dead(found):
        return
    with suppress(OSError):
        if found.suffix == ".old" and not os.path.lexists(path):
            os.rename(found, path)
        elif found.is_dir() and not found.is_symlink():
            shutil.rmtree(found, ignore_errors=True)
        else:
            found.unlink(missing_ok=True)


def _is_of_dead(found: Path) -> bool:
    """Whether who wrote under this name has ended, by what is known of it."""
    match = _NAME.fullmatch(found.name)
    if match is None:
        return False
    with suppress(OSError):
        if time.time() - found.lstat().st_mtime > _STALE_SECONDS:
            return True
    # On Windows os.kill(pid, 0) would end the process.
    if match["host"] != _host() or sys.platform == "win32":
        return False
    if int(match["pid"]) == os.getpid():
        return found.name not in _made  # in a container the next process has the same number
    try:
        os.kill(int(match["pid"]), 0)
    except (ProcessLookupError, OverflowError):
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
