"""What a process changes outside the folders that are its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# By event of Python's audit hooks: where paths stand among its arguments, and folders' descriptors.
_CHANGES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "open": ((0, None),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
}


def watch(allowed: Sequence[Path], tell: Callable[[str], object]) -> None:
    """From now on tell what this process changes elsewhere, by Python; it cannot be taken back.

    Args:
        allowed: folders that it may write in.
        tell: told the event and the path.
    """
    real = [os.path.realpath(folder) for folder in allowed]

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        for place, descriptor in _CHANGES.get(event, ()):
            if event == "open" and not arguments[2] & _WRITING:
                continue
            name = arguments[place]
            if not isinstance(name, str | bytes | os.PathLike):
                continue  # an open file: its opening was seen
            folder = -1 if descriptor is None else arguments[descriptor]
            path = _real(os.fsdecode(name), folder)
            inside = any(path == own or path.startswith(own + os.sep) for own in real)
            if not inside and path != os.devnull:
                tell(f"{event} {path}")

    sys.addaudithook(audit)


def _real(name: str, folder: int | None) -> str:
    """Without links but for the last: that is what is removed, or gets another name."""
    if folder is not None and folder >= 0 and not os.path.isabs(name):
        name = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)
    head, tail = os.path.split(os.path.abspath(name))
    return os.path.join(os.path.realpath(head), tail)


def state(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, size and time of everything below a folder, to be compared with a later one's."""
    found = {}
    for path in sorted(folder.rglob("*")):
        seen = path.lstat()
        found[str(path)] = seen.st_mode, seen.st_size, seen.st_mtime_ns
    return found
