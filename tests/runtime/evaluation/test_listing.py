"""Images listed in a ``val.txt``: their order and classes, and every mistake named."""

from __future__ import annotations

import os
import time
import unicodedata
from pathlib import Path
from threading import Thread
from typing import Literal

import pytest
from image_trees import save, tree

from mimiq.errors import BadInput
from mimiq.runtime.evaluation.labelled_folders import open_dataset


def listing(root: Path, lines: str, files: int = 3, inside: str = ".") -> Path:
    for index in range(files):
        save(root / inside / f"{index}.png", index)
    (root / "val.txt").write_text(lines)
    return root


@pytest.mark.parametrize("inside", [".", "images"])
def test_listing(tmp_path: Path, inside: str) -> None:
    root = listing(tmp_path, "2.png 7\n\n  0.png\t0\n1.png 999\n", inside=inside)
    found = open_dataset(root, 1000)
    assert [(path.name, label) for path, label in found] == [
        ("2.png", 7),
        ("0.png", 0),
        ("1.png", 999),
    ]
    assert found[2] == (found.paths[2], 999)


def test_listing_wins_over_folders_and_takes_names_with_blanks(tmp_path: Path) -> None:
    tree(tmp_path, ["a cat", "b"], each=1)
    (tmp_path / "val.txt").write_text("a cat/0.png 5\n")
    assert list(open_dataset(tmp_path, 10)) == [(tmp_path / "a cat" / "0.png", 5)]


def test_listing_of_a_windows_editor(tmp_path: Path) -> None:
    root = listing(tmp_path, "")
    (root / "val.txt").write_bytes(b"\xef\xbb\xbf0.png 4\r\n1.png 5\r\n")
    assert open_dataset(root, 10).labels == (4, 5)


def test_a_long_line_is_quick_and_its_message_short(tmp_path: Path) -> None:
    for line in (" " * 50_000 + "x", "x" + " " * 50_000 + "y", "0.png " + "9" * 5000, "y" * 5000):
        root = listing(tmp_path, line)
        started = time.process_time()
        with pytest.raises(BadInput) as caught:
            open_dataset(root, 10)
        assert time.process_time() - started < 1  # it took ten while the time grew as the square
        assert len(caught.value.problem) < 500
    with pytest.raises(BadInput, match="neither beside it"):
        open_dataset(listing(tmp_path, "y" * 5000 + " 1"), 10)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("0.png 1\n1.png\n", r"line 2: '1\.png' is not of the form"),
        ("0.png 1\n1.png cat\n", "line 2: .* is not of the form"),
        ("0.png 1.5\n", "line 1: .* is not of the form"),
        ("7\n", "line 1: '7' is not of the form"),
        ("0.png 1\n\n1.png 10\n", "line 3: class 10 is out of range .* 10 classes"),
        ("0.png -1\n", "line 1: class -1 is out of range"),
        ("0.png 1\nabsent.png 1\n", r"line 2: absent\.png is neither"),
        ("\n \n", "lists no images"),
        ("0.png 1\n1.png 1\n./0.png 2\n", r"line 3: \./0\.png has class 2, and class 1 in line 1"),
    ],
)
def test_bad_listing(tmp_path: Path, lines: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        open_dataset(listing(tmp_path, lines), 10)


def test_listing_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match=r"val\.txt cannot be read"):
        open_dataset(tmp_path, 10)


def test_a_line_that_is_repeated_counts_once_and_is_said(tmp_path: Path) -> None:
    found = open_dataset(listing(tmp_path, "0.png 1\n1.png 2\n0.png 1\n./0.png 1\n"), 10)
    assert [(path.name, label) for path, label in found] == [("0.png", 1), ("1.png", 2)]
    (note,) = found.notes
    assert "repeats 2 lines" in note


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_listing_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tree(tmp_path, ["0", "1"]) / "val.txt"
    os.mkfifo(pipe)
    writer = Thread(target=pipe.write_bytes, args=(b"0/0.png 0\n",), daemon=True)
    writer.start()
    with pytest.raises(BadInput, match=r"val\.txt cannot be read: it is no regular file"):
        open_dataset(tmp_path, 2)
    pipe.read_bytes()  # lets the writer go
    writer.join()


def test_a_listing_that_is_a_broken_link_is_not_passed_over(tmp_path: Path) -> None:
    tree(tmp_path, ["0", "1"])
    try:
        (tmp_path / "val.txt").symlink_to(tmp_path / "gone")
    except OSError:
        pytest.skip("this file system has no symbolic links")
    with pytest.raises(BadInput, match=r"val\.txt cannot be read: .*No such file"):
        open_dataset(tmp_path, 2)


@pytest.mark.parametrize(("written", "listed"), [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize("inside", [".", "images"])
def test_accented_letters_are_found_however_they_are_written(
    written: Literal["NFC", "NFD"], listed: Literal["NFC", "NFD"], inside: str, tmp_path: Path
) -> None:
    """macOS takes them apart in names of files, and other systems do not."""
    name = "crème/brûlée.png"
    save(tmp_path / inside / unicodedata.normalize(written, name), 0)
    (tmp_path / "val.txt").write_text(unicodedata.normalize(listed, f"{name} 3\n"), "utf-8")
    found = open_dataset(tmp_path, 10)
    assert found.labels == (3,)
    assert found.paths[0].is_file()
