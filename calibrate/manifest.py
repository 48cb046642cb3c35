"""The manifest of a calibration set: what made it, and whether two sets are the same."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mimiq.errors import BadInput
from mimiq.files import read_text, refuse_exhausted
from mimiq.runtime.image_files import InputShape, described
from mimiq.version import __version__

FORMAT = "mimiq-calibration/1"
KINDS = ("synthetic", "psaq", "noise", "folder")
MANIFEST = "manifest.json"

# What may differ between the run that began a set and the one that goes on with it.
_VOLATILE = frozenset({"created", "complete", "software", "hardware", "content_sha256"})


def make_manifest(
    kind: str,
    count: int,
    image_shape: int | InputShape,
    seed: int,
    recipe: Mapping[str, Any],
    model: Mapping[str, Any] | None = None,
    hardware: str | None = None,
) -> dict[str, Any]:
    """The manifest of a set yet to be made.

    Args:
        kind: one of :data:`KINDS`.
        count: images in the finished set.
        image_shape: (channels, height, width); a number is the side of a square RGB image.
        seed: of all randomness.
        recipe: everything else that decides the pixels, and the batch size (it decides the shards).
        model: the network the images were made from (its name and ``weights_sha256``).
        hardware: what it runs on; this host's processor by default.

    Raises:
        BadInput: an unknown kind, or a count, a size or a number of channels below 1.
    """
    if kind not in KINDS:
        raise BadInput(f"Calibration kind {kind!r} is unknown.", f"Use one of {', '.join(KINDS)}.")
    shape = (3, image_shape, image_shape) if isinstance(image_shape, int) else image_shape
    if count < 1 or min(shape) < 1:
        raise BadInput(
            f"A calibration set of {count} images of {described(shape)} cannot be made.",
            "Ask for at least one image of at least one pixel.",
        )
    return {
        "format": FORMAT,
        "kind": kind,
        "model": dict(model) if model is not None else None,
        "recipe": dict(recipe),
        "seed": seed,
        "count": count,
        **_shape_entries(shape),
        "software": {
            "mimiq": __version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "hardware": hardware or f"{platform.machine()} CPU",
    }


def shape_of(manifest: Mapping[str, Any]) -> InputShape:
    """Channels, height and width of a set's images.

    Raises:
        KeyError, TypeError, ValueError: the manifest does not tell.
    """
    size, channels = manifest["image_size"], manifest.get("channels", 3)
    height, width = (size, size) if isinstance(size, int) else size
    for value in (channels, height, width):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{value!r} is no number of channels or pixels")
    return channels, height, width


def _shape_entries(shape: InputShape) -> dict[str, Any]:
    """What the manifest says of it. Of square RGB images as before there were others."""
    channels, height, width = shape
    entries: dict[str, Any] = {"image_size": height if height == width else [height, width]}
    return entries if channels == 3 else entries | {"channels": channels}


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest in a folder, or None where there is none of ours.

    Raises:
        BadInput: it stands beside shards and cannot be read, or is of another version.
        EnvironmentLacks: too many files are open.
    """
    file = path / MANIFEST
    if not file.is_file():
        return None
    try:
        manifest = json.loads(read_text(file))
        form = str(manifest["format"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        refuse_exhausted(error, f"{file} cannot be read")
        if not any(path.glob("batch-*.npz")):
            return None  # somebody else's manifest.json
        raise BadInput(
            f"{file} cannot be read as a calibration manifest ({error}).",
            "Remove the folder and make the set again.",
        ) from error
    if not form.startswith("mimiq-calibration/"):
        return None
    count = manifest.get("count")
    if form != FORMAT or not isinstance(count, int) or count < 1 or not _has_shape(manifest):
        raise BadInput(
            f"{file} has format {form!r}, count {count} and image size "
            f"{manifest.get('image_size')}; this version reads {FORMAT!r} and positive sizes.",
            "Make the set again with this version.",
        )
    return dict(manifest)


def _has_shape(manifest: Mapping[str, Any]) -> bool:
    try:
        shape_of(manifest)
    except (KeyError, TypeError, ValueError):
        return False
    return True


def refuse_other(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise BadInput, naming the differing fields, unless both describe the same set."""
    plain = json.loads(json.dumps(dict(wanted)))  # tuples are lists on disk
    differing = sorted(
        key for key in (found.keys() | plain.keys()) - _VOLATILE if found.get(key) != plain.get(key)
    )
    if differing:
        verb = "differs" if len(differing) == 1 else "differ"
        raise BadInput(
            f"{path} holds another calibration set (its {', '.join(differing)} {verb}).",
            "Choose a new folder, or remove this one.",
        )
