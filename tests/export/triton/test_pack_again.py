"""Packing beside what is there: versions, failures half way, two at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from packing import labelled

from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.export.triton import pack
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.serving.packed import PackedModel, versions_of


def test_what_is_not_ours_is_left_alone(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "theirs/1").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("x")
    for name in ("theirs", "other"):
        with pytest.raises(BadInput, match="cannot take this model"):
            pack(bundle, tmp_path, name)
    with pytest.raises(BadInput, match="cannot name a model"):
        pack(bundle, tmp_path, "../out")
    pack(bundle, tmp_path, "net")
    config = tmp_path / "net/config.pbtxt"
    config.write_text(config.read_text() + "# mine\n")
    with pytest.raises(BadInput, match="edited by hand"):
        pack(bundle, tmp_path, "net")
    (tmp_path / "net/labels.txt").unlink()
    config.unlink()
    assert pack(bundle, tmp_path, "net").version == 2  # what was lost is written again
    assert (tmp_path / "net/labels.txt").is_file()


@pytest.mark.parametrize("inner", [".", "models", "a/b"])
def test_a_bundle_is_no_place_for_a_repository(bundle: Bundle, inner: str) -> None:
    before = content(bundle.path)
    with pytest.raises(BadInput, match="is a bundle") as raised:
        pack(bundle, bundle.path / inner, "net")
    assert "outside" in raised.value.next_step
    assert content(bundle.path) == before


def test_a_folder_with_another_s_manifest_is_a_place(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "an application"}')
    assert pack(bundle, tmp_path, "net").version == 1


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_failure_leaves_nothing(bundle: Bundle, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("mimiq.export.triton.plan.shutil.copyfile", _no_space)
    with pytest.raises(Exception, match="disk is full"):
        pack(bundle, tmp_path / "repo", "net")
    assert not (tmp_path / "repo/net").exists()


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("file", ["labels.txt", "model-settings.json", "config.pbtxt"])
@pytest.mark.parametrize("before", [0, 1])
def test_a_failure_beside_the_version_takes_it_back(
    bundle: Bundle, tmp_path: Path, monkeypatch: Any, file: str, before: int
) -> None:
    """The version is in its place by then: the next pack of the same thing finds it gone."""
    for _ in range(before):
        pack(bundle, tmp_path, "net")
    expected, replace = content(tmp_path), os.replace

    def fails(source: Any, target: Any) -> None:
        if Path(target).name == file:
            assert (tmp_path / f"net/{before + 1}/model.onnx").is_file()
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("mimiq.export.triton.repository.os.replace", fails)
        with pytest.raises(EnvironmentLacks, match="disk is full"):
            pack(bundle, tmp_path, "net")
    assert content(tmp_path) == expected
    assert (tmp_path / "net").exists() == bool(before)
    assert pack(bundle, tmp_path, "net").version == before + 1


def test_an_interruption_after_the_last_file_loses_nothing(
    bundle: Bundle, tmp_path: Path, monkeypatch: Any
) -> None:
    replace = os.replace

    def interrupted(source: Any, target: Any) -> None:
        replace(source, target)
        if Path(target).name == "config.pbtxt":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mimiq.export.triton.repository.os.replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pack(bundle, tmp_path, "net")
    assert versions_of(tmp_path / "net") == [1]
    assert pack(bundle, tmp_path, "net").version == 2


def test_a_pack_that_was_killed_is_no_edit_by_hand(bundle: Bundle, tmp_path: Path) -> None:
    pack(bundle, tmp_path, "net")
    config = tmp_path / "net/config.pbtxt"
    older = config.read_bytes()
    pack(bundle, tmp_path, "net")
    config.write_bytes(older)  # as it is between the version's move and the configuration's
    assert pack(bundle, tmp_path, "net").version == 3


@pytest.mark.parametrize("loser", ["first", "second"])
def test_two_first_packs_at_once(
    bundle: Bundle, tmp_path: Path, monkeypatch: Any, loser: str
) -> None:
    """The second packs while the first, which has seen no model there, makes its folder."""
    other, mkdir, calls = labelled(bundle, "another first"), Path.mkdir, []

    def second() -> None:
        with monkeypatch.context() as patch:
            if loser == "second":
                patch.setattr("mimiq.export.triton.plan.shutil.copyfile", _no_space)
                with pytest.raises(EnvironmentLacks, match="disk is full"):
                    pack(other, tmp_path, "net")
            else:
                pack(other, tmp_path, "net")

    def hooked(path: Path, *arguments: Any, **options: Any) -> None:
        calls.append(path)
        if len(calls) == 1:
            second()
        mkdir(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", hooked)
        if loser == "first":
            with pytest.raises(BadInput, match="just been written by somebody else"):
                pack(bundle, tmp_path, "net")
        else:
            pack(bundle, tmp_path, "net")
    winner = bundle if loser == "second" else other
    names = sorted(path.name for path in (tmp_path / "net").iterdir())
    assert names == ["1", "config.pbtxt", "labels.txt", "model-settings.json"]
    labels = (tmp_path / "net/labels.txt").read_text("utf-8").splitlines()
    assert labels == list(winner.labels or ())
    with PackedModel(tmp_path / "net", device="cpu") as model:
        assert model.record.manifest_sha256 == winner.digest
    assert pack(winner, tmp_path, "net").version == 2
