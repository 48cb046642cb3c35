"""Whether a folder may be replaced: only a bundle, and nothing that someone else put there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mimiq.durable import is_temporary
from mimiq.errors import BadInput
from mimiq.runtime.files.json_objects import read_json
from mimiq.runtime.manifest import FORMAT, MANIFEST

_FAMILY = FORMAT.partition("/")[0] + "/"
# What desktops leave in every folder that they show.
_LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


def require_replaceable(out: Path) -> None:
    """Refuse to replace anything but an empty folder or a bundle, of whatever version.

    Raises:
        BadInput: ``out`` is something else, or holds a file that its manifest does not list.
    """
    if out.is_dir() and not any(out.iterdir()):
        return
    listed = _listed(out)
    if listed is None:
        raise BadInput(
            f"{out} is not a bundle, so it will not be replaced.",
            "Choose another name with `out`, or remove it yourself.",
        )
    for folder, _, names in os.walk(out):
        for name in names:
            inside = Path(folder, name).relative_to(out)
            ours = inside.as_posix() in listed or any(map(is_temporary, inside.parts))
            if not ours and name not in _LITTER:
                raise BadInput(
                    f"{out} holds {inside}, which is no file of that bundle and would be lost.",
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
