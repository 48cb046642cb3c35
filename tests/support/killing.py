"""Writers under watch: killed, out of space, or held to what a disk keeps.

``every_moment`` kills a writer, in a process of its own, before each operation that Python tells
its audit hooks of, and before each sync and exchange. ``full_from`` lets the same operations fail
in this process. ``unsynced`` runs a writer once and says which names it gave to content that a
power cut could still have taken. None waits for the real disk.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import mimiq.files
from mimiq import durable

_KILLED = 77
_OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate"}
_FREEING = {"os.remove", "os.rmdir"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_hook: list[Callable[[str, tuple[Any, ...]], None]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _hook and event in _OPERATIONS and (event != "open" or arguments[2] & _WRITING):
        _hook[0](event, arguments)


sys.addaudithook(_audit)


def killed_at(moment: int, act: Callable[[], object]) -> bool:
    """Act in a process that is killed before its file operation of this number, if it has one."""
    child = os.fork()
    if child == 0:
        left = [moment]

        def count(*_: object) -> None:
            if left[0] == 0:
                os._exit(_KILLED)
            left[0] -= 1

        try:
            exchange = durable.exchange

            def exchanging(new: Path, old: Path) -> None:
                count()  # no Python function that would tell its audit hooks
                exchange(new, old)

            durable.exchange = mimiq.files.exchange = exchanging  # type: ignore[attr-defined]
            os.fsync = count
            _hook.append(count)
            act()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, _KILLED)
    return code == _KILLED


def every_moment(
    prepare: Callable[[], object], act: Callable[[], object], check: Callable[[], object]
) -> int:
    """Kill ``act`` at each of its file operations, check, act again, check; the number of them."""
    moment = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        while True:
            prepare()
            died = killed_at(moment, act)
            check()
            if not died:
                return moment
            act()
            check()
            moment += 1


@contextmanager
def full_from(moment: int) -> Iterator[list[str]]:
    """From its file operation of this number on nothing inside finds space, but removing works.

    The list grows by the operations that failed.
    """
    left, failed = [moment], list[str]()
    exchange = durable.exchange

    def count(event: str, arguments: tuple[Any, ...] = ()) -> None:
        if event in _FREEING:
            return
        if left[0] == 0:
            failed.append(event)
            name = arguments[0] if arguments and not isinstance(arguments[0], int) else None
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        left[0] -= 1

    def exchanging(new: Path, old: Path) -> None:
        count("exchange", (new,))
        exchange(new, old)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: count("fsync"))
        patch.setattr(durable, "exchange", exchanging)
        patch.setattr(mimiq.files, "exchange", exchanging)
        _hook.append(count)
        try:
            yield failed
        finally:
            _hook.pop()


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if durable.is_temporary(path.name)]


class _Disk:
    """What a disk holds for certain: the state of each file and folder when it was last synced."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._synced: dict[int, tuple[int, int]] = {}
        self._unnamed: dict[int, str] = {}  # folders with names that are not on the disk yet

    def sync(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        self._synced[found.st_ino] = found.st_mtime_ns, found.st_size
        self._unnamed.pop(found.st_ino, None)

    def name(self, old: Path, new: Path) -> None:
        """``old`` is about to become ``new``."""
        if any(durable.is_temporary(part) or part.endswith(".partial") for part in new.parts):
            return
        for path in [old, *old.rglob("*")] if old.is_dir() else [old]:
            found = path.stat()
            if self._synced.get(found.st_ino) != (found.st_mtime_ns, found.st_size):
                self.faults.append(f"{new} before the content of {path.relative_to(old.parent)}")
        self._unnamed[new.parent.stat().st_ino] = str(new)

    def write(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], str | os.PathLike):
            return
        path = Path(arguments[0])
        aside = any(durable.is_temporary(part) or part.endswith(".partial") for part in path.parts)
        if not aside and "locks" not in path.parts and not path.is_relative_to("/dev"):
            self.faults.append(f"{path} is written under its own name")

    def end(self) -> list[str]:
        return self.faults + [f"the name {name} is never synced" for name in self._unnamed.values()]


def unsynced(act: Callable[[], object]) -> list[str]:
    """The names that ``act`` gave, or left, before what they stand for was on the disk."""
    disk = _Disk()
    with _watched(disk):
        act()
    return disk.end()


@contextmanager
def _watched(disk: _Disk) -> Iterator[None]:
    rename, replace, exchange = os.rename, os.replace, durable.exchange

    def renaming(old: Any, new: Any, **options: Any) -> None:
        disk.name(Path(old), Path(new))
        rename(old, new, **options)

    def replacing(old: Any, new: Any, **options: Any) -> None:
        disk.name(Path(old), Path(new))
        replace(old, new, **options)

    def exchanging(new: Path, old: Path) -> None:
        disk.name(new, old)
        exchange(new, old)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", disk.sync)
        patch.setattr(os, "rename", renaming)
        patch.setattr(os, "replace", replacing)
        patch.setattr(durable, "exchange", exchanging)
        patch.setattr(mimiq.files, "exchange", exchanging)
        _hook.append(disk.write)
        try:
            yield
        finally:
            _hook.pop()
