"""Weights that an ONNX file keeps in other files, found without an ONNX library."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

# A StringStringEntryProto {key: "location", value: …}, as every protobuf library writes it.
_LOCATION = b"\n\x08location\x12"


def external_files(model: Path) -> set[str]:
    """The names of the files that hold tensors of ``model``.

    Raises:
        OSError: it cannot be read.
    """
    if not model.stat().st_size:
        return set()  # an empty file cannot be mapped
    with model.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as file:
        return set(_locations(file))


def _locations(file: mmap.mmap) -> Iterator[str]:
    place = file.find(_LOCATION)
    while place >= 0:
        start = place + len(_LOCATION)
        length, shift = 0, 0
        while start < len(file) and shift < 35:  # a varint: seven bits a byte
            byte = file[start]
            length |= (byte & 127) << shift
            start, shift = start + 1, shift + 7
            if byte < 128:
                break
        yield file[start : start + length].decode(errors="replace")
        place = file.find(_LOCATION, start)
