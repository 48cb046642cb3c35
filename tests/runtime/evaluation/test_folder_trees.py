"""Trees of class folders with links, folders that cannot be read, and classes without images."""

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
from image_trees import save, tree

from mimiq.calibrate.sources import images_and_note
from mimiq.errors import BadInput
from mimiq.runtime.evaluation.labelled_folders import open_dataset


def link(path: Path, target: str | Path) -> None:
    try:
        path.symlink_to(target, target_is_directory=True)
    except OSError:
        pytest.skip("this file system has no symbolic links")


def found_in(root: Path, classes: int) -> dict[str, int]:
    """The class of each image by its path, which may be one behind a link."""
    return {path.relative_to(root).as_posix(): label for path, label in open_dataset(root, classes)}


@pytest.mark.parametrize("below", ["1", "1/deep", "."])
@pytest.mark.parametrize(
    "read", [lambda root: open_dataset(root, 2), lambda root: images_and_note(root, 3)]
)
def test_a_folder_that_cannot_be_listed_is_named(
    read: Callable[[Path], object], below: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also as root, whom no permission stops."""
    tree(tmp_path, ["0", "1", "1/deep"], each=1)
    closed, scandir, listdir = tmp_path / below, os.scandir, os.listdir

    def refusing(what: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def listed(path: Any = ".") -> Any:
            if Path(path) == closed:
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return what(path)

        return listed

    monkeypatch.setattr(os, "scandir", refusing(scandir))
    monkeypatch.setattr(os, "listdir", refusing(listdir))
    with pytest.raises(BadInput, match="cannot be listed: Permission denied") as caught:
        read(tmp_path)
    assert f"folder {closed} " in caught.value.problem


@pytest.mark.parametrize("target", ["..", "../..", "../1", "../1/deep"])
def test_a_link_within_a_class_gives_no_image_another_class(target: str, tmp_path: Path) -> None:
    root = tree(tmp_path / "root", ["0", "1", "1/deep"], each=1)
    save(tmp_path / "stray.png", 0)
    link(root / "0" / "up", target)
    assert found_in(root, 2) == {"0/0.png": 0, "1/0.png": 1, "1/deep/0.png": 1}


@pytest.mark.parametrize(
    ("target", "message"), [(".", "other classes"), ("..", "other classes"), ("1", "same folder")]
)
def test_a_class_folder_that_is_a_link_to_others_is_refused(
    target: str, message: str, tmp_path: Path
) -> None:
    root = tree(tmp_path / "root", ["0", "1"], each=1)
    link(root / "2", target)
    with pytest.raises(BadInput, match=message) as caught:
        open_dataset(root, 3)
    assert str(root / "2") in caught.value.problem


def test_class_folders_may_be_links_and_hold_links(tmp_path: Path) -> None:
    store = tree(tmp_path / "store", ["cats/young", "dogs", "more"], each=1)
    root = tree(tmp_path / "root", ["2"], each=1)
    link(root / "0", store / "cats")
    link(root / "1", store / "dogs")
    link(root / "2" / "more", store / "more")
    assert found_in(root, 3) == {
        "0/young/0.png": 0,
        "1/0.png": 1,
        "2/0.png": 2,
        "2/more/0.png": 2,
    }
    link(store / "dogs" / "up", store)  # above the classes' real folders, where others are too
    assert len(found_in(root, 3)) == 4


def test_a_class_folder_without_images_is_said(tmp_path: Path) -> None:
    tree(tmp_path, ["0", "1"], each=1)
    (tmp_path / "2").mkdir()
    (note,) = open_dataset(tmp_path, 3).notes
    assert f"{tmp_path / '2'} holds no image" in note
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "a.heic").write_bytes(b"")
    said = " ".join(open_dataset(tmp_path, 4).notes)
    assert f"{tmp_path / '2'} and 1 more hold no image" in said
    assert "1 .heic" in said


@pytest.mark.parametrize(
    ("one", "other", "labels"), [("01", "1", None), ("sea lion", "sea_lion", ("seal", "Sea Lion"))]
)
def test_two_folders_of_one_class_are_refused(
    one: str, other: str, labels: tuple[str, ...] | None, tmp_path: Path
) -> None:
    tree(tmp_path, [one, other], each=1)
    with pytest.raises(BadInput, match="are both class 1") as caught:
        open_dataset(tmp_path, 2, labels=labels)
    assert f"{tmp_path / one} and {tmp_path / other} are" in caught.value.problem


def test_images_beside_the_class_folders_are_counted(tmp_path: Path) -> None:
    tree(tmp_path, ["0", "1"], each=1)
    save(tmp_path / "a.png", 0)
    (note,) = open_dataset(tmp_path, 2).notes
    assert "1 image lies" in note
    save(tmp_path / "b.jpg", 0)
    save(tmp_path / ".c.jpg", 0)
    (note,) = open_dataset(tmp_path, 2).notes
    assert "2 images lie" in note


@pytest.mark.parametrize(("written", "known"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accented_labels_are_found_however_they_are_written(
    written: Literal["NFC", "NFD"], known: Literal["NFC", "NFD"], tmp_path: Path
) -> None:
    """macOS takes accented letters apart in names of files, and other systems do not."""
    names = ("flambé", "crème_brûlée")
    tree(tmp_path, [unicodedata.normalize(written, name) for name in names], each=1)
    labels = [unicodedata.normalize(known, name) for name in names]
    for called in (labels, [label.replace("_", " ").title() for label in labels]):
        found = open_dataset(tmp_path, 2, labels=called)
        classes = {path.parent.name: label for path, label in found}
        assert classes == {unicodedata.normalize(written, name): i for i, name in enumerate(names)}
        assert found.notes == ()
