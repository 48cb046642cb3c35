"""Bundles, reports, packed records and finished stages with any JSON in them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fuzzing import altered, answers, damaged, fuzzed
from hypothesis import given
from hypothesis import strategies as st
from runtime_models import CLASSES, manifest_entries, write_linear_classifier
from tensorrt_bundles import make_bundle

from mimiq.cache import Cache
from mimiq.export.triton import pack
from mimiq.files import FileEntry
from mimiq.progress import SILENT, Progress
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import write_bundle
from mimiq.runtime.manifest import manifest_digest
from mimiq.runtime.report.page import page
from mimiq.runtime.report.report import Report
from mimiq.runtime.serving.packed import PackedModel


@cache
def whole_bundle(folder: Path) -> tuple[Bundle, dict[str, Any], bytes]:
    """A bundle, its manifest's entries and the manifest's bytes."""
    made = write_bundle(
        folder / "linear.mimiq",
        {"model.onnx": write_linear_classifier(folder / "linear.onnx", quantized=True)},
        manifest_entries(),
        labels=[str(number) for number in range(CLASSES)],
        report=Report(notes=("a note",)),
    )
    return made, dict(made.manifest), (made.path / "manifest.json").read_bytes()


def used(path: Path) -> None:
    """Everything that reads a manifest without running the model."""
    bundle = Bundle(path)
    repr(bundle)
    page(bundle)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@fuzzed
@given(st.data())
def test_manifests_signed_again(folder: Path, data: st.DataObject) -> None:
    bundle, entries, _ = whole_bundle(folder)
    manifest = data.draw(altered(entries))
    if isinstance(manifest, dict):
        try:
            manifest["manifest_sha256"] = manifest_digest(manifest)
            text = json.dumps(manifest)
        except (TypeError, ValueError):
            return
        (bundle.path / "manifest.json").write_text(text)
        answers(lambda: used(bundle.path))


@fuzzed
@given(st.data())
def test_a_changed_manifest_is_never_taken(folder: Path, data: st.DataObject) -> None:
    bundle, entries, content = whole_bundle(folder)
    (bundle.path / "manifest.json").write_bytes(data.draw(damaged(content)))
    opened = answers(lambda: Bundle(bundle.path))
    if isinstance(opened, Bundle):  # blanks, or an edit that undoes itself
        assert dict(opened.manifest) == entries


@fuzzed
@given(st.data())
def test_a_changed_file_is_never_taken(folder: Path, data: st.DataObject) -> None:
    bundle, _, content = whole_bundle(folder)
    (bundle.path / "manifest.json").write_bytes(content)
    name = data.draw(st.sampled_from(sorted(bundle.manifest.files)))
    file = bundle.path / name
    before = file.read_bytes()
    changed = data.draw(damaged(before))
    try:
        file.write_bytes(changed)
        opened = answers(lambda: Bundle(bundle.path))
        assert (opened is None) == (changed != before)
    finally:
        file.write_bytes(before)


@fuzzed
@given(st.data())
def test_reports(folder: Path, data: st.DataObject) -> None:
    bundle, entries, content = whole_bundle(folder)
    (bundle.path / "manifest.json").write_bytes(content)
    file = bundle.path / "report.json"
    before = file.read_bytes()
    try:
        file.write_text(json.dumps(data.draw(altered(json.loads(before)))))
        entry = FileEntry.of(file)
        files = {**entries["files"], "report.json": {"sha256": entry.sha256, "bytes": entry.bytes}}
        manifest = {**entries, "files": files}
        manifest["manifest_sha256"] = manifest_digest(manifest)
        (bundle.path / "manifest.json").write_text(json.dumps(manifest))
        answers(lambda: used(bundle.path))
    finally:
        file.write_bytes(before)


@cache
def whole_repository(folder: Path) -> tuple[Bundle, dict[str, bytes]]:
    """A bundle, and the files beside its packed version."""
    bundle = make_bundle(folder)
    place = pack(bundle, folder / "models", "net").folder
    return bundle, {
        name: (place / name).read_bytes()
        for name in ("config.pbtxt", "1/mimiq.json", "model-settings.json")
    }


@fuzzed
@given(st.data())
def test_repositories(folder: Path, data: st.DataObject) -> None:
    """What is not as it was written is refused by the next pack, and never overwritten."""
    bundle, contents = whole_repository(folder)
    place = folder / "models" / "net"
    name = data.draw(st.sampled_from(sorted(contents)))
    changed = data.draw(damaged(contents[name]))
    for each, content in contents.items():
        (place / each).write_bytes(changed if each == name else content)
    answers(lambda: PackedModel(place, 1).close())
    packed = answers(lambda: pack(bundle, folder / "models", "net"))
    if name == "config.pbtxt" and changed != contents[name]:
        assert packed is None
        assert (place / name).read_bytes() == changed
    for version in place.glob("[2-9]*"):
        for file in version.iterdir():
            file.unlink()
        version.rmdir()


@dataclass(frozen=True)
class Work:
    """A stage of two files."""

    name: ClassVar[str] = "work"
    revision: ClassVar[int] = 1

    def make(self, folder: Path, progress: Progress) -> None:
        (folder / "one").write_bytes(bytes(range(64)))
        (folder / "two").write_text("2")

    def load(self, folder: Path) -> Path:
        return folder


@fuzzed
@given(st.data())
def test_finished_stages(folder: Path, data: st.DataObject) -> None:
    """A damaged entry is made again, with a note, and is then as it was."""
    told: list[str] = []
    stages = Cache(folder / "cache", told.append)
    entry = stages.run(Work(), SILENT)
    contents = {file: file.read_bytes() for file in entry.iterdir()}
    file = data.draw(st.sampled_from(sorted(contents)))
    file.write_bytes(data.draw(damaged(contents[file])))
    whole = stages.has(Work())
    assert stages.run(Work(), SILENT) == entry
    assert bool(told) != whole
    assert whole or {file: file.read_bytes() for file in entry.iterdir()} == contents
    for file, content in contents.items():
        file.write_bytes(content)
