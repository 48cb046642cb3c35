"""Labelled images in folders: a ``val.txt``, or a folder a class; which is which, and any doubt."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from mimiq.errors import BadInput
from mimiq.runtime.evaluation.datasets import ImageFiles, spread
from mimiq.runtime.evaluation.listing import LISTING, has_listing, read_listing
from mimiq.runtime.evaluation.walking import (
    ClassFolders,
    composed,
    images_below,
    is_foreign,
    left_out_note,
    unlisted,
)
from mimiq.runtime.image_files import suffixes_for, wanted_files

_NUMBER = re.compile(r"[0-9]{1,9}")
_WORDNET = re.compile(r"n[0-9]{8}")  # ImageNet's folders, whose order is that of its classes


def open_dataset(
    path: str | Path,
    num_classes: int,
    limit: int | None = None,
    *,
    labels: Sequence[str] | None = None,
    channels: int = 3,
) -> ImageFiles:
    """Find labelled images: a folder with a ``val.txt``, or an ImageNet-style tree.

    A ``val.txt`` holds lines of ``file index``; the files lie beside it or in ``images/``. In a
    tree, each class is a folder of images. Its index is that of the label of its name, where all
    are labels; its number, where all are numbers; else its place in natural order (``class2``
    before ``class10``), as timm has it, for which every class must have its folder. What is in
    doubt, or left out, stands in ``notes``.

    Args:
        path: the folder.
        num_classes: of the model; every index must be below it.
        limit: at most so many images, evenly spread over the whole.
        labels: the model's class names in order, where they are known.
        channels: of the model; images of other than 1 or 3 are ``.npy`` files.

    Raises:
        BadInput: no folder, no images, a malformed line, an index out of range, a missing file,
            one of two classes, or a folder that is no class; the message names the place.
    """
    root = Path(path)
    if path == "" or not root.is_dir():
        place = path or "an empty path"  # which would mean the current folder
        raise BadInput(f"There is no folder of images at {place}.", "Check the path.")
    if limit is not None and limit < 1:
        raise BadInput(f"A limit of {limit} images leaves none.", "Ask for 1 or more.")
    if has_listing(root):
        found = read_listing(root / LISTING, num_classes)
    else:
        found = _walk(root, num_classes, labels, channels)
    return spread(found, limit)


def _walk(root: Path, num_classes: int, known: Sequence[str] | None, channels: int) -> ImageFiles:
    try:
        entries = sorted(root.iterdir(), key=lambda entry: entry.name)
        folders = [entry for entry in entries if entry.is_dir() and not is_foreign(entry.name)]
    except OSError as error:
        raise unlisted(error.filename or root, error) from error
    if not folders:
        raise BadInput(
            f"{root} has neither class folders nor a {LISTING}.",
            f"Give a folder of class folders, or add a {LISTING} with one 'file index' a line.",
        )
    paths: list[Path] = []
    labels: list[int] = []
    left_out: Counter[str] = Counter()
    empty: list[Path] = []
    suffixes = suffixes_for(channels)
    indices, doubt = _class_indices(root, [folder.name for folder in folders], num_classes, known)
    _require_distinct(folders, indices)
    classes = ClassFolders.of(root, folders)
    for folder, label in sorted(zip(folders, indices, strict=True), key=lambda pair: pair[1]):
        files, others = images_below(folder, suffixes, classes)
        paths += files
        labels += [label] * len(files)
        left_out += others
        empty += [] if files else [folder]
    if not paths:
        raise BadInput(f"The class folders in {root} hold no images.", wanted_files(channels))
    loose = [
        entry
        for entry in set(entries).difference(folders)
        if entry.suffix.lower() in suffixes and not entry.name.startswith(".")
    ]
    said = (doubt, _empty_note(empty), _loose_note(root, len(loose)), left_out_note(left_out))
    notes = tuple(note for note in said if note is not None)
    return ImageFiles(tuple(paths), tuple(labels), num_classes, notes)


def _require_distinct(folders: list[Path], indices: list[int]) -> None:
    first: dict[int, Path] = {}
    for folder, index in zip(folders, indices, strict=True):
        if first.setdefault(index, folder) != folder:
            raise BadInput(
                f"{first[index]} and {folder} are both class {index}.",
                "Rename one of them, or move the images of both into one.",
            )


def _empty_note(empty: list[Path]) -> str | None:
    if not empty:
        return None
    if len(empty) == 1:
        return f"{empty[0]} holds no image that is read; its class is not measured."
    return (
        f"{empty[0]} and {len(empty) - 1} more hold no image that is read; their classes are not "
        "measured."
    )


def _loose_note(root: Path, count: int) -> str | None:
    if not count:
        return None
    images = f"{count} images lie" if count > 1 else "1 image lies"
    return f"{images} in {root} beside the class folders, without a class: not measured."


def _class_indices(
    root: Path, names: list[str], num_classes: int, known: Sequence[str] | None
) -> tuple[list[int], str | None]:
    """The class of each folder, and what is in doubt about it, in a sentence."""
    exact, folded = _by_label(known or (), composed), _by_label(known or (), _folded)
    if all(composed(name) in exact for name in names):
        return [exact[composed(name)] for name in names], _absent(root, names, num_classes)
    if all(map(_NUMBER.fullmatch, names)):
        return _numbered(root, names, num_classes), _absent(root, names, num_classes)
    if _all_or_none(root, names, lambda name: _folded(name) in folded, "one of its labels"):
        return [folded[_folded(name)] for name in names], _absent(root, names, num_classes)
    _all_or_none(root, names, lambda name: bool(_NUMBER.fullmatch(name)), "a number")
    if len(names) != num_classes:
        raise BadInput(
            f"{root} has {len(names)} class folders, but the model has {num_classes} classes: "
            "which folder is which class cannot be told.",
            f"Add a {LISTING} with one 'file index' a line, or name the folders by class index.",
        )
    ordered = sorted(names, key=_natural)
    place = {name: index for index, name in enumerate(ordered)}
    doubt = None
    if ordered != names or (known is not None and not all(map(_WORDNET.fullmatch, names))):
        doubt = (
            f"The folders of {root} are taken in their natural order, {ordered[0]} as class 0 to "
            f"{ordered[-1]} as class {num_classes - 1}, for their names are neither labels of the "
            f"model nor numbers. If that is wrong, name them by class index or add a {LISTING}."
        )
    return [place[name] for name in names], doubt


def _all_or_none(root: Path, names: list[str], fits: Callable[[str], bool], what: str) -> bool:
    """Whether all folders fit.

    Raises:
        BadInput: half of them or more do, and others do not: their order would mean nothing.
    """
    strays = [name for name in names if not fits(name)]
    if strays and 2 * len(strays) <= len(names):
        more = f" and {len(strays) - 1} more" if len(strays) > 1 else ""
        raise BadInput(
            f"{root / strays[0]}{more} is no class of the model: its name is not {what}, as those "
            "of the other folders are.",
            f"Rename it, move it out of {root}, or add a {LISTING} with one 'file index' a line.",
        )
    return not strays


def _by_label(known: Sequence[str], fold: Callable[[str], str]) -> dict[str, int]:
    # Two labels of one name, as ImageNet's two cranes, name no class.
    count = Counter(map(fold, known))
    return {fold(label): i for i, label in enumerate(known) if count[fold(label)] == 1}


def _numbered(root: Path, names: list[str], num_classes: int) -> list[int]:
    indices = [int(name) for name in names]
    for name, index in zip(names, indices, strict=True):
        if index >= num_classes:
            raise BadInput(
                f"{root / name}: class {name} is out of range for a model with {num_classes} "
                "classes.",
                f"Folders named by numbers count from 0 to {num_classes - 1}.",
            )
    return indices


def _absent(root: Path, names: list[str], num_classes: int) -> str | None:
    """That some classes have no folder, and what that may mean."""
    if len(names) >= num_classes:
        return None
    count = f"{len(names)} folders" if len(names) > 1 else "1 folder"
    note = f"{root} has {count} for {num_classes} classes; the others are not measured."
    if all(_NUMBER.fullmatch(name) and int(name) > 0 for name in names):
        note += " There is no folder 0: if yours count from 1, every image has a wrong class."
    return note


def _natural(name: str) -> list[tuple[int, str]]:
    """A key by which numbers within names count as numbers, whatever the case of the letters."""
    parts = re.split(r"([0-9]+)", name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts] + [(-2, name)]


def _folded(name: str) -> str:
    # Composed again: folding takes some letters apart.
    return composed(" ".join(composed(name).replace("_", " ").casefold().split()))
