"""Which backend is the fastest for a bundle on a CPU: measured once, and kept beside the bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiq.errors import BadInput
from mimiq.files import exhausted, read_text, write_whole
from mimiq.runtime.files.json_objects import pretty_json
from mimiq.runtime.files.json_shapes import Misfit, count, list_of, record, text
from mimiq.runtime.host import cpu_name, instruction_sets, usable_cores
from mimiq.runtime.latency.measure import LatencyRow
from mimiq.runtime.report.shape import LATENCY

if TYPE_CHECKING:
    from mimiq.runtime.bundle import Bundle

FORMAT = "mimiq-tuned/1"
_SUFFIX = ".tuned.json"
_AGAIN = "Remove the file, and measure again with mimiq bench."
_HOST = record({"instruction_sets": list_of(text)}, {"cpu": text})
_MEASURED = list_of(
    record(
        {
            "host": _HOST,
            "threads": count(1),
            "created": text,
            "software": record({}),
            "best": text,
            "rows": list_of(LATENCY, 1),
            "notes": list_of(text),
        }
    )
)


@dataclass(frozen=True)
class Host:
    """A CPU, as far as it decides what is fastest.

    Attributes:
        cpu: its name, or None.
        instruction_sets: those that matter for quantised inference.
    """

    cpu: str | None
    instruction_sets: tuple[str, ...]

    @staticmethod
    def here() -> Host:
        return Host(cpu_name(), tuple(instruction_sets()))


@dataclass(frozen=True)
class Measured:
    """What was measured on one host with one number of threads.

    Attributes:
        host: where.
        threads: of each backend.
        created: when, in ISO 8601.
        software: versions by distribution.
        best: name of the backend that was the fastest over all batch sizes.
        rows: every engine at every batch size; a bundle's are called by their backend's name.
        notes: what is to be said of it, in sentences.
    """

    host: Host
    threads: int
    created: str
    software: Mapping[str, str]
    best: str
    rows: tuple[LatencyRow, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rows": [row.to_json() for row in self.rows]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Measured:
        host = data["host"]
        return Measured(
            host=Host(host["cpu"], tuple(host["instruction_sets"])),
            threads=int(data["threads"]),
            created=str(data["created"]),
            software=dict(data["software"]),
            best=str(data["best"]),
            rows=tuple(LatencyRow.from_json(row) for row in data["rows"]),
            notes=tuple(map(str, data["notes"])),
        )


def place_of(bundle: Bundle) -> Path:
    """``NAME.mimiq.tuned.json``, beside the folder: the bundle itself stays what it is."""
    folder = bundle.path.resolve()
    return folder.with_name(folder.name + _SUFFIX)


def read(bundle: Bundle) -> tuple[Measured, ...]:
    """What was measured of this bundle; nothing where the file is absent, or of another bundle.

    Raises:
        BadInput: the file is broken.
    """
    path = place_of(bundle)
    try:
        data = json.loads(read_text(path))
        if data["manifest_sha256"] != bundle.digest:
            return ()
        _MEASURED(data["measured"], "measured")
        return tuple(Measured.from_json(entry) for entry in data["measured"])
    except FileNotFoundError:
        return ()
    except Misfit as error:
        raise BadInput(f"{path} cannot be used: {error}.", _AGAIN) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise exhausted(error, f"{path} cannot be read") or BadInput(
            f"{path} does not say what was measured: {type(error).__name__} {error}.",
            _AGAIN,
        ) from error


def keep(bundle: Bundle, found: Measured) -> Path:
    """Write it down, in the place of what was measured there with as many threads before.

    Raises:
        BadInput: the file cannot be written.
        EnvironmentLacks: the disk is full.
    """
    try:
        before = read(bundle)
    except BadInput:
        before = ()
    others = [m for m in before if (m.host, m.threads) != (found.host, found.threads)]
    content = {
        "format": FORMAT,
        "manifest_sha256": bundle.digest,
        "measured": [entry.to_json() for entry in (*others, found)],
    }
    write_whole(place_of(bundle), pretty_json(content))
    return place_of(bundle)


def fastest(bundle: Bundle, host: Host | None = None, threads: int | None = None) -> str | None:
    """Name of the backend that was measured to be the fastest here, or on a CPU of this kind.

    Args:
        bundle: that was measured.
        host: None for this one.
        threads: None for as many as this process may use; if it was measured with others alone,
            those tell.

    Returns:
        The name; None where nothing that tells was measured, or the file is broken.
    """
    wanted, count = host or Host.here(), threads or usable_cores()
    try:
        measured = read(bundle)
    except BadInput:
        return None
    alike = [m for m in measured if m.host == wanted] or [
        m for m in measured if m.host.instruction_sets == wanted.instruction_sets
    ]
    exact = [m for m in alike if m.threads == count]
    return (exact or alike)[-1].best if alike else None
