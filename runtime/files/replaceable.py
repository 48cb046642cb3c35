"""Whether a folder may be replaced: only one of ours, without what someone else put there."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from mimiq.durable import is_temporary
from mimiq.errors import BadInput
from mimiq.runtime.files.json_objects import read_json
from mimiq.runtime.manifest import FORMAT, MANIFEST

_FAMILY = FORMAT.partition("/")[0] + "/"
# What desktops leave in every folder that they show.
_LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


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
    listed = _listed(out)
    if names:
        listed = set(names) if all((out / name).is_file() for name in names) else None
    if listed is None:
        what = f"a folder of {', '.join(sorted(names))}" if names else "a bundle"
        raise BadInput(
            f"{out} is not {what}, so it will not be replaced.",
            "Choose another name with `out`, or remove it yourself.",
        )
    for folder, _, names in os.walk(out):
        for name in names:
            inside = Path(folder, name).relative_to(out)
            ours = inside.as_posix() in listed or any(map(is_temporary, inside.parts))
            if not ours and name not in _LITTER:
                raise BadInput(
                    f"{out} holds {inside}, which mimiq did not write and would be lost.",
                    "Move it elsewhere, or choose another name with `out`.",
                )


def _listed(folder: Path) -> set[str] | None:
    """The files of a bundle, its manifest included; None for what is no bundle."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = read_json(path)
    except BadInput:
        return None
    files = manifest.get("files")
    if not str(manifest.get("format")).startswith(_FAMILY) or not isinstance(files, Mapping):
        return None
    return {MANIFEST, *files}
