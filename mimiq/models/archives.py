"""Zip archives that PyTorch writes, held against their own checksums: ``torch.load`` does not."""

from __future__ import annotations

import zipfile

_PIECE = 1 << 20


def damaged_entry(archive: zipfile.ZipFile) -> str | None:
    """The name of the first entry that is not as its checksum says; None where all are.

    Entries without a checksum pass: PyTorch writes none where it is told so.

    Raises:
        Exception: it is damaged otherwise; zipfile raises more than it says.
    """
    for entry in archive.infolist():
        if not entry.CRC:
            continue
        try:
            with archive.open(entry) as content:
                while content.read(_PIECE):  # at the end zipfile compares
                    pass
        except zipfile.BadZipFile:
            return entry.filename
    return None
