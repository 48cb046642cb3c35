"""Bundles that are compared, and what is recorded of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mimiq.errors import BadInput
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.host import host_name
from mimiq.runtime.latency import tuned
from mimiq.runtime.latency.measure import LatencyRow
from mimiq.runtime.latency.tune import UNQUANTIZED
from mimiq.runtime.report.report import Report

FULL = "full precision"


@dataclass(frozen=True)
class Timing:
    """One bundle on one host, with one backend, at one batch size.

    Attributes:
        where: host, backend and threads, for people; times of different places are not compared.
        batch: images a run.
        p50_ms: the median time of a run.
        throughput: images a second.
        speed: times as fast as full precision, in turns with it in the same run.
    """

    where: str
    batch: int
    p50_ms: float
    throughput: float
    speed: float


@dataclass(frozen=True)
class Candidate:
    """One bundle.

    Attributes:
        name: what it is called beside the others: its precision, or its folder's name.
        path: its folder.
        network: the name, and a hash of the weights: only bundles of one network are compared.
        report: what was measured.
        layers: how many Linears and convolutions there are of each kind, as ``mimiq inspect``
            counts them; empty where the graph was not read.
        timings: every recorded latency.
    """

    name: str
    path: str
    network: tuple[str, str | None]
    report: Report
    layers: Mapping[str, int] = field(default_factory=dict)
    timings: tuple[Timing, ...] = ()

    @property
    def bytes(self) -> int | None:
        return self.report.size.bytes

    @property
    def smaller(self) -> float | None:
        """How many times smaller than full precision."""
        return self.report.size.ratio

    def timing(self, where: str, batch: int) -> Timing | None:
        """What was recorded there, if anything."""
        found = (t for t in self.timings if (t.where, t.batch) == (where, batch))
        return next(found, None)

    def to_json(self) -> dict[str, Any]:
        accuracy, held_out, near = (
            self.report.accuracy,
            self.report.held_out,
            self.report.similarity,
        )
        return {
            "name": self.name,
            "bundle": self.path,
            "precision": self.report.label,
            "bytes": self.bytes,
            "smaller": self.smaller,
            "dataset": self.report.dataset,
            "accuracy": accuracy.to_json() if accuracy else None,
            "heldout": held_out.to_json() if held_out else None,
            "similarity": near.to_json() if near else None,
            "layers": dict(self.layers),
            "latency": [vars(timing) for timing in self.timings],
        }


def candidates(
    bundles: Sequence[Bundle], layers: Mapping[str, Mapping[str, int]] | None = None
) -> dict[tuple[str, str | None], list[Candidate]]:
    """Every bundle with what is recorded of it, by network, in the order they were given.

    Args:
        bundles: to compare; one that is given twice counts once.
        layers: of each bundle's path, its Linears by kind.

    Raises:
        BadInput: a bundle's report cannot be read, or there are fewer than two bundles.
    """
    once = list({bundle.path.resolve(): bundle for bundle in bundles}.values())
    if len(once) < 2:
        raise BadInput(
            f"{len(once) or 'No'} bundle is nothing to compare.",
            "Give two or more, of the same network at several precisions.",
        )
    grouped: dict[tuple[str, str | None], list[Bundle]] = {}
    for bundle in once:
        network = bundle.model_name, bundle.manifest.weights_sha256
        grouped.setdefault(network, []).append(bundle)
    return {
        network: [
            _candidate(bundle, name, network, (layers or {}).get(str(bundle.path), {}))
            for bundle, name in zip(alike, _names(alike), strict=True)
        ]
        for network, alike in grouped.items()
    }


def _candidate(
    bundle: Bundle, name: str, network: tuple[str, str | None], layers: Mapping[str, int]
) -> Candidate:
    report = bundle.report or Report()
    return Candidate(name, str(bundle.path), network, report, layers, _timings(bundle, report))


def _names(bundles: Sequence[Bundle]) -> list[str]:
    """Precisions, where these tell all bundles apart, else their folders' names, else paths."""
    labels = [bundle.precision_label.upper() for bundle in bundles]
    folders = [bundle.path.resolve().name.removesuffix(".mimiq") for bundle in bundles]
    paths = [str(bundle.path) for bundle in bundles]
    return next(names for names in (labels, folders, paths) if len(set(names)) == len(names))


def _timings(bundle: Bundle, report: Report) -> tuple[Timing, ...]:
    """Those of the compilation, and those that ``mimiq bench --tune`` left beside the bundle."""
    rows = report.latency
    found = [
        _timing(f"{row.backend}, {host_name(report.hardware, row.backend)}", row)
        for row in rows
        if row.engine != rows[0].engine
    ]
    for measured in tuned.read(bundle):
        host = f"{measured.host.cpu or 'an unknown CPU'}, threads: {measured.threads}"
        if not measured.rows[0].engine.endswith(UNQUANTIZED):
            continue  # full precision was not measured beside it
        found += [
            _timing(f"{row.engine}, {host}", row)
            for row in measured.rows
            if not row.engine.endswith(UNQUANTIZED)
        ]
    return tuple(found)


def _timing(where: str, row: LatencyRow) -> Timing:
    return Timing(where, row.batch, row.p50_ms, row.throughput, row.speedup)
