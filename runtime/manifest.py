"""The manifest of a bundle: its keys, its digest, and the reading of it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from mimiq.config.precision import Precision
from mimiq.errors import BadInput
from mimiq.files import FileEntry
from mimiq.outputs import BUNDLE_FAMILY, BUNDLE_MANIFEST, bundle_manifest
from mimiq.runtime.files.json_objects import COMPILE_AGAIN, as_object, pretty_json, read_json
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.runtime.session import Output
from mimiq.version import __version__

FORMAT = BUNDLE_FAMILY + "1"
MANIFEST = BUNDLE_MANIFEST

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


@dataclass(frozen=True)
class Manifest(Mapping[str, Any]):
    """What ``manifest.json`` says, by names with types; as a mapping, its entries as stored.

    Entries that this version does not know are kept, and written again with the others.

    Attributes:
        entries: the JSON object.
    """

    entries: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:
        return self.entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def mimiq(self) -> str:
        """The version that wrote it."""
        return str(self.entries["mimiq"])

    @property
    def created(self) -> str:
        """When: UTC, ISO 8601."""
        return str(self.entries["created"])

    @property
    def digest(self) -> str:
        """SHA-256 of all the rest."""
        return str(self.entries["manifest_sha256"])

    @property
    def model(self) -> Mapping[str, Any]:
        """What the network is, as :meth:`mimiq.models.LoadedModel.describe` gives it."""
        return as_object(self.entries["model"])

    @property
    def model_name(self) -> str:
        """The model as the user wrote it when compiling."""
        return str(self.model.get("name", "unnamed"))

    @property
    def architecture(self) -> str | None:
        """The network's name in the library that it comes from."""
        found = self.model.get("architecture")
        return None if found is None else str(found)

    @property
    def num_classes(self) -> int:
        return int(self.model["num_classes"])

    @property
    def output(self) -> Output:
        """What the network answers with; ``logits`` where it was written before one could ask."""
        return "embedding" if self.model.get("output") == "embedding" else "logits"

    @property
    def width(self) -> int:
        """Numbers in an answer."""
        if self.output == "embedding":
            return self.tokens * int(self.model["embedding_dim"])
        return self.num_classes

    @property
    def tokens(self) -> int:
        """Patch tokens in an embedding, one behind the other; 1 where it is pooled."""
        return int(self.model.get("tokens", 1))

    @property
    def parameters(self) -> int | None:
        """How many numbers the network has, where that was written."""
        found = self.model.get("parameters")
        return None if found is None else int(found)

    @property
    def untrained(self) -> bool:
        """Random weights: good for latency alone."""
        return bool(self.model.get("untrained", False))

    @property
    def weights_sha256(self) -> str | None:
        found = self.model.get("weights_sha256")
        return None if found is None else str(found)

    @property
    def precision(self) -> Precision:
        """What was asked for.

        Raises:
            KeyError, TypeError, ValueError: the entry is none.
        """
        return Precision.from_json(dict(self.entries["precision"]))

    @property
    def preprocessing(self) -> Preprocessing:
        """From image file to network input.

        Raises:
            KeyError, TypeError, ValueError: the entry is none.
        """
        return Preprocessing.from_json(self.entries["preprocessing"])

    @property
    def files(self) -> Mapping[str, FileEntry]:
        """Every file of the bundle but this one, by its name."""
        return {name: FileEntry.from_json(entry) for name, entry in self.entries["files"].items()}

    def tensors(self, side: Literal["inputs", "outputs"]) -> Sequence[Mapping[str, Any]]:
        """The graph's inputs or outputs: ``name``, ``dtype`` and ``shape`` of each."""
        found: Sequence[Mapping[str, Any]] = self.entries[side]
        return found

    @property
    def calibration(self) -> Mapping[str, Any]:
        """The manifest of the set that it was calibrated on; empty where none is told of."""
        return as_object(self.entries.get("calibration"))

    @property
    def calibration_kind(self) -> str | None:
        """``synthetic``, ``psaq``, ``noise`` or ``folder``."""
        found = self.calibration.get("kind")
        return None if found is None else str(found)

    @property
    def recipes(self) -> Mapping[str, Any]:
        """How images were made, ranges chosen and the network tuned; empty where not told."""
        return as_object(self.entries.get("recipes"))

    @property
    def raised(self) -> Mapping[str, Any]:
        """What a budget raised to more bits, and why; empty where there was no budget."""
        return as_object(self.entries.get("raised"))

    @property
    def seed(self) -> int:
        """
        Raises:
            KeyError: it does not say.
        """
        return int(self.entries["seed"])

    @property
    def software(self) -> Mapping[str, str]:
        """Version by name of what made it."""
        return as_object(self.entries.get("software"))

    @property
    def hardware(self) -> Mapping[str, Any]:
        """Of the host that it was made on, see :func:`mimiq.runtime.host.describe_hardware`."""
        return as_object(self.entries.get("hardware"))

    def to_json(self) -> dict[str, Any]:
        return dict(self.entries)


def read_manifest(folder: Path) -> Manifest:
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
    return Manifest(manifest)


def bundle_around(path: Path) -> Path | None:
    """The innermost bundle that is ``path`` or that it lies in; None where there is none."""
    real = Path(os.path.realpath(path))
    folders = (real, *real.parents)
    return next((folder for folder in folders if bundle_manifest(folder) is not None), None)


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
    return asdict(FileEntry.of(path))


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
