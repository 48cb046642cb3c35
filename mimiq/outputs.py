"""Places that are written to and folders that are read, looked at before the work."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mimiq.durable import beside, is_temporary
from mimiq.errors import BadInput
from mimiq.files import full, is_full, read_text

BUNDLE_MANIFEST = "manifest.json"
BUNDLE_FAMILY = "mimiq-bundle/"  # of formats
# What desktops leave in every folder that they show.
_LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


def require_new(
    out: Path, overwrite: bool, suffix: str | None = None, names: Collection[str] = ()
) -> None:
    """Refuse an output that is in the way, or cannot be written, before the work and not after it.

    Args:
        out: the folder or file to be.
        overwrite: whether one of our own may be replaced.
        suffix: of a file to be, by which one of our own is known (``.onnx``); None for a folder.
        names: of all files of the folder to be; none for a bundle.

    Raises:
        BadInput: naming what stands in the way.
    """
    _require_name(out)
    if os.path.lexists(out):
        if not overwrite:
            raise BadInput(
                f"{out} exists already.",
                "Choose another name with `out`, or replace it with `overwrite=True`.",
            )
        if suffix is None:
            require_replaceable(out, names)
        elif not out.is_file() or out.suffix != suffix:
            raise BadInput(
                f"{out} is no {suffix} file, so it will not be replaced.",
                "Choose another name with `out`.",
            )
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    try:
        probe = beside(parent / out.name)  # not os.access: root may do everything, even in /proc
        probe.touch()
        probe.unlink()
    except OSError as error:
        if is_full(error):
            raise full(out) from error
        raise BadInput(
            f"{out} cannot be written: {parent} is no folder that you may write to.",
            "Choose another place with `out`.",
        ) from error


def require_replaceable(out: Path, names: Collection[str] = ()) -> None:
    """Refuse to replace anything but an empty folder or one of ours.

    Args:
        out: what is there.
        names: of all files of a folder of ours; none for a bundle, of whatever version, which
            lists its own.

    Raises:
        BadInput: ``out`` is something else, or holds a file that is not of these.
    """
    if out.is_dir() and not any(out.iterdir()):
        return
    ours: Collection[str] | None = _listed(out)
    if names:
        ours = names if all((out / name).is_file() for name in names) else None
    if ours is None:
        what = f"a folder of {', '.join(sorted(names))}" if names else "a bundle"
        raise BadInput(
            f"{out} is not {what}, so it will not be replaced.",
            "Choose another name with `out`, or remove it yourself.",
        )
    for folder, _, files in os.walk(out):
        for name in files:
            inside = Path(folder, name).relative_to(out)
            known = inside.as_posix() in ours or any(map(is_temporary, inside.parts))
            if not known and name not in _LITTER:
                raise BadInput(
                    f"{out} holds {inside}, which mimiq did not write and would be lost.",
                    "Move it elsewhere, or choose another name with `out`.",
                )


def _require_name(out: Path) -> None:
    """Refuse a name that no file can have, or that no report can show."""
    try:
        str(out).encode()
        os.lstat(out)
    except UnicodeEncodeError as error:
        raise BadInput(
            f"The name {os.fsencode(out)!r} is not UTF-8.", "Choose another name with `out`."
        ) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise BadInput(
                f"The name {out} is too long for this file system.",
                "Choose another name with `out`.",
            ) from error


def require_folder(path: Path, named: str, what: str) -> None:
    """Refuse a folder that cannot be listed.

    Args:
        path: the folder.
        named: how the error names it: its parameter and its path.
        what: what it should be.

    Raises:
        BadInput: it does not exist, is a file, or may not be read.
    """
    if not path.is_dir():
        problem = "is a file" if path.exists() else "does not exist"
        raise BadInput(f"{named} {problem}; {what} is needed.", "Check the path.")
    if not os.access(path, os.R_OK | os.X_OK):
        raise BadInput(f"{named} may not be read.", "Check its permissions.")


def bundle_manifest(folder: Path) -> Mapping[str, Any] | None:
    """What the manifest of a bundle of any version says; None where there is none.

    Others' manifests have this name, too.
    """
    try:
        found = json.loads(read_text(folder / BUNDLE_MANIFEST))
    except (OSError, ValueError, RecursionError):
        return None
    ours = isinstance(found, Mapping) and str(found.get("format")).startswith(BUNDLE_FAMILY)
    return found if ours else None


def _listed(folder: Path) -> set[str] | None:
    """The files of a bundle, its manifest included; None for what is no bundle."""
    files = (bundle_manifest(folder) or {}).get("files")
    return {BUNDLE_MANIFEST, *files} if isinstance(files, Mapping) else None
