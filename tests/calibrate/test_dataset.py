"""Calibration sets on disk: what goes in comes out, and nothing is left half-made."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from calibration_sets import SIZE, corrupt_pixels, manifest, pixels, write_set
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mimiq.calibrate import CalibrationSet, CalibrationSetWriter, make_manifest
from mimiq.durable import beside
from mimiq.errors import BadInput, EnvironmentLacks


def test_round_trip(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    read = CalibrationSet.open(tmp_path / "set")
    assert len(read) == 11
    assert read.input_shape == (3, SIZE, SIZE)
    assert read.images().dtype == np.uint8
    np.testing.assert_array_equal(read.images(), pixels(11))
    np.testing.assert_array_equal(read.labels, np.arange(11) + 100)
    assert read.labels.dtype == np.int64
    assert read.manifest["kind"] == "synthetic"
    assert read.manifest["model"]["weights_sha256"] == "ab"
    assert read.manifest["complete"] is True
    assert read.manifest["software"]["numpy"] == np.__version__
    read.verify()
    assert not list((tmp_path / "set").glob(".*.tmp"))


def test_unknown_labels_are_minus_one(tmp_path: Path) -> None:
    writer = CalibrationSetWriter(tmp_path / "set", manifest(2))
    writer.write(0, pixels(2))
    np.testing.assert_array_equal(writer.finish().labels, [-1, -1])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    batch_size=st.integers(1, 9),
    data=st.data(),
)
def test_batches_of_any_view_are_its_images_in_order(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], batch_size: int, data: st.DataObject
) -> None:
    whole = write_set(tmp_path_factory.mktemp("sets") / "set", tuple(sizes))
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(start + 1, len(whole)))
    view = whole.subset(start, stop)
    batches = list(view.batches(batch_size))
    assert [len(images) for images, _ in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert 1 <= len(batches[-1][0]) <= batch_size
    expected = pixels(len(whole))[start:stop]
    np.testing.assert_array_equal(np.concatenate([images for images, _ in batches]), expected)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in batches]), view.labels)
    np.testing.assert_array_equal(view.images(), expected)


def test_only_the_shards_of_a_view_are_read(tmp_path: Path) -> None:
    writer = CalibrationSetWriter(tmp_path / "set", make_manifest("noise", 12, 64, 0, {}))
    for index in range(3):
        writer.write(index, np.zeros((4, 64, 64, 3), np.uint8))
    writer.finish()
    corrupt_pixels(tmp_path / "set" / "batch-00002.npz")
    read = CalibrationSet.open(tmp_path / "set")
    assert len(list(read.subset(0, 8).batches(3))) == 3
    with pytest.raises(BadInput, match=r"batch-00002\.npz is truncated or damaged"):
        read.images()


def test_batches_hold_one_shard_and_one_batch_in_memory(tmp_path: Path) -> None:
    writer = CalibrationSetWriter(tmp_path / "set", make_manifest("noise", 480, 64, 0, {}))
    for index in range(30):
        writer.write(index, np.full((16, 64, 64, 3), index, np.uint8))
    made = writer.finish()
    shard = 16 * 64 * 64 * 3
    tracemalloc.start()
    try:
        assert sum(int(images.sum()) for images, _ in made.batches(24)) == shard * sum(range(30))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * shard  # of 30


def test_split_is_disjoint_and_nested_views_count_from_their_own_start(tmp_path: Path) -> None:
    training, held_out = write_set(tmp_path / "set").split(3)
    assert (len(training), len(held_out)) == (8, 3)
    np.testing.assert_array_equal(held_out.images(), pixels(11)[8:])
    np.testing.assert_array_equal(held_out.subset(1, 3).images(), pixels(11)[9:])
    for held in (0, 11, 12, -1):
        with pytest.raises(BadInput, match="do not exist"):
            write_set(tmp_path / f"set{held}").split(held)


def test_content_hash_depends_on_content_alone(tmp_path: Path) -> None:
    one = write_set(tmp_path / "one", (4, 4, 3))
    other = write_set(tmp_path / "other", (11,))
    different = write_set(tmp_path / "different", (11,), seed=1)
    assert one.content_hash == other.content_hash == one.manifest["content_sha256"]
    assert one.content_hash != different.content_hash
    assert one.subset(0, 4).content_hash == other.subset(0, 4).content_hash != one.content_hash
    relabelled = CalibrationSetWriter(tmp_path / "relabelled", manifest(11))
    relabelled.write(0, pixels(11))
    assert relabelled.finish().content_hash != one.content_hash


def test_verify_finds_a_replaced_shard(tmp_path: Path) -> None:
    write_set(tmp_path / "set", (4, 4))
    write_set(tmp_path / "other", (4, 4), seed=1)
    os.replace(tmp_path / "other" / "batch-00001.npz", tmp_path / "set" / "batch-00001.npz")
    with pytest.raises(BadInput, match="was changed"):
        CalibrationSet.open(tmp_path / "set").verify()


def test_contact_sheet_shows_the_images(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    sheet = np.asarray(Image.open(tmp_path / "set" / "contact_sheet.png"))
    assert sheet.shape == (2 * 66, 8 * 66, 3)  # 8-pixel images enlarged to 64, and a white frame
    np.testing.assert_array_equal(sheet[1:65:8, 67 : 67 + 64 : 8], pixels(11)[1])
    np.testing.assert_array_equal(sheet[67:131:8, 1:65:8], pixels(11)[8])


# --- interruption ---------------------------------------------------------------------------


def test_an_unfinished_set_resumes_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "set"
    first = CalibrationSetWriter(path, manifest(8))
    assert not first.resumed
    first.write(0, pixels(8)[:4])
    with pytest.raises(BadInput, match="unfinished"):
        CalibrationSet.open(path)

    again = CalibrationSetWriter(path, manifest(8, hardware="another", software={}))
    assert again.resumed
    assert again.has(0)
    assert not again.has(1)
    with pytest.raises(BadInput, match="holds 4 images, its manifest says 8"):
        again.finish()
    again.write(1, pixels(8)[4:])
    np.testing.assert_array_equal(again.finish().images(), pixels(8))


@pytest.mark.parametrize("entry", ["recipe", "model"])
def test_an_unfinished_set_with_an_odd_manifest_is_told(tmp_path: Path, entry: str) -> None:
    CalibrationSetWriter(tmp_path / "set", manifest(8)).write(0, pixels(8)[:4])
    file = tmp_path / "set" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), entry: True}))
    with pytest.raises(BadInput, match="unfinished"):
        CalibrationSet.open(tmp_path / "set")


def test_a_finished_set_is_left_as_it_is(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "set").iterdir()}
    writer = CalibrationSetWriter(tmp_path / "set", manifest(11))
    assert all(writer.has(index) for index in range(3))
    writer.finish()
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "set").iterdir()}


def test_a_damaged_shard_counts_as_absent_and_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "set"
    expected = write_set(path).content_hash
    corrupt_pixels(path / "batch-00001.npz")
    shard = path / "batch-00002.npz"
    shard.write_bytes(shard.read_bytes()[:-30])
    writer = CalibrationSetWriter(path, manifest(11))
    assert [writer.has(index) for index in range(4)] == [True, False, False, False]
    writer.write(1, pixels(11)[4:8], np.arange(104, 108))
    with pytest.raises(BadInput, match="unfinished"):  # no longer claimed to be complete
        CalibrationSet.open(path)
    writer.write(2, pixels(11)[8:], np.arange(108, 111))
    assert writer.finish().content_hash == expected


@pytest.mark.parametrize(
    "change",
    [{"seed": 8}, {"count": 12}, {"kind": "psaq"}, {"recipe": {"steps": 4}}, {"model": None}],
)
def test_another_manifest_is_refused_and_named(tmp_path: Path, change: dict[str, Any]) -> None:
    CalibrationSetWriter(tmp_path / "set", manifest(8)).write(0, pixels(4))
    (name,) = change
    with pytest.raises(BadInput, match=rf"another calibration set \(its {name} differs\)") as error:
        CalibrationSetWriter(tmp_path / "set", manifest(8) | change)
    assert "Choose a new folder" in error.value.next_step


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OSError(errno.EIO, "I/O error")])
def test_interruption_between_write_and_rename_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    writer = CalibrationSetWriter(tmp_path / "set", manifest(8))
    writer.write(0, pixels(4))

    def interrupted(*_: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises((KeyboardInterrupt, SystemExit, BadInput)):
            writer.write(1, pixels(4))
    names = sorted(file.name for file in (tmp_path / "set").iterdir())
    assert names == ["batch-00000.npz", "manifest.json"]
    resumed = CalibrationSetWriter(tmp_path / "set", manifest(8))
    assert resumed.has(0)
    assert not resumed.has(1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_shard_that_is_no_file_is_told_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "set"
    write_set(path)
    shard = path / "batch-00001.npz"
    shard.unlink()
    if kind == "pipe":
        os.mkfifo(shard)  # reading it would wait for ever
    else:
        shard.symlink_to("/dev/zero")
    with pytest.raises(BadInput, match=r"batch-00001\.npz is truncated or damaged"):
        CalibrationSet.open(path).verify()


def test_what_a_killed_process_left_is_ignored_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "set"
    writer = CalibrationSetWriter(path, manifest(4))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    name = beside(path / "batch-00000.npz").name
    left = path / name.replace(f"-{os.getpid()}-", f"-{dead.pid}-")
    left.write_bytes(b"PK half a shard")
    writer = CalibrationSetWriter(path, manifest(4))
    assert not writer.has(0)
    writer.write(0, pixels(4))
    writer.finish()
    assert not left.exists()


def test_full_disk_is_one_clear_error_and_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = CalibrationSetWriter(tmp_path / "set", manifest(8))
    writer.write(0, pixels(4))
    whole = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        whole(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(EnvironmentLacks, match=r"disk is full: .*batch-00001") as error:
            writer.write(1, pixels(4))
        assert "run the same command again" in error.value.next_step
        with pytest.raises(EnvironmentLacks, match="is full"):
            CalibrationSetWriter(tmp_path / "new", manifest(8))
    assert sorted(file.name for file in (tmp_path / "set").iterdir()) == [
        "batch-00000.npz",
        "manifest.json",
    ]
    writer.write(1, pixels(4))
    assert len(writer.finish()) == 8


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_as_the_kernel_reports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = CalibrationSetWriter(tmp_path / "set", manifest(4))
    temporary = tmp_path / "set" / ".batch-00000.npz.tmp"
    temporary.symlink_to("/dev/full")
    monkeypatch.setattr("mimiq.files.beside", lambda path: temporary)
    with pytest.raises(EnvironmentLacks, match="is full"):
        writer.write(0, pixels(4))
    assert [file.name for file in (tmp_path / "set").iterdir()] == ["manifest.json"]


def test_discard_removes_the_set_and_nothing_else(tmp_path: Path) -> None:
    writer = CalibrationSetWriter(tmp_path / "set", manifest(8))
    writer.write(0, pixels(4))
    (tmp_path / "set" / "notes.txt").write_text("mine")
    writer.discard()
    assert [file.name for file in (tmp_path / "set").iterdir()] == ["notes.txt"]
    (tmp_path / "set" / "notes.txt").unlink()
    CalibrationSetWriter(tmp_path / "set", manifest(8)).discard()
    assert not (tmp_path / "set").exists()


# --- bad input ------------------------------------------------------------------------------


def test_manifest_on_disk_is_readable_json(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    data = json.loads((tmp_path / "set" / "manifest.json").read_text())
    wanted = {"format", "kind", "model", "recipe", "seed", "count", "image_size", "software"}
    assert wanted | {"hardware", "content_sha256", "created", "complete"} == set(data)
    assert data["format"] == "mimiq-calibration/1"


def test_sets_need_neither_torch_nor_onnx() -> None:
    code = "import sys, mimiq.calibrate; print({'torch', 'timm', 'onnx'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
