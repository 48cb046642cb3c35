"""Which files of a folder are images: links followed, system folders and hidden files left out."""

from __future__ import annotations

import mimetypes
import os
from collections import Counter
from pathlib import Path

# Folders that systems and archivers leave beside the user's own.
_FOREIGN = frozenset(
    ("__macosx", "__pycache__", "@eadir", "$recycle.bin", "system volume information", "lost+found")
)


def is_foreign(name: str) -> bool:
    """Whether a folder of this name is a system's, or hidden, and holds nobody's images."""
    return name.startswith(".") or name.lower() in _FOREIGN


def images_below(folder: Path, suffixes: frozenset[str]) -> tuple[list[Path], Counter[str]]:
    """Every image in a folder and below it, links followed, in the order of their paths.

    Args:
        folder: where to look.
        suffixes: of the files that are taken, in lower case.

    Returns:
        The files; and how many others look like images by their suffix, by suffix.
    """
    # ImageNet trees are often made of links; a link that points upwards must not loop.
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    visited = {folder.resolve()}
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        here = Path(parent)
        fresh = []
        for name in sorted(subfolders):
            real = (here / name).resolve()
            if real not in visited and not is_foreign(name):
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


def left_out_note(left_out: Counter[str]) -> str | None:
    """A sentence that names the images that are not read; None where there are none."""
    if not left_out:
        return None
    kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left_out.items()))
    return (
        f"Left out are files of kinds that are not read: {kinds}. Convert them to JPEG or PNG to "
        "have them counted."
    )
