"""A ``val.txt``: labelled images by lines of ``file index``, each checked and found on the disk."""

from __future__ import annotations

import os
import re
from pathlib import Path

from mimiq.errors import BadInput
from mimiq.files import exhausted, regular_size
from mimiq.runtime.evaluation.datasets import ImageFiles
from mimiq.runtime.evaluation.walking import composed

LISTING = "val.txt"
_INDEX = re.compile(r"[+-]?[0-9]+")
_SHOWN = 100  # characters of a line

_Spellings = dict[Path, dict[str, str]]  # of folders: how the disk has each composed name


def has_listing(root: Path) -> bool:
    """Whether a folder has a ``val.txt``, be it one that cannot be read, as a broken link."""
    return os.path.lexists(root / LISTING)


def read_listing(listing: Path, num_classes: int) -> ImageFiles:
    """The images that a ``val.txt`` lists, each once.

    Raises:
        BadInput: it cannot be read or lists none, or naming the line that is malformed, is out of
            range, lists a file that is missing, or one that an earlier line gives another class.
    """
    found: dict[str, tuple[Path, int, int]] = {}  # by its path: the file, its class, its line
    spellings: _Spellings = {}
    again = 0
    for number, line in enumerate(_lines(listing), start=1):
        if not line.strip():
            continue
        place = f"{listing}, line {number}"
        name, index = _entry(line, place)
        if index is None or not 0 <= index < num_classes:
            raise BadInput(
                f"{place}: class {_short(line.split()[-1])} is out of range for a model with "
                f"{num_classes} classes.",
                f"Classes count from 0 to {num_classes - 1}; check that the listing is this "
                "model's.",
            )
        path = _beside(listing.parent, name, place, spellings)
        _, known, earlier = found.setdefault(os.path.normpath(path), (path, index, number))
        if known != index:
            raise BadInput(
                f"{place}: {_short(name)} has class {index}, and class {known} in line {earlier}.",
                "Keep the line that is right.",
            )
        again += earlier != number
    if not found:
        raise BadInput(f"{listing} lists no images.", "Write one 'file index' a line.")
    notes: tuple[str, ...] = ()
    if again:
        lines = f"{again} lines" if again > 1 else "1 line"
        notes = (f"{listing} repeats {lines}; every image counts once.",)
    paths, labels, _ = zip(*found.values(), strict=True)
    return ImageFiles(paths, labels, num_classes, notes)


def _lines(listing: Path) -> list[str]:
    try:
        regular_size(listing)
        # Windows' editors put a byte-order mark before UTF-8.
        return listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise exhausted(error, f"{listing} cannot be read") or BadInput(
            f"{listing} cannot be read: {error}.", "Write it as UTF-8 text."
        ) from error


def _entry(line: str, place: str) -> tuple[str, int | None]:
    """The file's name, which may hold blanks, and its class; None for one beyond all classes."""
    parts = line.strip().rsplit(None, 1)
    if len(parts) < 2 or not _INDEX.fullmatch(parts[1]):
        raise BadInput(
            f"{place}: {_short(line.strip())!r} is not of the form 'file index'.",
            "Write for example: ILSVRC2012_val_00000001.JPEG 65",
        )
    digits = parts[1].lstrip("+").lstrip("0") or "0"
    return parts[0], int(digits) if len(digits) < 10 else None


def _beside(folder: Path, name: str, place: str, spellings: _Spellings) -> Path:
    for parent in (folder, folder / "images"):
        try:
            for candidate in (parent / name, _spelled(parent, name, spellings)):
                if candidate.is_file():
                    return candidate
        except (OSError, ValueError):  # a name that is too long, or holds a zero byte
            continue
    raise BadInput(
        f"{place}: {_short(name)} is neither beside it nor in images/.",
        "Copy the image there, or remove the line.",
    )


def _spelled(parent: Path, name: str, spellings: _Spellings) -> Path:
    """The path as the disk has it, whose accented letters may be of other characters."""
    if name.isascii():
        return parent / name
    for part in Path(name).parts:
        if not (parent / part).exists():
            if parent not in spellings:
                spellings[parent] = {composed(entry): entry for entry in os.listdir(parent)}
            part = spellings[parent].get(composed(part), part)
        parent /= part
    return parent


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"
