"""Bundles, reports, packed records and finished stages with any JSON in them."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner
from fuzzing import altered, answers, damaged, fuzzed
from hypothesis import given
from hypothesis import strategies as st
from reports import COMPARISON, report
from rich.console import Console
from runtime_models import CLASSES, manifest_entries, write_linear_classifier
from tensorrt_bundles import make_bundle

from mimiq.cache import Cache
from mimiq.cli import main
from mimiq.cli.commands.compare import compared, networks_json
from mimiq.errors import BadInput
from mimiq.export.triton import pack
from mimiq.files import FileEntry
from mimiq.progress import SILENT, Progress
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import write_bundle
from mimiq.runtime.evaluation.class_changes import ClassChange
from mimiq.runtime.evaluation.held_out import Cost, HeldOut
from mimiq.runtime.evaluation.similarity import EmbeddingCost, Similarity
from mimiq.runtime.manifest import manifest_digest
from mimiq.runtime.report.comparison.page import comparison_page
from mimiq.runtime.report.page import page
from mimiq.runtime.report.report import Report, Tuning
from mimiq.runtime.report.terminal import render
from mimiq.runtime.serving.packed import PackedModel


def measured() -> Report:
    """One with something under every entry."""
    found = Similarity(48, 0.99, 0.98, 0.97, 47, 0.01)
    return replace(
        report(
            similarity=EmbeddingCost({"synthetic": found}, found),
            accuracy=replace(COMPARISON, lost=(ClassChange(3, 50, 40, 38, ((4, 2),)),)),
            fallbacks=["a layer"],
        ),
        held_out=HeldOut({kind: Cost(48, 47, 0.06, 0.01) for kind in ("synthetic", "scenes")}),
        simulation=COMPARISON,
        tuning=Tuning(100, 0.5, 0.25, 50, ((0, 0.5), (50, 0.25)), agreement=0.9, seconds=3.5),
        seconds=60.5,
        memory={"int8": 1000, "other": 500},
        layers={"blocks.0.attn.qkv": 1e-4},
        command="mimiq-compile digits --int8",
    )


@cache
def whole_bundle(folder: Path) -> tuple[Bundle, dict[str, Any], bytes]:
    """A bundle, its manifest's entries and the manifest's bytes."""
    made = write_bundle(
        folder / "linear.mimiq",
        {"model.onnx": write_linear_classifier(folder / "linear.onnx", quantized=True)},
        manifest_entries(),
        labels=[str(number) for number in range(CLASSES)],
        report=measured(),
    )
    return made, dict(made.manifest), (made.path / "manifest.json").read_bytes()


def used(path: Path, *others: Path) -> None:
    """Everything that reads a manifest and a report without running the model."""
    bundle = Bundle(path)
    repr(bundle)
    answers(lambda: page(bundle))
    if (found := bundle.report) is not None:
        Console(file=io.StringIO()).print(render(found))
    for command in (["inspect", path], *(["compare", path, other] for other in others)):
        done = CliRunner().invoke(main, [str(word) for word in command])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code in (0, BadInput.exit_code), done.output
        assert len(done.output) < 50_000
    networks = compared([bundle, *map(Bundle, others)], 1.0) if others else {}
    json.dumps(networks_json(networks), allow_nan=False)
    comparison_page(networks)


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


@cache
def other_bundles(folder: Path) -> tuple[Path, ...]:
    """Of the same network, one with a whole report and one with nothing but the cost."""
    model = write_linear_classifier(folder / "linear.onnx", quantized=True)
    cost = replace(measured(), accuracy=None, similarity=None)
    return tuple(
        write_bundle(folder / name, {"model.onnx": model}, manifest_entries(), report=each).path
        for name, each in (("whole.mimiq", measured()), ("cost.mimiq", cost))
    )


@fuzzed
@given(st.data())
def test_reports(folder: Path, data: st.DataObject) -> None:
    """Whatever one holds, every command that shows it does so or names what it cannot use."""
    bundle, entries, content = whole_bundle(folder)
    (bundle.path / "manifest.json").write_bytes(content)
    others = other_bundles(folder)
    file = bundle.path / "report.json"
    before = file.read_bytes()
    try:
        file.write_text(json.dumps(data.draw(altered(json.loads(before)))))
        entry = FileEntry.of(file)
        files = {**entries["files"], "report.json": {"sha256": entry.sha256, "bytes": entry.bytes}}
        manifest = {**entries, "files": files}
        manifest["manifest_sha256"] = manifest_digest(manifest)
        (bundle.path / "manifest.json").write_text(json.dumps(manifest))
        answers(lambda: used(bundle.path, *others))
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
