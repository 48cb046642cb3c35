"""Every writer of files and folders, as tests of kills and of full disks take them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from tensorrt_bundles import make_bundle

from mimiq import durable
from mimiq.cache import ASIDE, Cache
from mimiq.calibrate import CalibrationSet, gaussian_noise
from mimiq.export.triton import pack
from mimiq.files import FileEntry, make_folder_whole, write_whole
from mimiq.progress import SILENT, Progress
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import add_files, write_bundle
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.runtime.report.report import Report
from mimiq.runtime.serving.packed import PackedRecord, versions_of


@dataclass(frozen=True)
class Writer:
    """Something that is written, from any state that it may be found in.

    Attributes:
        prepare: makes the state before.
        act: writes.
        check: fails unless the old or the new is there, whole; for a new one, nothing or the new.
        moments: at the least, of its file operations.
    """

    prepare: Callable[[], object]
    act: Callable[[], object]
    check: Callable[[], object]
    moments: int


def a_file(folder: Path) -> Writer:
    file = folder / "file"
    return Writer(
        lambda: write_whole(file, "old"),
        lambda: write_whole(file, "new"),
        lambda: _one_of(file.read_text(), "old", "new"),
        4,
    )


def _filled(text: str) -> Callable[[Path], None]:
    def fill(inside: Path) -> None:
        for name in ("one", "two"):
            (inside / name).write_text(text)

    return fill


def _texts(place: Path) -> list[str]:
    return [(place / name).read_text() for name in ("one", "two")]


def a_folder(folder: Path) -> Writer:
    place = folder / "place"

    def check() -> None:
        durable.remove_leftovers(place)  # as whoever writes next does
        _one_of(_texts(place), ["old"] * 2, ["new"] * 2)

    return Writer(
        lambda: make_folder_whole(place, _filled("old")),
        lambda: make_folder_whole(place, _filled("new")),
        check,
        8,
    )


def a_new_folder(folder: Path) -> Writer:
    place = folder / "place"

    def act() -> None:
        make_folder_whole(place, _filled("new"))
        assert place.is_dir()

    def check() -> None:
        if os.path.lexists(place):
            _one_of(_texts(place), ["new"] * 2)

    return Writer(lambda: shutil.rmtree(place, ignore_errors=True), act, check, 8)


def _written(folder: Path, seconds: float) -> Callable[[], object]:
    source = make_bundle(folder) if not (folder / "bundle").exists() else Bundle(folder / "bundle")

    def write() -> None:
        write_bundle(
            folder / "out.mimiq",
            {"model.onnx": source.model_path},
            {k: v for k, v in source.manifest.items() if k not in ("files", "manifest_sha256")},
            report=Report(seconds=seconds),
            overwrite=True,
        )

    return write


def a_bundle_replaced(folder: Path) -> Writer:
    def check() -> None:
        report = Bundle(folder / "out.mimiq").report
        _one_of(report and report.seconds, 1.0, 2.0)

    return Writer(_written(folder, 1.0), _written(folder, 2.0), check, 10)


def a_new_bundle(folder: Path) -> Writer:
    write, out = _written(folder, 1.0), folder / "out.mimiq"

    def act() -> None:
        write()
        assert out.is_dir()

    def check() -> None:
        if os.path.lexists(out):
            report = Bundle(out).report  # every hash is checked
            assert report is not None
            assert report.seconds == 1.0

    return Writer(lambda: shutil.rmtree(out, ignore_errors=True), act, check, 10)


def files_added_to_a_bundle(folder: Path) -> Writer:
    bundle = make_bundle(folder)
    extra = folder / "engine"
    extra.write_bytes(b"engine")

    def check() -> None:
        found = Bundle(bundle.path)  # every hash is checked
        report = found.report or Report()
        _one_of((report.seconds, found.has("engines/a")), (1.0, True), (2.0, True), (1.0, False))

    def act() -> None:
        add_files(Bundle(bundle.path), {"engines/a": extra}, report=Report(seconds=2.0))

    return Writer(lambda: add_files(Bundle(bundle.path), report=Report(seconds=1.0)), act, check, 9)


def a_version(before: int) -> Callable[[Path], Writer]:
    def of(folder: Path) -> Writer:
        bundle, repository = make_bundle(folder), folder / "repository"

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

        return Writer(prepare, lambda: pack(bundle, repository, "net"), check, 10)

    return of


def a_calibration_set(folder: Path) -> Writer:
    place = folder / "set"
    wanted = _noise(folder / "whole").content_hash

    def check() -> None:
        if CalibrationSet.is_set(place) and _is_complete(place):
            found = CalibrationSet.open(place)
            found.verify()
            assert found.content_hash == wanted

    def prepare() -> None:
        shutil.rmtree(place, ignore_errors=True)

    return Writer(prepare, lambda: _noise(place), check, 12)


def _noise(place: Path) -> CalibrationSet:
    return gaussian_noise(Preprocessing(image_size=16), 70, 0, place)  # two shards


def _is_complete(place: Path) -> bool:
    return '"complete": true' in (place / "manifest.json").read_text()


def a_finished_stage(folder: Path) -> Writer:
    cache, number = Cache(folder / "cache"), [0]

    def prepare() -> None:
        number[0] += 1

    def check() -> None:
        for entry in (folder / "cache").glob("noise-*"):
            if entry.suffix != ".partial":
                CalibrationSet.open(entry / "set").verify()

    def act() -> None:
        cache.run(_Noise(number[0]), SILENT).verify()

    return Writer(prepare, act, check, 14)


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


WRITERS: dict[str, Callable[[Path], Writer]] = {
    "a file": a_file,
    "a folder": a_folder,
    "a new folder": a_new_folder,
    "a new bundle": a_new_bundle,
    "a bundle replaced": a_bundle_replaced,
    "files added to a bundle": files_added_to_a_bundle,
    "a model's first version": a_version(0),
    "a model's second version": a_version(1),
    "a calibration set": a_calibration_set,
    "a finished stage": a_finished_stage,
}


def _one_of(found: object, *allowed: object) -> None:
    assert found in allowed
