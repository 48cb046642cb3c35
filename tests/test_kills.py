"""Every writer, killed at every one of its file operations: the old or the new, and never less."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from tensorrt_bundles import make_bundle

from mimiq import durable
from mimiq.cache import ASIDE, Cache
from mimiq.calibrate import CalibrationSet, gaussian_noise
from mimiq.export.triton import pack
from mimiq.files import FileEntry, make_folder_whole, write_whole
from mimiq.progress import SILENT, Progress
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import add_files
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.runtime.report.report import Report
from mimiq.runtime.serving.packed import PackedRecord, versions_of

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks")

_KILLED = 77
_OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate"}
_hook: list[Callable[[], None]] = []


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if _hook and event in _OPERATIONS:
        mode = arguments[1] if event == "open" and len(arguments) > 1 else "w"
        if not isinstance(mode, str) or set(mode) & set("wax+"):
            _hook[0]()


sys.addaudithook(_audit)


def killed_at(moment: int, act: Callable[[], object]) -> bool:
    """Act in a process that is killed before its file operation of this number, if it has one."""
    child = os.fork()
    if child == 0:
        left = [moment]

        def count() -> None:
            if left[0] == 0:
                os._exit(_KILLED)
            left[0] -= 1

        try:
            exchange = durable.exchange

            def exchanging(new: Path, old: Path) -> None:
                count()  # no Python function that would tell its audit hooks
                exchange(new, old)

            durable.exchange = exchanging
            import mimiq.files

            mimiq.files.exchange = exchanging
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
    while True:
        prepare()
        died = killed_at(moment, act)
        check()
        if not died:
            return moment
        act()
        check()
        moment += 1


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if durable.is_temporary(path.name)]


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    moments = every_moment(
        lambda: write_whole(file, "old"),
        lambda: write_whole(file, "new"),
        lambda: _one_of(file.read_text(), "old", "new"),
    )
    assert moments >= 2
    assert file.read_text() == "new"
    assert not temporaries(tmp_path)


@pytest.mark.parametrize("at_once", [True, False], ids=["in one step", "without the system's help"])
def test_a_folder(tmp_path: Path, at_once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not at_once:
        monkeypatch.setattr(durable, "_exchange_at_once", lambda *_: False)
    place = tmp_path / "place"

    def fill(text: str) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            for name in ("one", "two"):
                (folder / name).write_text(text)

        return write

    def check() -> None:
        if not at_once:
            durable.remove_leftovers(place)
        _one_of([(place / name).read_text() for name in ("one", "two")], ["old"] * 2, ["new"] * 2)

    moments = every_moment(
        lambda: make_folder_whole(place, fill("old")),
        lambda: make_folder_whole(place, fill("new")),
        check,
    )
    assert moments >= 4
    assert not temporaries(tmp_path)


def test_files_added_to_a_bundle(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    first, second = Report(seconds=1.0), Report(seconds=2.0)
    extra = tmp_path / "engine"
    extra.write_bytes(b"engine")

    def check() -> None:
        found = Bundle(bundle.path)  # every hash is checked
        report = found.report or Report()
        _one_of((report.seconds, found.has("engines/a")), (1.0, True), (2.0, True), (1.0, False))

    def prepare() -> None:
        add_files(Bundle(bundle.path), report=first)

    def act() -> None:
        add_files(Bundle(bundle.path), {"engines/a": extra}, report=second)

    assert every_moment(prepare, act, check) >= 6
    assert (Bundle(bundle.path).report or Report()).seconds == 2.0
    assert not temporaries(tmp_path)


@pytest.mark.parametrize("before", [0, 1], ids=["the first version", "the second"])
def test_a_model_packed(tmp_path: Path, before: int) -> None:
    bundle = make_bundle(tmp_path)
    repository = tmp_path / "repository"

    def prepare() -> None:
        shutil.rmtree(repository, ignore_errors=True)
        for _ in range(before):
            pack(bundle, repository, "net")

    def check() -> None:
        numbers = versions_of(repository / "net")
        assert len(numbers) >= before
        for number in numbers:
            place = repository / "net" / str(number)
            record = PackedRecord.read(place / "mimiq.json")
            assert FileEntry.of(place / record.file) == FileEntry(record.sha256, record.bytes)

    assert every_moment(prepare, lambda: pack(bundle, repository, "net"), check) >= 8
    assert not temporaries(tmp_path)


def test_a_stage(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    counter = iter(range(10_000))
    number = [0]

    def act() -> Path:
        return cache.run(_Noise(number[0]), SILENT).path

    def check() -> None:
        for entry in (tmp_path / "cache").glob("noise-*"):
            if entry.suffix != ".partial":
                CalibrationSet.open(entry / "set").verify()

    moments = every_moment(lambda: number.__setitem__(0, next(counter)), act, check)
    assert moments >= 8
    found = CalibrationSet.open(act() / "").images()
    assert np.array_equal(found, cache.run(_Noise(number[0]), SILENT).images())
    assert not temporaries(tmp_path)


@dataclass(frozen=True)
class _Noise:
    name: ClassVar[str] = "noise"
    revision: ClassVar[int] = 1

    seed: int
    count: int = field(default=8, metadata=ASIDE)

    def make(self, folder: Path, progress: Progress) -> None:
        gaussian_noise(Preprocessing(image_size=16), self.count, self.seed, folder / "set")

    def load(self, folder: Path) -> CalibrationSet:
        return CalibrationSet.open(folder / "set")


def _one_of(found: object, *allowed: object) -> None:
    assert found in allowed
