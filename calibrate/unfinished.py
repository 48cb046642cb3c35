"""What is said of a calibration set of which batches are missing."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimiq.calibrate import storage
from mimiq.config.command import flag_for
from mimiq.errors import BadInput
from mimiq.runtime.files.json_objects import as_object

_NAMED = 4  # batches


def unfinished(path: Path, manifest: Mapping[str, Any]) -> BadInput:
    """The error that names the batches that are missing, and the command that makes them.

    Args:
        path: the set's folder.
        manifest: the set's own.
    """
    there = set(storage.shard_indices(path))
    absent = [index for index in range(_batches(manifest)) if index not in there]
    lacks = "" if not absent else f": {len(absent)} of {_batches(manifest)} batches are missing"
    names = ", ".join(storage.shard_path(path, index).name for index in absent[:_NAMED])
    more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
    return BadInput(
        f"Calibration set {path} is unfinished{lacks}{f' ({names}{more})' if names else ''}.",
        _next_step(path, manifest),
    )


def _batches(manifest: Mapping[str, Any]) -> int:
    """How many batches the finished set has; 0 where the manifest does not tell."""
    size = as_object(manifest.get("recipe")).get("batch_size")
    return -(-manifest["count"] // size) if isinstance(size, int) and size > 0 else 0


def _next_step(path: Path, manifest: Mapping[str, Any]) -> str:
    model, recipe = as_object(manifest.get("model")), as_object(manifest.get("recipe"))
    if manifest.get("kind") != "synthetic" or not model.get("name") or not recipe.get("name"):
        return "Run the command that made it again: it makes only what is missing."
    given = {
        "recipe": recipe["name"],
        "images": manifest["count"],
        "seed": manifest.get("seed", 0),
        "out": path,
    }
    flags = [part for name, value in given.items() for part in flag_for(name, value)]
    line = shlex.join(["mimiq", "synthesize", str(model["name"]), *flags])
    return f"Make what is missing, with the same weights: {line}"
