"""Labelled images from folders and arrays: order, indices, and every mistake named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_trees import save, tree
from runtime_models import SIZE

from mimiq.calibrate.sources import from_folder
from mimiq.errors import BadInput
from mimiq.runtime.evaluation.datasets import ImageFiles, InMemoryImages
from mimiq.runtime.evaluation.labelled_folders import open_dataset
from mimiq.runtime.image_files import IMAGE_SUFFIXES
from mimiq.runtime.preprocessing import Preprocessing


def test_class_folders_in_sorted_order(tmp_path: Path) -> None:
    found = open_dataset(tree(tmp_path, ["n02", "n01", "n10"]), 3)
    assert [(path.parent.name, label) for path, label in found] == [
        ("n01", 0),
        ("n01", 0),
        ("n02", 1),
        ("n02", 1),
        ("n10", 2),
        ("n10", 2),
    ]


def test_folders_named_by_numbers_are_indices(tmp_path: Path) -> None:
    found = open_dataset(tree(tmp_path, ["10", "9", "003"], each=1), 1000)
    assert {path.parent.name: label for path, label in found} == {"003": 3, "10": 10, "9": 9}


def test_an_empty_class_keeps_its_place(tmp_path: Path) -> None:
    tree(tmp_path, ["a", "c"], each=1)
    (tmp_path / "b").mkdir()
    (tmp_path / ".cache").mkdir()
    (tmp_path / "a" / "readme.txt").write_text("no image")
    assert open_dataset(tmp_path, 3).labels == (0, 2)


def test_every_kind_of_image_that_calibration_reads(tmp_path: Path) -> None:
    for number, suffix in enumerate(sorted(IMAGE_SUFFIXES)):
        save(tmp_path / "images" / "0" / f"{number}{suffix}", number)
    assert {".gif", ".pgm"} <= IMAGE_SUFFIXES
    found = open_dataset(tmp_path / "images", 10)
    assert len(found) == len(IMAGE_SUFFIXES)
    preprocessing = Preprocessing(image_size=SIZE, crop_pct=1.0)
    (batch,) = (images for images, _ in found.batches(preprocessing, 16))
    assert batch.shape == (len(IMAGE_SUFFIXES), 3, SIZE, SIZE)
    imported = from_folder(tmp_path / "images", preprocessing, tmp_path / "set")
    assert len(imported) == len(found)


def test_limit_spreads_evenly(tmp_path: Path) -> None:
    root = tree(tmp_path, ["a", "b", "c", "d"], each=3)
    assert open_dataset(root, 4, limit=4).labels == (0, 1, 2, 3)
    assert len(open_dataset(root, 4, limit=7)) == 7
    assert len(open_dataset(root, 4, limit=700)) == 12
    with pytest.raises(BadInput, match="limit of 0"):
        open_dataset(root, 4, limit=0)


def test_too_few_folders_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        open_dataset(tree(tmp_path, ["n01440764", "n01443537"]), 1000)
    assert "2 class folders" in caught.value.problem
    assert "1000 classes" in caught.value.problem
    assert "val.txt" in caught.value.next_step


LABELS = ("zebra", "Sea_Lion", "ant")


def classes_of(root: Path, classes: int, labels: tuple[str, ...] | None = None) -> dict[str, int]:
    found = open_dataset(root, classes, labels=labels)
    return {path.parent.name: label for path, label in found}


def test_folders_named_as_labels_have_their_classes(tmp_path: Path) -> None:
    tree(tmp_path, ["ant", "sea lion", "zebra"])
    assert classes_of(tmp_path, 3, LABELS) == {"ant": 2, "sea lion": 1, "zebra": 0}
    assert open_dataset(tmp_path, 3, labels=LABELS).notes == ()


def test_labels_that_are_numbers_come_before_indices(tmp_path: Path) -> None:
    tree(tmp_path, ["1", "2", "3"])
    assert classes_of(tmp_path, 3, ("3", "1", "2")) == {"1": 1, "2": 2, "3": 0}


def test_a_part_of_the_labelled_folders_is_measured_and_said(tmp_path: Path) -> None:
    tree(tmp_path, ["ant", "zebra"])
    found = open_dataset(tmp_path, 3, labels=LABELS)
    assert set(found.labels) == {0, 2}
    assert "2 folders for 3 classes" in " ".join(found.notes)


@pytest.mark.parametrize("folders", [["ant", "zebra", "others"], ["0", "1", "others"]])
def test_a_stray_folder_shifts_no_class(tmp_path: Path, folders: list[str]) -> None:
    with pytest.raises(BadInput, match="others is no class"):
        open_dataset(tree(tmp_path, folders), 3, labels=LABELS)


def test_two_labels_of_one_name_name_no_class(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="crane is no class"):
        open_dataset(tree(tmp_path, ["ant", "crane"]), 3, labels=("ant", "crane", "crane"))


def test_natural_order_is_timms_and_said(tmp_path: Path) -> None:
    from timm.data.readers.reader_image_folder import find_images_and_targets

    names = [f"class{number}" for number in range(5, 15)] + ["Class4", "class4b"]
    tree(tmp_path, names, each=1)
    _, theirs = find_images_and_targets(str(tmp_path))
    assert classes_of(tmp_path, 12) == theirs
    assert "Class4 as class 0 to class14" in " ".join(open_dataset(tmp_path, 12).notes)


def test_wordnet_folders_need_no_doubt(tmp_path: Path) -> None:
    tree(tmp_path, ["n01440764", "n01443537", "n01484850"])
    assert open_dataset(tmp_path, 3, labels=LABELS).notes == ()


def test_numbers_from_one_are_doubted(tmp_path: Path) -> None:
    tree(tmp_path, [str(number) for number in range(1, 10)], each=1)
    digits = tuple("0123456789")
    for labels in (None, digits):
        assert "no folder 0" in " ".join(open_dataset(tmp_path, 10, labels=labels).notes)
    save(tmp_path / "0" / "0.png", 0)
    assert open_dataset(tmp_path, 10, labels=digits).notes == ()


def test_what_systems_leave_behind_is_no_image(tmp_path: Path) -> None:
    tree(tmp_path, ["a", "b"], each=1)
    for path in (
        "__MACOSX/a/._0.png",
        ".Trashes/0.png",
        "a/._0.png",
        "a/.ipynb_checkpoints/0-checkpoint.png",
        "b/@eaDir/0.png",
    ):
        save(tmp_path / path, 0)
    assert [path.relative_to(tmp_path).as_posix() for path, _ in open_dataset(tmp_path, 2)] == [
        "a/0.png",
        "b/0.png",
    ]


@pytest.mark.parametrize(
    ("folders", "labels", "found"),
    [
        (["ant", "zebra"], LABELS, {0, 2}),
        (["ant", "Sea Lion"], LABELS, {1, 2}),
        (["0", "2"], None, {0, 2}),
        (["0", "2"], LABELS, {0, 2}),
    ],
)
def test_a_system_s_folder_takes_no_missing_class_s_place(
    folders: list[str], labels: tuple[str, ...] | None, found: set[int], tmp_path: Path
) -> None:
    """As many folders as classes, and one of them holds nobody's images."""
    tree(tmp_path, [*folders, "__MACOSX/ant"])
    dataset = open_dataset(tmp_path, 3, labels=labels)
    assert set(dataset.labels) == found
    assert "2 folders for 3 classes" in " ".join(dataset.notes)


@pytest.mark.parametrize("folders", [["cat", "dog"], ["n01440764", "n01484850"]])
@pytest.mark.parametrize("labels", [None, LABELS])
def test_in_sorted_order_a_missing_class_beside_a_system_s_folder_is_refused(
    folders: list[str], labels: tuple[str, ...] | None, tmp_path: Path
) -> None:
    tree(tmp_path, [*folders, "__MACOSX/cat"])
    with pytest.raises(BadInput, match="2 class folders, but the model has 3"):
        open_dataset(tmp_path, 3, labels=labels)


def test_images_that_are_not_read_are_named(tmp_path: Path) -> None:
    tree(tmp_path, ["0", "1"], each=1)
    for name in ("0/x.HEIC", "1/x.avif", "1/y.avif", "1/notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (note,) = open_dataset(tmp_path, 2).notes
    assert "2 .avif, 1 .heic" in note


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no folder of images"):
        open_dataset(tmp_path / "absent", 10)
    with pytest.raises(BadInput, match="no folder of images at an empty path"):
        open_dataset("", 10)
    with pytest.raises(BadInput, match="neither class folders nor"):
        open_dataset(tmp_path, 10)
    (tmp_path / "0").mkdir()
    with pytest.raises(BadInput, match="hold no images"):
        open_dataset(tmp_path, 10)
    save(tmp_path / "10" / "0.png", 0)
    with pytest.raises(BadInput, match="class 10 is out of range"):
        open_dataset(tmp_path, 10)


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 23), batch_size=st.integers(1, 30))
def test_batches_hold_every_image_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, count: int, batch_size: int
) -> None:
    root = tmp_path_factory.mktemp("images")
    for index in range(count):
        save(root / f"{index:02}.png", index)
    paths = tuple(root / f"{index:02}.png" for index in range(count))
    preprocessing = Preprocessing(SIZE, 1.0, mean=(0, 0, 0), std=(1 / 255,) * 3)
    files = ImageFiles(paths, tuple(range(count)), count)
    pixels = np.stack([np.full((SIZE, SIZE, 3), index, np.uint8) for index in range(count)])
    memory = InMemoryImages(pixels, np.arange(count), count)
    for dataset in (files, memory):
        batches = list(dataset.batches(preprocessing, batch_size))
        sizes = [len(labels) for _, labels in batches]
        assert sizes[:-1] == [batch_size] * (len(sizes) - 1)
        labels = np.concatenate([labels for _, labels in batches])
        shades = np.concatenate([images[:, 0, 0, 0] for images, _ in batches])
        np.testing.assert_array_equal(labels, np.arange(count))
        np.testing.assert_allclose(shades, np.arange(count), atol=1e-3)


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    tree(tmp_path, ["0"], each=3)
    (tmp_path / "0" / "1.png").write_text("no image")
    found = open_dataset(tmp_path, 10)
    with pytest.raises(BadInput, match=r"1\.png is not an image"):
        list(found.batches(Preprocessing(SIZE, 1.0), 2))


def test_bad_arrays() -> None:
    pixels, labels = np.zeros((2, SIZE, SIZE, 3), np.uint8), np.array([0, 1])
    with pytest.raises(BadInput, match="float64"):
        InMemoryImages(pixels.astype(np.float64), labels, 10)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="labels of shape"):
        InMemoryImages(pixels, labels[:1], 10)
    with pytest.raises(BadInput, match=r"\[0, 10\]"):
        InMemoryImages(pixels, np.array([0, 10]), 10)
    with pytest.raises(BadInput, match="do not fit"):
        list(InMemoryImages(pixels, labels, 10).batches(Preprocessing(16), 1))
    with pytest.raises(BadInput, match="batch of 0"):
        list(InMemoryImages(pixels, labels, 10).batches(Preprocessing(SIZE), 0))
