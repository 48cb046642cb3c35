"""The stage cache: reuse, resumption, and what happens on trouble."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest
from open_files import files_left

from mimiq.cache import ASIDE, Cache, content_key, default_cache_dir, stage_key
from mimiq.errors import EnvironmentLacks
from mimiq.files import FileEntry
from mimiq.models import LoadedModel
from mimiq.progress import SILENT, Progress
from mimiq.stages.graphs import ExportReference


@dataclass(frozen=True)
class Step:
    """A stage that does what a test wants, and returns its folder."""

    name: ClassVar[str] = "stage"
    revision: ClassVar[int] = 1

    inputs: dict[str, object]
    work: Callable[[Path], object] = field(metadata=ASIDE)

    def make(self, folder: Path, progress: Progress) -> None:
        self.work(folder)

    def load(self, folder: Path) -> Path:
        return folder


def writes(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "result").write_text(text)


def test_interrupted_stage_goes_on_in_its_own_folder(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def interrupted(folder: Path) -> None:
        (folder / "half").write_text("done so far")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.run(Step({}, interrupted), SILENT)
    seen: list[str] = []
    cache.run(Step({}, lambda folder: seen.append((folder / "half").read_text())), SILENT)
    assert seen == ["done so far"]
    assert not list(tmp_path.glob("*.partial"))


def test_of_two_that_want_the_same_one_makes_it(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    told: list[str] = []

    def slow(folder: Path) -> None:
        begun.set()
        assert go_on.wait(30)
        (folder / "result").write_text("first")

    def tell(text: str) -> None:
        told.append(text)
        go_on.set()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(Cache(tmp_path).run, Step({}, slow), SILENT)
        assert begun.wait(30)
        # The first one goes on when the second is told that it waits.
        second = pool.submit(Cache(tmp_path, tell).run, Step({}, writes("second")), SILENT)
        folder, same = first.result(60), second.result(60)
    assert folder == same
    assert (folder / "result").read_text() == "first"
    assert told == ["stage: waiting for another process that makes the same"]


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _to_folder(file: Path) -> None:
    file.unlink()
    (file / "foreign").mkdir(parents=True)


def _to_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)  # reading it would wait for ever


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": _cut,
    "flipped": _flip,
    "emptied": lambda file: file.write_bytes(b""),
    "grown": lambda file: os.truncate(file, 1 << 40),  # reading it would take an hour
    "gone": Path.unlink,
    "folder": _to_folder,
    **({"pipe": _to_pipe} if hasattr(os, "mkfifo") else {}),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["one", "below/two", "inputs.json", "contents.json"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, name: str, damage: str) -> None:
    found: list[set[str]] = []

    def work(folder: Path) -> None:
        found.append(
            {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
        )
        (folder / "below").mkdir(exist_ok=True)
        (folder / "one").write_text("1" * 100)
        (folder / "below" / "two").write_text("2" * 100)

    told: list[str] = []
    cache = Cache(tmp_path, told.append)
    entry = cache.run(Step({}, work), SILENT)
    DAMAGE[damage](entry / name)
    assert cache.run(Step({}, work), SILENT) == entry
    assert [(entry / name).read_text() for name in ("one", "below/two")] == ["1" * 100, "2" * 100]
    (text,) = told
    assert text == f"stage: {entry.name} in the cache is damaged and is made again"
    if name != "contents.json":  # without which nothing of an entry is known to be whole
        assert found[1] == {"one", "below/two"} - {name} | {"inputs.json"}
    cache.run(Step({}, work), SILENT)
    assert len(found) == 2


@pytest.mark.parametrize("name", ["entry", "entry.partial", "partial/inputs.json", "lock"])
@pytest.mark.parametrize("kind", ["file", "folder", "link into nothing"])
def test_what_is_of_another_kind_gives_way(tmp_path: Path, name: str, kind: str) -> None:
    cache = Cache(tmp_path)
    entry = cache.run(Step({}, writes("result")), SILENT)
    shutil.rmtree(entry)
    partial = entry.with_name(entry.name + ".partial")
    place = {
        "entry": entry,
        "entry.partial": partial,
        "partial/inputs.json": partial / "inputs.json",
        "lock": tmp_path / "locks" / entry.name,
    }[name]
    place.parent.mkdir(exist_ok=True)
    place.unlink(missing_ok=True)
    if kind == "file":
        place.write_text("foreign")
    elif kind == "folder":
        place.mkdir()
    elif name == "lock":
        pytest.skip("a lock that is a link is refused by its library")
    else:
        place.symlink_to(tmp_path / "nowhere")
    assert cache.run(Step({}, writes("result")), SILENT) == entry
    assert (entry / "result").read_text() == "result"
    assert not partial.exists()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_an_entry_that_this_process_cannot_read_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    told: list[str] = []
    cache = Cache(tmp_path, told.append)
    entry = cache.run(Step({}, writes("an hour's work")), SILENT)

    def refused(path: Path) -> FileEntry:
        raise OSError(code, os.strerror(code), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(FileEntry, "of", staticmethod(refused))
        with pytest.raises(EnvironmentLacks):
            cache.run(Step({}, writes("done again")), SILENT)
    assert cache.run(Step({}, writes("done again")), SILENT) == entry
    assert (entry / "result").read_text() == "an hour's work"
    assert told == []


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_cache_without_a_free_descriptor_says_so(tmp_path: Path) -> None:
    """And nothing of free space, whether or not there is an entry."""
    entry = Cache(tmp_path).run(Step({}, writes("kept")), SILENT)
    for inputs in ({}, {"another": 1}):
        with files_left(0), pytest.raises(EnvironmentLacks, match="Too many files are open"):
            Cache(tmp_path).run(Step(inputs, writes("done again")), SILENT)
    assert (entry / "result").read_text() == "kept"


def test_key_ignores_the_order_of_inputs() -> None:
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    assert content_key({"a": 1}) != content_key({"a": "1"})


def test_unwritable_cache_is_one_clear_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(EnvironmentLacks, match="cannot be written"):
        Cache(blocked).run(Step({}, writes("")), SILENT)


def test_place_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIMIQ_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("MIMIQ_CACHE")
    if sys.platform == "linux":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert default_cache_dir() == tmp_path / "mimiq"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert default_cache_dir() == tmp_path / ".cache" / "mimiq"


@dataclass(frozen=True)
class Double:
    name: ClassVar[str] = "double"
    revision: ClassVar[int] = 1

    number: int
    made: list[int] = field(metadata=ASIDE)

    def make(self, folder: Path, progress: Progress) -> None:
        self.made.append(self.number)
        (folder / "result").write_text(str(2 * self.number))

    def load(self, folder: Path) -> int:
        return int((folder / "result").read_text())


class DoubleAnew(Double):
    revision = 2


def test_a_stage_is_made_once_for_its_fields_and_its_revision(tmp_path: Path) -> None:
    cache, made, elsewhere = Cache(tmp_path), list[int](), list[int]()
    assert [cache.run(Double(n, made), SILENT) for n in (1, 2, 1)] == [2, 4, 2]
    assert made == [1, 2]
    assert cache.run(Double(1, elsewhere), SILENT) == 2  # what is aside changes nothing
    assert not elsewhere
    assert cache.run(DoubleAnew(1, elsewhere), SILENT) == 2
    assert elsewhere == [1]


def test_what_a_key_is_made_of() -> None:
    assert stage_key(Double(3, [])) == {"revision": 1, "number": 3}
    with pytest.raises(TypeError, match="object has nothing that stands for it"):
        stage_key(Double(object(), []))  # type: ignore[arg-type]


@dataclass(frozen=True)
class After:
    """A stage whose field is another stage."""

    name: ClassVar[str] = "after"
    revision: ClassVar[int] = 1

    first: Double
    cache: Cache = field(metadata=ASIDE)

    def make(self, folder: Path, progress: Progress) -> None:
        (folder / "result").write_text(str(self.cache.run(self.first, progress) + 1))

    def load(self, folder: Path) -> int:
        return int((folder / "result").read_text())


def test_a_stage_that_comes_after_another_needs_it_once(tmp_path: Path) -> None:
    cache, made = Cache(tmp_path), list[int]()
    assert [cache.run(After(Double(n, made), cache), SILENT) for n in (1, 2, 1)] == [3, 5, 3]
    assert made == [1, 2]
    shutil.rmtree(next(tmp_path.glob("double-*")))
    assert [cache.run(After(Double(n, made), cache), SILENT) for n in (1, 2)] == [3, 5]
    assert made == [1, 2]  # what is finished asks for nothing before it
    assert cache.run(After(DoubleAnew(1, made), cache), SILENT) == 3
    assert made == [1, 2, 1]


def test_the_reference_is_of_one_image_size(small_vit: LoadedModel) -> None:
    larger = replace(small_vit.preprocessing, image_size=64)
    other = replace(small_vit, preprocessing=larger)
    assert stage_key(ExportReference(small_vit)) == stage_key(ExportReference(small_vit))
    assert stage_key(ExportReference(small_vit)) != stage_key(ExportReference(other))
