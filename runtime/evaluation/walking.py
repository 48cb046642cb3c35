"""Which files of a folder are images: links followed, system folders and hidden files left out."""

from __future__ import annotations

import mimetypes
import os
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mimiq.errors import BadInput
from mimiq.files import exhausted

# Folders that systems and archivers leave beside the user's own.
_FOREIGN = frozenset(
    ("__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found")
)


def is_foreign(name: str) -> bool:
    """Whether a folder of this name is a system's, or hidden, and holds nobody's images."""
    return name.startswith(".") or name.lower() in _FOREIGN


def composed(name: str) -> str:
    """A name with each accented letter as one character; macOS takes them apart."""
    return unicodedata.normalize("NFC", name)


@dataclass(frozen=True)
class ClassFolders:
    """Class folders by where they really are, and what lies above them.

    Attributes:
        real: each class folder, links resolved.
        above: the root, and every folder that it or a class folder lies in: images below those are
            of many classes.
    """

    real: frozenset[Path]
    above: frozenset[Path]

    @classmethod
    def of(cls, root: Path, folders: list[Path]) -> ClassFolders:
        """Resolve class folders: each somewhere of its own, and none above the others.

        Raises:
            BadInput: images would have two classes, for a folder is a link to the root, to what
                the root lies in, or to where another one is.
        """
        top = root.resolve()
        places: dict[Path, Path] = {}
        for folder in folders:
            real = folder.resolve()
            if top.is_relative_to(real):
                raise BadInput(
                    f"{folder} is a link to {real}, where the other classes are too.",
                    "Remove the link, or point it to the images of its class alone.",
                )
            if real in places:
                raise BadInput(
                    f"{places[real]} and {folder} are the same folder, whose images would have two "
                    "classes.",
                    "Remove one of them, or point it to images of its own.",
                )
            places[real] = folder
        above = frozenset((top, *top.parents)).union(*(path.parents for path in places))
        return cls(frozenset(places), above)

    def may_enter(self, real: Path, own: Path) -> bool:
        """Whether what lies in a folder is of the class ``own``, and of no other or of all."""
        nearest = next((path for path in (real, *real.parents) if path in self.real), None)
        return nearest == own or (nearest is None and real not in self.above)


def images_below(
    folder: Path, suffixes: frozenset[str], classes: ClassFolders | None = None
) -> tuple[list[Path], Counter[str]]:
    """Every image in a folder and below it, links followed, in the order of their paths.

    Args:
        folder: where to look.
        suffixes: of the files that are taken, in lower case.
        classes: where ``folder`` is one of these, links to the others and upwards are left out.

    Returns:
        The files; and how many others look like images by their suffix, by suffix.

    Raises:
        BadInput: a folder cannot be listed; its images would be missing without a word.
    """
    # ImageNet trees are often made of links; a link that points upwards must not loop.
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    own = folder.resolve()
    visited = {own}
    for parent, subfolders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        here = Path(parent)
        fresh = []
        for name in sorted(subfolders):
            if is_foreign(name):
                continue
            real = (here / name).resolve()
            if real not in visited and (classes is None or classes.may_enter(real, own)):
                visited.add(real)
                fresh.append(name)
        subfolders[:] = fresh
        for name in names:
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                continue
            if suffix in suffixes:
                found.append(here / name)
            elif (mimetypes.guess_type(f"x{suffix}")[0] or "").startswith("image/"):
                left_out[suffix] += 1
    return sorted(found), left_out


def unlisted(folder: str | Path, error: OSError) -> Exception:
    """The error for a folder whose files cannot be told."""
    doing = f"the folder {folder} cannot be listed"
    return exhausted(error, doing) or BadInput(
        f"The folder {folder} cannot be listed: {error.strerror or error}.",
        "Check its permissions, or move it away.",
    )


def _refuse(error: OSError) -> NoReturn:
    raise unlisted(error.filename, error) from error


def left_out_note(left_out: Counter[str]) -> str | None:
    """A sentence that names the images that are not read; None where there are none."""
    if not left_out:
        return None
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left_out.items()))
    return (
        f"Left out are files of kinds that are not read: {kinds}. Convert them to JPEG or PNG to "
        "have them counted."
    )
