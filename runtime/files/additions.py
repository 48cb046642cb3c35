"""Files on their way into a bundle whose folder must stay: moved in one by one, the manifest last.

A process that is killed in between leaves new files beside an old manifest. Whoever opens the
bundle next moves the rest, which lies whole in a folder of its own. Where the process is alive
after all, both move the same files to the same names.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from mimiq.durable import sync, written_beside
from mimiq.runtime.manifest import MANIFEST

READY = "ready"
"""Name of such a folder, as :func:`mimiq.durable.beside` makes it temporary."""


def move_in(ready: Path, folder: Path) -> None:
    """Move the files below ``ready`` to the same names in ``folder``, and remove it.

    Raises:
        OSError: they cannot be moved.
    """
    names = [file.relative_to(ready) for file in ready.rglob("*") if file.is_file()]
    for name in sorted(names, key=lambda name: name == Path(MANIFEST)):
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process was quicker
            os.replace(ready / name, place)
        sync(place.parent)  # the manifest comes when what it lists has its names for certain
    sync(folder)
    shutil.rmtree(ready, ignore_errors=True)


def finish_moves(folder: Path) -> None:
    """Finish what a process was moving in; where that cannot be done, the bundle stays as it is."""
    for ready in written_beside(folder / READY):
        with suppress(OSError):
            move_in(ready, folder)
