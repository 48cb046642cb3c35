"""The manifest of a bundle: its keys, its digest, and the reading of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from mimiq.errors import BadInput
from mimiq.version import __version__

FORMAT = "mimiq-bundle/1"
MANIFEST = "manifest.json"

_REQUIRED: dict[str, type] = {
    "mimiq": str,
    "created": str,
    "model": dict,
    "precision": dict,
    "preprocessing": dict,
    "inputs": list,
    "outputs": list,
    "files": dict,
}
COMPILE_AGAIN = "Compile the model again with mimiq-compile."


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read ``manifest.json`` and check its form and its digest.

    Raises:
        BadInput: no bundle, broken JSON, another format version, a missing key, or edited.
    """
    path = folder / MANIFEST
    if not path.is_file():
        problem = f"{folder} is not a bundle: it has no {MANIFEST}."
        if not folder.is_dir():
            problem = f"There is no bundle at {folder}."
        raise BadInput(problem, "Give the folder that mimiq-compile wrote.")
    manifest = read_json(path)
    if manifest.get("format") != FORMAT:
        raise BadInput(
            f"{path} has format {manifest.get('format')!r}; this mimiq reads {FORMAT!r}.",
            "Compile the model again, or open the bundle with the mimiq that wrote it "
            f"({manifest.get('mimiq', 'unknown')}).",
        )
    for key, kind in _REQUIRED.items():
        if not isinstance(manifest.get(key), kind):
            raise BadInput(f"{path} lacks {key!r} as a {kind.__name__}.", COMPILE_AGAIN)
    if manifest.get("manifest_sha256") != manifest_digest(manifest):
        raise BadInput(
            f"{path} was edited: its content does not match its own digest.",
            "Restore it, or compile the model again.",
        )
    return manifest


def complete_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The caller's entries with format, version and time; software and hardware where absent."""
    from mimiq.runtime.host import describe_hardware, describe_software

    return {
        "format": FORMAT,
        "mimiq": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": manifest.get("software") or describe_software(),
        "hardware": manifest.get("hardware") or describe_hardware(),
        **{k: v for k, v in manifest.items() if k not in ("software", "hardware")},
    }


def signed_manifest(manifest: Mapping[str, Any]) -> str:
    """The text of ``manifest.json``, with its digest.

    Raises:
        BadInput: a value has no form in JSON.
    """
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    # Through JSON once, so that the digest covers what a reader will see: tuples become lists.
    plain = json.loads(pretty_json(rest))
    return pretty_json({**plain, "manifest_sha256": manifest_digest(plain)})


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of everything but the digest itself."""
    rest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def file_entry(path: Path) -> dict[str, Any]:
    """What the manifest says of a file: ``{"sha256": …, "bytes": …}``."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def check_name(name: str) -> str:
    """A file's name inside a bundle, as the manifest writes it: relative, with forward slashes.

    Raises:
        BadInput: it leads out of the bundle, or is the manifest's own.
    """
    path = PurePosixPath(name)
    leads_out = not path.parts or path.is_absolute() or ".." in path.parts
    if leads_out or "\\" in name or ":" in name or str(path) != name or name == MANIFEST:
        raise BadInput(
            f"{name!r} cannot name a file in a bundle.", "Write a relative path with '/'."
        )
    return name


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BadInput: the file cannot be read, or holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.", COMPILE_AGAIN) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON
        raise BadInput(f"{path} is not valid JSON: {error}.", COMPILE_AGAIN) from error
    if not isinstance(data, dict):
        raise BadInput(f"{path} holds no JSON object.", COMPILE_AGAIN)
    return data


def pretty_json(data: Mapping[str, Any]) -> str:
    """JSON for people to read.

    Raises:
        BadInput: a value has no form in JSON.
    """
    try:
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"A manifest or report cannot be written as JSON: {error}.",
            "Use text, finite numbers, lists and dictionaries.",
        ) from error
