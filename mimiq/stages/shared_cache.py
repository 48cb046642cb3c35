"""The cache of several ranks: what one makes, or all together, each finds in its own.

Whether the ranks see the same folder is found out once. Where they do not, the first rank's results
are sent to the others, file by file; a file that is there already is not sent again.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from mimiq import ranks
from mimiq.cache import CONTENTS, Cache, CachedStage, stage_key, writing_to_cache
from mimiq.durable import sync, sync_tree
from mimiq.errors import EnvironmentLacks
from mimiq.files import FileEntry, naming_full_disk, refuse_exhausted
from mimiq.progress import Progress

Result = TypeVar("Result")
_SEEN_SECONDS = 60.0  # until what the first rank wrote is seen by all, on a network file system
_TOKEN_SECONDS = 2.0
_TOGETHER, _DONE = "together", "done"


def cache_for(root: Path, progress: Progress) -> Cache:
    """The cache in ``root``, for this process or for all ranks of its run."""
    if ranks.current().world == 1:
        return Cache(root, progress.note)
    return SharedCache(root, progress)


class SharedCache(Cache):
    """A cache whose every :meth:`run` is called by all ranks, with the same stage.

    A stage with a true attribute ``together`` is made by all of them, any other by the first.
    """

    def __init__(self, root: Path, progress: Progress) -> None:
        super().__init__(root, progress.note)
        self._sharing = _sharing(root)
        apart = [str(rank) for rank, shares in enumerate(self._sharing) if not shares]
        if apart:
            progress.note(
                f"ranks {', '.join(apart)} have a cache of their own: finished stages are sent "
                "to them"
            )
        else:
            progress.note(f"{len(self._sharing)} ranks share the cache {root}")

    def run(self, stage: CachedStage[Result], progress: Progress) -> Result:
        group = ranks.current()
        if group.world == 1:
            return super().run(stage, progress)
        path = self._place(stage.name, stage_key(stage))
        if group.first:
            self._lead(stage, progress)
        else:
            self._follow(stage, path, progress)
        self._bring(path)
        return stage.load(path)

    def _lead(self, stage: CachedStage[Any], progress: Progress) -> None:
        group = ranks.current()

        def make(folder: Path) -> None:
            if getattr(stage, "together", False):
                group.share(_TOGETHER)
                stage.make(folder, progress)
                return
            with ranks.alone():
                stage.make(folder, progress)

        path, hit = self._entry(stage.name, stage_key(stage), make)
        if hit:
            progress.note(f"{stage.name}: reusing {path.name}")
        group.share(_DONE)

    def _follow(self, stage: CachedStage[Any], path: Path, progress: Progress) -> None:
        while ranks.current().share() == _TOGETHER:
            working = _working(path)
            working.mkdir(parents=True, exist_ok=True)
            with naming_full_disk(working):
                stage.make(working, progress)

    def _bring(self, path: Path) -> None:
        """The first rank's entry, on every rank."""
        group = ranks.current()
        if all(self._sharing):
            group.barrier()
            _wait_for(path)
            return
        listing: str = group.share((path / CONTENTS).read_text() if group.first else None)
        entries = {name: FileEntry(**entry) for name, entry in json.loads(listing).items()}
        apart = not self._sharing[group.rank]
        own = _begun(path, entries) if apart else path
        lacking = [name for name, entry in entries.items() if not _is(own / name, entry)]
        wanted = {name for names in group.gather(lacking) for name in names}
        for name in sorted(wanted):
            data = group.send((path / name).read_bytes() if group.first else None, 0)
            if name in lacking:
                (own / name).parent.mkdir(parents=True, exist_ok=True)
                (own / name).write_bytes(data)
        if own != path:
            _finish(own, path, listing, entries)
        group.barrier()


def _sharing(root: Path) -> list[bool]:
    """By rank, whether it sees what the first one writes in its cache."""
    group = ranks.current()
    token = root / f".ranks-{uuid4().hex}"
    if group.first:
        with writing_to_cache(root):
            root.mkdir(parents=True, exist_ok=True)
            token.touch()
    seen = root / str(group.share(token.name))
    found = seen.exists()
    until = time.monotonic() + (_TOKEN_SECONDS if root.is_dir() else 0)
    while not found and time.monotonic() < until:
        time.sleep(0.1)
        found = seen.exists()
    gathered = group.gather(found)
    if group.first:
        token.unlink(missing_ok=True)
    return [bool(shares) for shares in gathered]


def _working(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _begun(path: Path, entries: Mapping[str, FileEntry]) -> Path:
    """Where this rank's copy lies, if it is whole, or is put together from what there is of it."""
    if path.is_dir() and all(_is(path / name, entry) for name, entry in entries.items()):
        return path
    working = _working(path)
    if path.is_dir():
        shutil.rmtree(working, ignore_errors=True)
        os.rename(path, working)
    working.mkdir(parents=True, exist_ok=True)
    return working


def _finish(own: Path, path: Path, listing: str, entries: Mapping[str, FileEntry]) -> None:
    """Give a copy that is whole its name, without what the first rank's does not hold."""
    for file in [file for file in _files(own) if file.relative_to(own).as_posix() not in entries]:
        file.unlink()
    with naming_full_disk(own):
        (own / CONTENTS).write_text(listing)
        sync_tree(own)
    os.replace(own, path)
    sync(path.parent)


def _files(folder: Path) -> Iterator[Path]:
    yield from (file for file in folder.rglob("*") if file.is_file())


def _is(file: Path, entry: FileEntry) -> bool:
    try:
        return entry.describes(file)
    except OSError as error:
        refuse_exhausted(error, f"{file} cannot be read")
        return False


def _wait_for(path: Path) -> None:
    """Until a folder that the first rank has finished is seen here."""
    until = time.monotonic() + _SEEN_SECONDS
    while not (path / CONTENTS).is_file():
        if time.monotonic() > until:
            raise EnvironmentLacks(
                f"{path} was finished by rank 0 and is not seen by rank {ranks.current().rank} "
                f"after {_SEEN_SECONDS:g} seconds.",
                "Give every host a cache of its own with MIMIQ_CACHE.",
            )
        time.sleep(0.1)
