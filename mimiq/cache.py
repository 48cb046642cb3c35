"""Results of stages, kept by the hash of what went into them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Protocol, TypeVar

import platformdirs

from mimiq.durable import sync, sync_tree
from mimiq.errors import EnvironmentLacks
from mimiq.files import (
    FileEntry,
    exhausted,
    full,
    is_full,
    naming_full_disk,
    read_text,
    refuse_exhausted,
)
from mimiq.progress import Progress
from mimiq.version import __version__

# Raised within a version when a stage's results change for the same inputs: older entries are
# then left alone.
_GENERATION = 3

CONTENTS = "contents.json"
"""Hash and size of every file of a finished entry."""
_INPUTS = "inputs.json"

ASIDE = {"aside": True}
"""Metadata of a field that a result does not depend on: where it is made, what is at hand."""
Result = TypeVar("Result", covariant=True)


class CachedStage(Protocol[Result]):
    """A piece of work as a value: a frozen dataclass whose fields are everything that it sees.

    Its key is those fields, but for those with the metadata :data:`ASIDE`.
    """

    name: ClassVar[str]
    revision: ClassVar[int]
    """To be raised with every change that gives another result for the same fields."""

    def make(self, folder: Path, progress: Progress) -> None:
        """Work, and leave the result in ``folder``, which an interrupted run may have begun."""

    def load(self, folder: Path) -> Result:
        """The result that :meth:`make` left there."""


def stage_key(stage: CachedStage[Any]) -> dict[str, Any]:
    """What a stage's result depends on, as JSON values."""
    described: Any = stage
    own = {
        part.name: _identity(getattr(stage, part.name))
        for part in fields(described)
        if not part.metadata.get("aside")
    }
    return {"revision": stage.revision, **own}


def _identity(value: Any) -> Any:
    """What stands for a value in a key: a stage's own, ``cache_key``, ``to_json()``, or itself."""
    if hasattr(value, "revision"):
        return {value.name: stage_key(value)}
    if hasattr(value, "cache_key"):
        return value.cache_key
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _identity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"A {type(value).__name__} has nothing that stands for it in a cache's key.")


def default_cache_dir() -> Path:
    """``$MIMIQ_CACHE``, or the platform's user cache folder: ``~/.cache/mimiq`` on Linux.

    Raises:
        EnvironmentLacks: this user has no home folder, and nothing says where else.
    """
    if own := os.environ.get("MIMIQ_CACHE"):
        return Path(own)
    try:
        return platformdirs.user_cache_path("mimiq", appauthor=False)
    except RuntimeError as error:
        raise EnvironmentLacks(
            "This user has no home folder, and nothing says where finished stages are kept.",
            "Set MIMIQ_CACHE to a folder.",
        ) from error


class Cache:
    """A folder of stage results, one folder each.

    A stage works in a folder of its own that survives an interruption, so that it can go on there.
    When it is done its files are synced to the disk, their hashes written beside them, and the
    folder gets its final name; they are held against the hashes whenever the result is taken. Of
    two processes that want the same entry one makes it and the other waits.

    Args:
        root: made when it is first written to.
        tell: told when another process is waited for.
    """

    def __init__(self, root: Path, tell: Callable[[str], None] = lambda _: None) -> None:
        self.root = root
        self.tell = tell

    def run(self, stage: CachedStage[Result], progress: Progress) -> Result:
        """The stage's result, made now if it is not there whole.

        A damaged result is made again, with a note; what is whole of it is kept for that.

        Raises:
            EnvironmentLacks: when the cache folder cannot be written, or its disk is full.
            MimiqError: whatever the stage found wrong.
        """
        path, hit = self._entry(
            stage.name, stage_key(stage), lambda folder: stage.make(folder, progress)
        )
        if hit:
            progress.note(f"{stage.name}: reusing {path.name}")
        return stage.load(path)

    def has(self, stage: CachedStage[Any]) -> bool:
        """Whether the stage's result is there whole."""
        return _is_whole(self._place(stage.name, stage_key(stage)))

    def _place(self, stage: str, inputs: Mapping[str, Any]) -> Path:
        return self.root / f"{stage}-{content_key(inputs)}"

    def _entry(
        self, stage: str, inputs: Mapping[str, Any], make: Callable[[Path], object]
    ) -> tuple[Path, bool]:
        """The folder of a result, made now if it is not there whole; and whether it was there."""
        final = self._place(stage, inputs)
        if _is_whole(final):
            return final, True
        with self._alone(stage, final.name):
            if _is_whole(final):  # another process has made it meanwhile
                return final, True
            working = final.with_name(final.name + ".partial")
            with writing_to_cache(self.root):
                if os.path.lexists(final):
                    self.tell(f"{stage}: {final.name} in the cache is damaged and is made again")
                    _keep_whole_files(final, working)
                if not working.is_dir():
                    _remove(working)
                working.mkdir(parents=True, exist_ok=True)
                if not (working / _INPUTS).is_file():
                    _remove(working / _INPUTS)
                (working / _INPUTS).write_text(json.dumps(inputs, indent=2, sort_keys=True))
            with naming_full_disk(working):
                make(working)
                seal(working)
                os.replace(working, final)
                sync(self.root)
        return final, False

    @contextmanager
    def _alone(self, stage: str, name: str) -> Iterator[None]:
        """While it lasts no other process makes the entry ``name``; ends with the process."""
        from filelock import FileLock, Timeout

        locks = self.root / "locks"
        with writing_to_cache(self.root):
            locks.mkdir(parents=True, exist_ok=True)
            if (locks / name).is_dir():
                _remove(locks / name)
            lock = FileLock(locks / name)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                self.tell(f"{stage}: waiting for another process that makes the same")
                lock.acquire()
            except NotImplementedError:
                pass  # a file system without locks: each process for itself, as well as it goes
        try:
            yield
        finally:
            lock.release()


@contextmanager
def writing_to_cache(root: Path) -> Iterator[None]:
    """Say what a cache folder that cannot be written lacks: room, open files, or permission."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise full(root) from error
        problem = f"The cache folder {root} cannot be written"
        raise exhausted(error, problem) or EnvironmentLacks(
            f"{problem}: {error.strerror}.", "Set MIMIQ_CACHE to a folder that may be written."
        ) from error


def seal(folder: Path) -> None:
    """Write down what a finished folder holds, and have it on the disk."""
    contents = {
        file.relative_to(folder).as_posix(): asdict(FileEntry.of(file)) for file in _files(folder)
    }
    (folder / CONTENTS).write_text(json.dumps(contents, indent=1, sort_keys=True))
    sync_tree(folder)


def _files(folder: Path) -> Iterator[Path]:
    yield from (f for f in sorted(folder.rglob("*")) if f.is_file() and f != folder / CONTENTS)


def _whole_files(folder: Path) -> tuple[set[str], bool]:
    """The files of an entry that are as they were sealed, and whether these are all."""
    try:
        contents: dict[str, Any] = json.loads(read_text(folder / CONTENTS))
        sealed = {name: FileEntry(**entry) for name, entry in contents.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        refuse_exhausted(error, f"{folder} cannot be read")
        return set(), False
    whole = set()
    for name, entry in sealed.items():
        try:
            if entry.describes(folder / name):
                whole.add(name)
        except OSError as error:
            refuse_exhausted(error, f"{folder} cannot be read")
    return whole, len(whole) == len(sealed) and _INPUTS in whole


def _is_whole(folder: Path) -> bool:
    return folder.is_dir() and _whole_files(folder)[1]


def _keep_whole_files(damaged: Path, working: Path) -> None:
    """Begin ``working`` anew with the files of a damaged entry that are whole."""
    whole, _ = _whole_files(damaged)
    _remove(working)
    os.rename(damaged, working)
    if not working.is_dir():
        return
    folders = {parent for name in whole for parent in PurePosixPath(name).parents}
    for place, names, others in os.walk(working):
        inside = PurePosixPath(Path(place).relative_to(working))
        for name in (*names, *others):
            if inside / name not in folders and str(inside / name) not in whole:
                _remove(Path(place, name))
        names[:] = [name for name in names if inside / name in folders]


def _remove(path: Path) -> None:
    """Have nothing at ``path``, whatever is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def content_key(inputs: Mapping[str, Any]) -> str:
    """16 hex digits that stand for ``inputs``."""
    text = json.dumps({"mimiq": __version__, "generation": _GENERATION, **inputs}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
