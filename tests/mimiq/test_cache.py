"""The stage cache: reuse, resumption, and what happens on trouble."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import pytest

from mimiq.cache import ASIDE, Cache, content_key, default_cache_dir, stage_key
from mimiq.errors import EnvironmentLacks
from mimiq.models import LoadedModel
from mimiq.progress import SILENT, Progress
from mimiq.stages.graphs import ExportReference


def _write(text: str):  # type: ignore[no-untyped-def]
    def make(folder: Path) -> None:
        (folder / "result").write_text(text)

    return make


def test_second_call_reuses_the_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    first, hit = cache.get_or_make("stage", {"a": 1}, _write("one"))
    assert not hit
    again, hit = cache.get_or_make("stage", {"a": 1}, _write("two"))
    assert hit
    assert again == first
    assert (again / "result").read_text() == "one"


def test_other_inputs_or_stage_give_another_folder(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    folders = {
        cache.get_or_make(stage, inputs, _write(""))[0]
        for stage, inputs in (("s", {"a": 1}), ("s", {"a": 2}), ("t", {"a": 1}))
    }
    assert len(folders) == 3


def test_interrupted_stage_goes_on_in_its_own_folder(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def interrupted(folder: Path) -> None:
        (folder / "half").write_text("done so far")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get_or_make("stage", {}, interrupted)
    seen = []
    folder, hit = cache.get_or_make("stage", {}, lambda f: seen.append((f / "half").read_text()))
    assert not hit
    assert seen == ["done so far"]
    assert not list(tmp_path.glob("*.partial"))
    assert (folder / "inputs.json").is_file()


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
        first = pool.submit(Cache(tmp_path).get_or_make, "stage", {}, slow)
        assert begun.wait(30)
        # The first one goes on when the second is told that it waits.
        second = pool.submit(Cache(tmp_path, tell).get_or_make, "stage", {}, _write("second"))
        (folder, hit), (same, other_hit) = first.result(60), second.result(60)
    assert (hit, other_hit) == (False, True)
    assert folder == same
    assert (folder / "result").read_text() == "first"
    assert told == ["stage: waiting for another process that makes the same"]


def test_key_ignores_the_order_of_inputs() -> None:
    assert content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    assert content_key({"a": 1}) != content_key({"a": "1"})


def test_unwritable_cache_is_one_clear_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(EnvironmentLacks, match="cannot be written"):
        Cache(blocked).get_or_make("stage", {}, _write(""))


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


def test_the_reference_is_of_one_image_size(small_vit: LoadedModel) -> None:
    larger = replace(small_vit.preprocessing, image_size=64)
    other = replace(small_vit, preprocessing=larger)
    assert stage_key(ExportReference(small_vit)) == stage_key(ExportReference(small_vit))
    assert stage_key(ExportReference(small_vit)) != stage_key(ExportReference(other))
