"""The file of results that ``accuracy.py`` fills row by row, and several of them joined."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accuracy_variants import PRECISIONS, VARIANTS

from mimiq.errors import BadInput

# What must be the same for all rows of a file.
_COMMON = ("recipe", "evaluation", "scale")
Result = dict[str, Any]


def row_key(network: str, row: str, variant: str, seed: int) -> str:
    return f"{network}/{row}/{variant}/{seed}"


def split_key(key: str) -> tuple[str, str, str, int]:
    """Network, row, variant and seed."""
    network, row, variant, seed = key.split("/")
    return network, row, variant, int(seed)


def opened(path: Path, asked: Mapping[str, Any]) -> Result:
    """The rows that a file holds already, or none.

    Args:
        path: the file; it need not be there.
        asked: what :func:`write` would write, without rows.

    Raises:
        BadInput: the file holds rows of another experiment, or of another network of that name.
    """
    if not path.is_file():
        return {**asked, "rows": {}}
    found = _read(path)
    _check_same(found, asked, path)
    return {**found, "networks": {**found["networks"], **asked["networks"]}}


def merged(paths: Sequence[Path]) -> Result:
    """All rows of several files; the first network of the first file leads.

    Raises:
        BadInput: a file that holds no results, files of different experiments, or a row that two
            of them hold with different results.
    """
    whole: Result | None = None
    for path in paths:
        part = _read(path)
        if whole is None:
            whole = part
            continue
        _check_same(whole, part, path)
        for key, row in part["rows"].items():
            if whole["rows"].get(key, row) != row:
                raise BadInput(
                    f"{path} holds another {key} than the files before it.",
                    "Delete the row from one of them.",
                )
        whole["networks"] = {**whole["networks"], **part["networks"]}
        whole["rows"] = {**whole["rows"], **part["rows"]}
    if whole is None:
        raise BadInput("There are no results to merge.", "Name one file or more.")
    return whole


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Write the file, its rows in order; an interruption leaves the former file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({**result, "rows": in_order(result)}, indent=1) + "\n")
    os.replace(temporary, path)


def in_order(result: Mapping[str, Any]) -> dict[str, Any]:
    """Rows by precision, variant, network and seed."""
    orders = (list(PRECISIONS), list(VARIANTS), list(result["networks"]))

    def place(key: str) -> tuple[int, int, int, int]:
        network, row, variant, seed = split_key(key)
        return orders[0].index(row), orders[1].index(variant), orders[2].index(network), seed

    return {key: result["rows"][key] for key in sorted(result["rows"], key=place)}


def _read(path: Path) -> Result:
    try:
        found: Result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}", "Give a file of results.") from error
    if not isinstance(found, dict) or not {"networks", "rows", *_COMMON} <= found.keys():
        raise BadInput(
            f"{path} holds no results of this script, or of an older one.",
            "Give another --output.",
        )
    return found


def _check_same(found: Mapping[str, Any], other: Mapping[str, Any], path: Path) -> None:
    differing = [name for name in _COMMON if found[name] != other[name]]
    for name in found["networks"].keys() & other["networks"].keys():
        if found["networks"][name] != other["networks"][name]:
            differing.append(f"network {name}")
    if differing:
        raise BadInput(
            f"{path} holds rows of another {' and '.join(differing)}.",
            "Give another file, or measure in one file what belongs together.",
        )
