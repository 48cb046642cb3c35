"""Zip archives that PyTorch writes, held against their own checksums: ``torch.load`` does not."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

_PIECE = 1 << 20


def damaged_entry(archive: Path | IO[bytes]) -> str | None:
    """The name of the first entry that is not as its checksum says; None where all are.

    Entries without a checksum pass: PyTorch writes none where it is told so.

    Raises:
        Exception: the archive has no directory, or it is damaged; zipfile raises more than it says.
    """
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            if not entry.CRC:
                continue
            try:
                with opened.open(entry) as content:
                    while content.read(_PIECE):  # at the end zipfile compares
                        pass
            except zipfile.BadZipFile:
                return entry.filename
    return None
