"""Compiled networks on the user's disk, so that what was opened once opens quickly again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimiq.cache import default_cache_dir
from mimiq.errors import MimiqError
from mimiq.files import write_whole

_FOLDER, _SUFFIX = "openvino", ".network"
_MOST_BYTES = 2**30  # of all that is kept; what was used longest ago goes first


@dataclass(frozen=True)
class Kept:
    """A compiled network as it lies on the disk: a line of JSON, and what the library exported.

    Attributes:
        content: for ``openvino.Core.import_model``.
        described: what was written beside it.
    """

    content: bytes
    described: Mapping[str, Any]


def read(identity: Mapping[str, Any]) -> Kept | None:
    """What was kept under this identity; None where there is nothing, or it is damaged."""
    try:
        place = _place(identity)
        head, _, content = place.read_bytes().partition(b"\n")
        line: dict[str, Any] = json.loads(head)
        if hashlib.sha256(content).hexdigest() != line["sha256"]:
            return None
        os.utime(place)
        return Kept(content, line["described"])
    except (OSError, ValueError, KeyError, TypeError, MimiqError):
        return None


def write(identity: Mapping[str, Any], kept: Kept) -> None:
    """Keep a network. Where there is no place for it, it is not kept, and nothing is said."""
    line = {
        "sha256": hashlib.sha256(kept.content).hexdigest(),
        "described": kept.described,
        "identity": identity,
    }
    with suppress(OSError, MimiqError):
        place = _place(identity)
        write_whole(place, json.dumps(line).encode() + b"\n" + kept.content)
        _drop_oldest(place)


def _drop_oldest(newest: Path) -> None:
    sizes = {path: path.stat() for path in newest.parent.glob(f"*{_SUFFIX}") if path != newest}
    total = newest.stat().st_size
    for path in sorted(sizes, key=lambda path: -sizes[path].st_mtime):
        total += sizes[path].st_size
        if total > _MOST_BYTES:
            path.unlink(missing_ok=True)


def _place(identity: Mapping[str, Any]) -> Path:
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:24]
    return default_cache_dir() / _FOLDER / f"{key}{_SUFFIX}"
